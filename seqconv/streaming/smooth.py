"""Exact online convolution with bounded work per token, by a non-uniform partition of the taps.

Taps 0 .. 2b-1 are pushed by every input. For U = b, 2b, 4b, ... the taps 2U .. 4U-1 are cut in two parts, and the
block of U inputs that ends at a multiple t of U, together with the one before, gives in one transform of size 2U::

    outputs t+U .. t+3U-1  +=  irfft( X_t ⊙ H_{2U..3U-1} + X_{t-U} ⊙ H_{3U..4U-1} )

These are due U tokens later, so the channels are shared out evenly over the U tokens in between; levels take turns,
one in each of ``TURNS`` tokens. About twice the work of the fractal tiling, without its stalls.

Source: Gardner 1995, "Efficient convolution without input-output delay" (J. Audio Eng. Soc. 43).
"""

from dataclasses import replace
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..state import State, state_class
from .tiles import check_sizes, convolve_behind, head_of, history, spectrum, window, writable

BLOCK = 32
"""Tokens per block: pushing twice as many taps still costs less than a transform."""

TURNS = 8
"""Each level works at one of so many tokens."""


@state_class
class SmoothState(State):
    """Everything that later outputs need.

    Attributes:
        taps: impulse response.
        head: its first two blocks of taps, time first, repeated for every head.
        spectra: of the taps 2U .. 3U-1 and 3U .. 4U-1, for every U in turn, (channels, U + 1).
        inputs: of the current block.
        outputs: sums of the current block and the two behind it, as far as they are known.
        past: ring of the inputs since the last restart.
        ahead: ring of what they add to later blocks.
        before: spectrum of the previous block of every U, (batch, width, U + 1).
        echo: what inputs before the last restart add to the outputs since.
        position: tokens since the last restart.
    """

    taps: Float[Tensor, "channels taps"]
    head: Float[Tensor, "reach width"]
    spectra: tuple[Tensor, ...]
    inputs: Float[Tensor, "batch block width"]
    outputs: Float[Tensor, "batch near width"]
    past: Float[Tensor, "batch width ring"]
    ahead: Float[Tensor, "batch width ring"]
    before: tuple[Tensor, ...]
    echo: Float[Tensor, "batch width later"]
    position: int

    batch_free: ClassVar[frozenset[str]] = frozenset({"taps", "head", "spectra"})
    growing: ClassVar[frozenset[str]] = frozenset({"taps", "spectra", "past", "ahead", "before", "echo"})

    @property
    def block(self) -> int:
        """Tokens per block."""
        return self.inputs.shape[1]


def init_smooth(
    taps: Float[Tensor, "channels taps"], batch_size: int, *, heads: int = 1, block: int = BLOCK
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
        spectra = (*spectra, *(spectrum(part, 2 * size) for part in parts))
    width, ring = head.shape[1], 4 * sizes[-1] if sizes else 2 * block
    kind = taps.dtype.to_complex()
    return SmoothState(
        taps=taps,
        head=head,
        spectra=spectra,
        inputs=taps.new_zeros(batch_size, block, width),
        outputs=taps.new_zeros(batch_size, 3 * block, width),
        past=taps.new_zeros(batch_size, width, ring),
        ahead=taps.new_zeros(batch_size, width, ring),
        before=tuple(taps.new_zeros(batch_size, width, size + 1, dtype=kind) for size in sizes),
        echo=taps.new_zeros(batch_size, width, 0),
        position=0,
    )


def smooth_prefill(
    u: Float[Tensor, "batch length width"], state: SmoothState
) -> tuple[Float[Tensor, "batch length width"], SmoothState]:
    """Outputs for any number of inputs behind those of ``state``; more than a block are one FFT convolution."""
    v = u.to(state.taps.dtype)
    if u.shape[1] > state.block:
        y, state = _restart(v, state)
        return y.to(u.dtype), state
    pieces = []
    for v_t in v.unbind(1):
        y_t, state = _feed(v_t, state)
        pieces.append(y_t)
    return torch.stack(pieces, dim=1).to(u.dtype), state


def smooth_step(
    u_t: Float[Tensor, "batch width"], state: SmoothState
) -> tuple[Float[Tensor, "batch width"], SmoothState]:
    """Output for one input."""
    y, state = _feed(u_t.to(state.taps.dtype), state)
    return y.to(u_t.dtype), state


def _feed(v_t: Tensor, state: SmoothState) -> tuple[Tensor, SmoothState]:
    """Store a full block, push one input, and do this token's share of the transforms."""
    begun = state.position % state.block
    if begun == 0 and state.position:
        state = _close_block(state)
    inputs, outputs = writable(state.inputs, v_t), writable(state.outputs, v_t, state.head)
    inputs[:, begun] = v_t
    outputs[:, begun : begun + 2 * state.block].addcmul_(v_t[:, None], state.head)
    state = _work(replace(state, inputs=inputs, outputs=outputs))
    return outputs[:, begun], replace(state, position=state.position + 1)


def _work(state: SmoothState) -> SmoothState:
    """The share of one token: some channels of every level whose turn it is and which has heard a whole block."""
    turns = min(TURNS, state.block)
    for level in range(state.position % turns, len(state.before), turns):
        size = state.block << level
        t, phase = state.position - state.position % size, state.position % size
        channels, shares = state.taps.shape[0], size // turns
        share = slice(channels * (phase // turns) // shares, channels * (phase // turns + 1) // shares)
        if t and share.start < share.stop and state.inputs.shape[0]:
            state = _transform(state, level, size, t, share)
    return state


def _transform(state: SmoothState, level: int, size: int, t: int, share: slice) -> SmoothState:
    """The blocks of ``size`` inputs that ended at ``t`` and before it, for the channels ``share`` of every head."""
    ring, channels = state.past.shape[2], state.taps.shape[0]

    def rows(signal: Tensor) -> Tensor:
        return cast(Tensor, signal.unflatten(1, (-1, channels)))[:, :, share]

    oldest = (t - size) % ring
    heard = torch.fft.rfft(rows(state.past)[..., oldest : oldest + size], n=2 * size)
    near, far = state.spectra[2 * level : 2 * level + 2]
    later = torch.fft.irfft(heard * near[share] + rows(state.before[level]) * far[share], n=2 * size)
    before = writable(state.before[level], heard)
    rows(before).copy_(heard)
    ahead = writable(state.ahead, later)
    for part, start in ((later[..., :size], (t + size) % ring), (later[..., size:], (t + 2 * size) % ring)):
        rows(ahead)[..., start : start + size] += part
    spectra_before = (*state.before[:level], before, *state.before[level + 1 :])
    return replace(state, ahead=ahead, before=spectra_before)


def _close_block(state: SmoothState) -> SmoothState:
    """Store the block's inputs and open the next block's outputs, to which nothing is missing but its own inputs."""
    t, block, ring = state.position, state.block, state.past.shape[2]
    past, ahead = writable(state.past, state.inputs), writable(state.ahead)
    past[:, :, (t - block) % ring : (t - block) % ring + block] = state.inputs.transpose(1, 2)
    here = t % ring
    due = (ahead[:, :, here : here + block] + window(state.echo, t, block)).transpose(1, 2)
    outputs = F.pad(state.outputs[:, block:], (0, 0, 0, block))
    outputs[:, :block] += due
    ahead[:, :, here : here + block] = 0
    return replace(state, outputs=outputs, past=past, ahead=ahead)


def _restart(v: Tensor, state: SmoothState) -> tuple[Tensor, SmoothState]:
    """One convolution of all inputs that still matter, and a partition that begins behind them."""
    before = history(state.inputs, state.past, state.position)
    y, echo = convolve_behind(v, before, state.taps, state.echo[:, :, state.position :])
    outputs = F.pad(window(echo, 0, state.block).transpose(1, 2), (0, 0, 0, 2 * state.block))
    after = replace(
        state,
        outputs=outputs,
        past=torch.zeros_like(state.past),
        ahead=torch.zeros_like(state.ahead),
        before=tuple(torch.zeros_like(b) for b in state.before),
        echo=echo,
        position=0,
    )
    return y, after
