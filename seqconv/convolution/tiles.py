"""Parts of the online convolutions: convolution with its tail, ring buffers, memory that may be overwritten.

Signals are ``(batch, time, width)`` and impulse responses ``(channels, time)``; the channels of the impulse responses
repeat in the width, head after head.
"""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.non_finite import set_apart
from seqconv_kernels._core.operator.composed import Composed


def check_sizes(taps: Float[Tensor, "channels taps"], block: int) -> None:
    """Raise for an empty impulse response, and for blocks that cannot be doubled and halved evenly.

    Raises:
        ValueError: no taps, or a block that is not a power of two.
    """
    if taps.shape[1] == 0 or block < 1 or block & (block - 1):
        got = f"{taps.shape[1]} taps, block={block}"
        raise argument_error("init_online", got, "at least one tap, a power of two as block", "correct the sizes")


def head_of(taps: Float[Tensor, "channels taps"], reach: int, heads: int) -> Float[Tensor, "reach width"]:
    """The first ``reach`` taps, padded with zeros, time first, repeated for every head."""
    return F.pad(taps[:, :reach], (0, max(0, reach - taps.shape[1]))).T.repeat(1, heads)


def history(past: Float[Tensor, "batch ring width"], position: int) -> Float[Tensor, "batch inputs width"]:
    """All inputs before ``position`` that the ring buffer still holds, oldest first."""
    ring = past.shape[1]
    return past[:, :position] if position <= ring else past.roll(-(position % ring), dims=1)


def all_inputs(earlier: Tensor | None, *later: Tensor) -> Tensor | None:
    """``earlier`` and the inputs after it, where they are kept."""
    return None if earlier is None else torch.cat([earlier, *later], dim=1)


def convolve_after(
    v: Float[Tensor, "batch length width"],
    before: Float[Tensor, "batch inputs width"],
    taps: Float[Tensor, "channels taps"],
    echo: Float[Tensor, "batch later width"],
) -> tuple[Float[Tensor, "batch length width"], Float[Tensor, "batch lags width"]]:
    """One convolution of ``v`` after the inputs ``before``, and the echo of them all after ``v``.

    Args:
        echo: what still earlier inputs add, from the first output on.
    """
    y, later = _CONVOLVE_AFTER(v, before, taps, echo)
    return y, later


def _convolve_after(v: Tensor, before: Tensor, taps: Tensor, echo: Tensor) -> tuple[Tensor, Tensor]:
    length, lags = v.shape[1], taps.shape[1] - 1
    inputs = torch.cat([before, v], dim=1)
    inputs = inputs[:, max(0, inputs.shape[1] - length - lags) :]
    total = inputs.shape[1] + lags
    y = _convolve_circle(inputs, taps, _fast_size(total))[:, total - length - lags : total]
    y = y + _window(echo, 0, length + lags)
    return y[:, :length], y[:, length:]


def _convolve_circle(
    inputs: Float[Tensor, "batch time width"], taps: Float[Tensor, "channels taps"], size: int
) -> Float[Tensor, "batch size width"]:
    """Circular convolution of ``size``; the time goes last, where an FFT is faster."""
    if 0 in inputs.shape:
        return inputs.new_zeros(inputs.shape[0], size, inputs.shape[2])
    finite, non_finite = set_apart(inputs, 1)
    signal, spectrum = torch.fft.rfft(finite.transpose(1, 2), n=size), torch.fft.rfft(taps, n=size)
    by_head = cast(Tensor, writable(signal, taps).unflatten(1, (-1, taps.shape[0])))
    y: Tensor = torch.fft.irfft(by_head.mul_(spectrum).flatten(1, 2), n=size).transpose(1, 2)
    later = non_finite[:, -1:].expand(-1, size - non_finite.shape[1], -1)
    return y + torch.cat([non_finite, later], dim=1)


def writable(buffer: Tensor, *others: Tensor) -> Tensor:
    """``buffer`` itself where it may be overwritten, else a copy: autograd may still need the old values.

    Args:
        others: tensors that are about to be written into it.
    """
    recorded = torch.is_grad_enabled() and any(t.requires_grad for t in others)
    frozen = not torch.compiler.is_compiling() and buffer.is_inference() and not torch.is_inference_mode_enabled()
    return buffer.clone() if recorded or buffer.requires_grad or frozen else buffer


def window(signal: Float[Tensor, "batch time width"], start: int, length: int) -> Float[Tensor, "batch length width"]:
    """``length`` values from ``start`` on, zeros beyond the end."""
    part: Tensor = _WINDOW(signal, start, length)
    return part


def _window(signal: Tensor, start: int, length: int) -> Tensor:
    part = signal[:, start : start + length]
    return F.pad(part, (0, 0, 0, length - part.shape[1]))


def _fast_size(least: int) -> int:
    """The smallest size of the form 2^a, 3 2^a or 5 2^a that is at least ``least``."""
    return min(odd << max(0, -(-least // odd) - 1).bit_length() for odd in (1, 3, 5))


_CONVOLVE_AFTER = Composed(
    "convolve_after",
    _convolve_after,
    lambda v, before, taps, echo: (
        v.new_empty(v.shape),
        v.new_empty(v.shape[0], taps.shape[1] - 1, v.shape[2]),
    ),
)
_WINDOW = Composed(
    "window", _window, lambda signal, start, length: signal.new_empty(signal.shape[0], length, signal.shape[2])
)
