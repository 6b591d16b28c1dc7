"""What the online convolutions share: products of spectra, convolution with its tail, memory that may be overwritten.

Signals here are ``(batch, width, time)`` and impulse responses ``(channels, time)``; the channels of the impulse
responses repeat in the width, head after head.
"""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor

from seqconv_kernels.errors import refusal


def check_sizes(taps: Float[Tensor, "channels taps"], block: int) -> None:
    """Refuse an empty impulse response, and blocks that cannot be doubled and halved evenly.

    Raises:
        ValueError: no taps, or a block that is not a power of two.
    """
    if taps.shape[1] == 0 or block < 1 or block & (block - 1):
        got = f"{taps.shape[1]} taps, block={block}"
        raise refusal("init_online", got, "at least one tap, a power of two as block", "correct the sizes")


def head_of(taps: Float[Tensor, "channels taps"], reach: int, heads: int) -> Float[Tensor, "reach width"]:
    """The first ``reach`` taps, padded with zeros, time first, repeated for every head."""
    return F.pad(taps[:, :reach], (0, max(0, reach - taps.shape[1]))).T.repeat(1, heads)


def spectrum(taps: Float[Tensor, "channels taps"], size: int) -> Complex[Tensor, "channels frequencies"]:
    """Transform of at most ``size`` taps, padded with zeros to ``size``."""
    return cast(Tensor, torch.fft.rfft(taps, n=size))


def times(
    signal: Complex[Tensor, "batch width frequencies"], taps: Complex[Tensor, "channels frequencies"]
) -> Complex[Tensor, "batch width frequencies"]:
    """Product of spectra, the taps repeated over the heads; ``signal`` is overwritten unless autograd needs it."""
    by_head = cast(Tensor, writable(signal, taps).unflatten(1, (-1, taps.shape[0])))
    return by_head.mul_(taps).flatten(1, 2)


def convolve_circle(
    heard: Float[Tensor, "batch width time"], taps: Complex[Tensor, "channels frequencies"], size: int
) -> Float[Tensor, "batch width size"]:
    """Circular convolution of ``size`` with taps given by their spectrum."""
    if 0 in heard.shape:
        return heard.new_zeros(*heard.shape[:2], size)
    y: Tensor = torch.fft.irfft(times(torch.fft.rfft(heard, n=size), taps), n=size)
    return y


def history(
    inputs: Float[Tensor, "batch block width"], past: Float[Tensor, "batch width ring"], position: int
) -> Float[Tensor, "batch width heard"]:
    """All inputs since position 0 that the ring still holds, oldest first, then those of the block not yet stored."""
    ring, block = past.shape[2], inputs.shape[1]
    closed = max(0, position - 1) // block * block
    ordered = past[:, :, :closed] if closed <= ring else past.roll(-(closed % ring), dims=2)
    return torch.cat([ordered, inputs[:, : position - closed].transpose(1, 2)], dim=2)


def convolve_behind(
    v: Float[Tensor, "batch length width"],
    before: Float[Tensor, "batch width heard"],
    taps: Float[Tensor, "channels taps"],
    echo: Float[Tensor, "batch width later"],
) -> tuple[Float[Tensor, "batch length width"], Float[Tensor, "batch width lags"]]:
    """One convolution of ``v`` behind the inputs ``before``, and the echo of them all behind ``v``.

    Args:
        echo: what still earlier inputs add, from the first output on.
    """
    length, lags = v.shape[1], taps.shape[1] - 1
    heard = torch.cat([before, v.transpose(1, 2)], dim=2)
    heard = heard[:, :, max(0, heard.shape[2] - length - lags) :]
    total = heard.shape[2] + lags
    size = _fast_size(total)
    y = convolve_circle(heard, spectrum(taps, size), size)[:, :, total - length - lags : total]
    y = y + window(echo, 0, length + lags)
    return y[:, :, :length].transpose(1, 2), y[:, :, length:]


def writable(buffer: Tensor, *others: Tensor) -> Tensor:
    """``buffer`` itself where overwriting it harms nobody, else a copy: autograd may still need the old values.

    Args:
        others: tensors that are about to be written into it.
    """
    recorded = torch.is_grad_enabled() and any(t.requires_grad for t in others)
    frozen = buffer.is_inference() and not torch.is_inference_mode_enabled()
    return buffer.clone() if recorded or buffer.requires_grad or frozen else buffer


def window(signal: Float[Tensor, "batch width time"], start: int, length: int) -> Float[Tensor, "batch width length"]:
    """``length`` values from ``start`` on, zeros beyond the end."""
    piece = signal[:, :, start : start + length]
    return F.pad(piece, (0, length - piece.shape[2]))


def _fast_size(least: int) -> int:
    """The smallest size of the form 2^a, 3 2^a or 5 2^a that is at least ``least``."""
    return min(odd << max(0, -(-least // odd) - 1).bit_length() for odd in (1, 3, 5))
