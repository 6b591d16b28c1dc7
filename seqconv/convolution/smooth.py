"""Exact online convolution with bounded work per token, by a non-uniform partition of the taps.

Every output sums over taps 0 .. 2b-1 directly. For U = b, 2b, 4b, ... the taps 2U .. 4U-1 are cut in two parts, and
the block of U inputs that ends at a multiple t of U, together with the one before, gives in one transform of size 2U::

    outputs t+U .. t+3U-1  +=  irfft( X_t ⊙ H_{2U..3U-1} + X_{t-U} ⊙ H_{3U..4U-1} )

These are due U tokens later, so the channels are shared out evenly over the U tokens in between; levels take turns,
each at one of ``TURNS`` tokens. About twice the work of the fractal tiling, without its stalls.

Source: Gardner 1995, "Efficient convolution without input-output delay" (J. Audio Eng. Soc. 43).
"""

from dataclasses import replace
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from seqconv_kernels import direct_conv_step

from ..state import State, state_class
from .tiles import all_inputs, check_sizes, convolve_after, head_of, history, window, writable

BLOCK = 32
"""Tokens of the smallest level: a direct sum over twice as many taps still costs less than a transform."""

TURNS = 8
"""Each level works at one of this many tokens."""

LEAST_SHARES = 8
"""No level shares its channels out among fewer tokens, so the smallest ones work more often."""


@state_class
class SmoothState(State):
    """Everything that later outputs need.

    Attributes:
        taps: impulse response.
        head: its first two blocks of taps, time first, repeated for every head.
        spectra: of the taps 2U .. 3U-1 and 3U .. 4U-1, for every U in turn, (channels, U + 1).
        past: ring buffer of the inputs since the last restart.
        ahead: ring buffer of what they, and those before it, add to later outputs; zero where none is waiting.
        before: spectrum of the previous block of every U, (batch, width, U + 1).
        echo: what inputs before the last restart add to the outputs since; contained in ``ahead`` too.
        earlier: the inputs before the last restart, where the taps may still be extended; else ``None``.
        position: tokens since the last restart.
    """

    taps: Float[Tensor, "channels taps"]
    head: Float[Tensor, "near width"]
    spectra: tuple[Tensor, ...]
    past: Float[Tensor, "batch ring width"]
    ahead: Float[Tensor, "batch ring width"]
    before: tuple[Tensor, ...]
    echo: Float[Tensor, "batch later width"]
    earlier: Float[Tensor, "batch inputs width"] | None
    position: int

    batch_free: ClassVar[frozenset[str]] = frozenset({"taps", "head", "spectra"})
    growing: ClassVar[frozenset[str]] = frozenset({"taps", "spectra", "past", "ahead", "before", "echo", "earlier"})

    @property
    def block(self) -> int:
        """Tokens of the smallest level."""
        return self.head.shape[0] // 2


def init_smooth(
    taps: Float[Tensor, "channels taps"],
    batch_size: int,
    *,
    heads: int = 1,
    block: int = BLOCK,
    extensible: bool = False,
) -> SmoothState:
    """The state before the first input; arguments and errors as for the fractal tiling."""
    check_sizes(taps, block)
    reach, head = taps.shape[1], head_of(taps, 2 * block, heads)
    sizes, size = [], block
    while 2 * size < reach:
        sizes.append(size)
        size *= 2
    spectra: tuple[Tensor, ...] = ()
    for size in sizes:
        parts = F.pad(taps[:, 2 * size : 4 * size], (0, max(0, 4 * size - reach))).split(size, dim=1)
        spectra = (*spectra, *(torch.fft.rfft(part, n=2 * size) for part in parts))
    width, ring = head.shape[1], 4 * sizes[-1] if sizes else 2 * block
    kind = taps.dtype.to_complex()
    return SmoothState(
        taps=taps,
        head=head,
        spectra=spectra,
        past=taps.new_zeros(batch_size, ring, width),
        ahead=taps.new_zeros(batch_size, ring, width),
        before=tuple(taps.new_zeros(batch_size, width, size + 1, dtype=kind) for size in sizes),
        echo=taps.new_zeros(batch_size, 0, width),
        earlier=taps.new_zeros(batch_size, 0, width) if extensible else None,
        position=0,
    )


def smooth_prefill(
    u: Float[Tensor, "batch length width"], state: SmoothState
) -> tuple[Float[Tensor, "batch length width"], SmoothState]:
    """Outputs for any number of inputs after those of ``state``; more than a block are one FFT convolution."""
    if u.shape[1] > state.block:
        y, state = _restart(u.to(state.taps.dtype), state)
        return y.to(u.dtype), state
    outputs = []
    for u_t in u.unbind(1):
        y_t, state = smooth_step(u_t, state)
        outputs.append(y_t)
    return torch.stack(outputs, dim=1), state


def smooth_step(
    u_t: Float[Tensor, "batch width"], state: SmoothState
) -> tuple[Float[Tensor, "batch width"], SmoothState]:
    """Output for one input, and this token's share of the transforms."""
    position, head = state.position, state.head
    past, ahead = writable(state.past, u_t, head), writable(state.ahead, u_t, head)
    y = direct_conv_step(u_t, head, past, ahead, row=position % past.shape[1], count=head.shape[0])
    ahead, before = _work(state, past, ahead)
    return y, SmoothState(state.taps, head, state.spectra, past, ahead, before, state.echo, state.earlier, position + 1)


def _work(state: SmoothState, past: Tensor, ahead: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The share of one token: some channels of every level whose turn it is and which has a whole block of inputs."""
    before, position, channels = state.before, state.position, state.taps.shape[0]
    for level in range(len(before)):
        size = state.block << level
        turns = max(1, min(TURNS, size // LEAST_SHARES))
        if (position - level) % turns:
            continue
        t, phase, shares = position - position % size, position % size // turns, size // turns
        share = slice(channels * phase // shares, channels * (phase + 1) // shares)
        if t and share.start < share.stop and past.shape[0]:
            near, far = (taps[share] for taps in state.spectra[2 * level : 2 * level + 2])
            ahead, mine = _transform(past, ahead, before[level], near, far, t, share, channels)
            before = (*before[:level], mine, *before[level + 1 :])
    return ahead, before


def _transform(
    past: Tensor, ahead: Tensor, before: Tensor, near: Tensor, far: Tensor, t: int, share: slice, channels: int
) -> tuple[Tensor, Tensor]:
    """The blocks of inputs that ended at ``t`` and before it, for the channels ``share`` of every head."""
    size, ring = near.shape[1] - 1, past.shape[1]
    oldest = (t - size) % ring
    inputs = _rows(past[:, oldest : oldest + size], 2, channels)[..., share].movedim(1, -1)
    spectrum_now = torch.fft.rfft(inputs, n=2 * size)
    known = _rows(before, 1, channels)[:, :, share]
    later = torch.fft.irfft(spectrum_now * near + known * far, n=2 * size).movedim(-1, 1)
    before, ahead = writable(before, spectrum_now), writable(ahead, later)
    _rows(before, 1, channels)[:, :, share].copy_(spectrum_now)
    for part, due in ((later[:, :size], t + size), (later[:, size:], t + 2 * size)):
        _rows(ahead[:, due % ring : due % ring + size], 2, channels)[..., share].add_(part)
    return ahead, before


def _rows(signal: Tensor, axis: int, channels: int) -> Tensor:
    """The width as heads and channels, a view."""
    return cast(Tensor, signal.unflatten(axis, (-1, channels)))


def _restart(v: Tensor, state: SmoothState) -> tuple[Tensor, SmoothState]:
    """One convolution of all inputs that later outputs depend on, and a partition that begins after them."""
    before = history(state.past, state.position)
    y, echo = convolve_after(v, before, state.taps, state.echo[:, state.position :])
    after = replace(
        state,
        past=torch.zeros_like(state.past),
        ahead=window(echo, 0, state.ahead.shape[1]).contiguous(),
        before=tuple(torch.zeros_like(b) for b in state.before),
        echo=echo,
        earlier=all_inputs(state.earlier, before, v),
        position=0,
    )
    return y, after
