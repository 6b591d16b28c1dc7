"""Exact online convolution in O(log² length) per token, by fractal tiling.

Equation: ``y_t = sum_s h[s] u_{t-s}``. Tokens come in blocks of b. Within a block every output sums over the inputs
since the last multiple of BASE, directly; what earlier inputs add has been added by tiles. At a time t that BASE
divides, the last U inputs are convolved with ``h[1..2U-1]`` at once, U the largest power of two that divides t, and
added to the outputs t .. t+U-1: directly up to half a block, from a block on by an FFT::

    inputs t-U .. t-1   --rfft(2U)-->   ⊙ rfft(h[0..2U-1], 2U)   --irfft, second half-->   outputs t .. t+U-1

These squares cover every pair (input, later output) once. U stops at the first size that covers all taps, so that
a stream may be longer than the filter: inputs and outputs are held in ring buffers of that size. A long prefill is one
FFT convolution, whose tail (what its inputs will still add to later outputs) is kept as ``echo``; the tiling then
restarts after it.

Source: van der Hoeven 1997 (relaxed multiplication); Oncescu et al. 2024, "Flash Inference" (arXiv 2410.12982);
Agarwal et al. 2024, "FutureFill" (arXiv 2410.03766).
"""

from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from seqconv_kernels import direct_conv_step, fft_conv
from seqconv_kernels.direct_conv import direct_conv_tile
from seqconv_kernels.fft_tile import fft_tile, fft_tile_spectrum, serves

from ..state import State, state_class
from .tiles import all_inputs, check_sizes, convolve_after, head_of, history, window, writable

BLOCK = 256
"""Size of the smallest tile by FFT: from here on it is faster than a direct one."""

BASE = 16
"""Tokens whose products are summed at each output instead of in a tile."""

RESTART = 8
"""A prefill of more than taps/RESTART tokens is one FFT; a shorter one goes through the tiles."""


@state_class
class FractalState(State):
    """Everything that later outputs need.

    Attributes:
        taps: impulse response.
        head: its first block of taps, time first, repeated for every head.
        spectra: for the tiles of every size from a block on that was met so far.
        past: ring buffer of the inputs since the last restart.
        ahead: ring buffer of what they, and those before it, add to later outputs; within the current block.
        echo: what inputs before the last restart add to the outputs since.
        earlier: the inputs before the last restart, where the taps may still be extended; else ``None``.
        position: tokens since the last restart.
    """

    taps: Float[Tensor, "channels taps"]
    head: Float[Tensor, "block width"]
    spectra: tuple[Tensor, ...]
    past: Float[Tensor, "batch ring width"]
    ahead: Float[Tensor, "batch ring width"]
    echo: Float[Tensor, "batch later width"]
    earlier: Float[Tensor, "batch inputs width"] | None
    position: int

    batch_free: ClassVar[frozenset[str]] = frozenset({"taps", "head", "spectra"})
    growing: ClassVar[frozenset[str]] = frozenset({"taps", "spectra", "past", "ahead", "echo", "earlier"})

    @property
    def block(self) -> int:
        """Tokens per block."""
        return self.head.shape[0]

    @property
    def reach(self) -> int:
        """Size of the largest tile: that of the block, doubled until it covers every lag."""
        blocks = -(-(self.taps.shape[1] - 1) // self.block)
        return self.block << max(0, blocks - 1).bit_length()


def init_fractal(
    taps: Float[Tensor, "channels taps"],
    batch_size: int,
    *,
    heads: int = 1,
    block: int = BLOCK,
    extensible: bool = False,
) -> FractalState:
    """The state before the first input.

    Args:
        taps: impulse responses, lag 0 first; float32 or float64, which is also the dtype of the sums.
        batch_size: rows.
        heads: how often the channels of ``taps`` repeat in the inputs, head after head.
        block: size of the smallest tile by FFT, a power of two.
        extensible: keep all inputs, so that the taps can be extended later.

    Raises:
        ValueError: no taps, or a block that is not a power of two.
    """
    check_sizes(taps, block)
    head = head_of(taps, block, heads)
    past, ahead = (taps.new_zeros(batch_size, block, head.shape[1]) for _ in range(2))
    echo = taps.new_zeros(batch_size, 0, head.shape[1])
    return FractalState(taps, head, (), past, ahead, echo, echo.clone() if extensible else None, 0)


def fractal_prefill(
    u: Float[Tensor, "batch length width"], state: FractalState
) -> tuple[Float[Tensor, "batch length width"], FractalState]:
    """Outputs for any number of inputs after those of ``state``."""
    v, outputs = u.to(state.taps.dtype), []
    # The tiles between two open positions have no number: compilers see one convolution.
    if torch.compiler.is_compiling() or (u.shape[1] > 1 and u.shape[1] * RESTART > state.taps.shape[1]):
        y, state = _restart(v, state)
        return y.to(u.dtype), state
    while v.shape[1]:
        size = _uninterrupted(state, v.shape[1])
        y, state = _feed(v[:, :size], state)
        v = v[:, size:]
        outputs.append(y)
    return torch.cat(outputs, dim=1).to(u.dtype), state


def fractal_step(
    u_t: Float[Tensor, "batch width"], state: FractalState
) -> tuple[Float[Tensor, "batch width"], FractalState]:
    """Output for one input."""
    position, head = state.position, state.head
    begun = position % head.shape[0] % BASE
    if begun == 0 and position:
        state = _tile(state)
    past, ahead = writable(state.past, u_t, head), writable(state.ahead, u_t, head)
    y = direct_conv_step(u_t, head, past, ahead, row=position % past.shape[1], count=begun + 1)
    return y, FractalState(state.taps, head, state.spectra, past, ahead, state.echo, state.earlier, position + 1)


def _tile(state: FractalState) -> FractalState:
    """Add the tile that ends here. Done when the next input comes: after the last one of a stream nothing reads it."""
    t, block = state.position, state.block
    size, spectra = min(t & -t, state.reach), state.spectra
    past, ahead = _grown(state)
    oldest, here = (t - size) % past.shape[1], t % past.shape[1]
    inputs, ahead = past[:, oldest : oldest + size], writable(ahead, past, state.taps)
    due = ahead[:, here : here + size]
    if size < block:
        direct_conv_tile(inputs, state.head, due, lag=size)
    else:
        level = (size // block).bit_length() - 1
        if level == len(spectra) or not serves(spectra[level], inputs, due):
            spectra = (*spectra[:level], fft_tile_spectrum(state.taps, size), *spectra[level + 1 :])
        fft_tile(inputs, spectra[level], due)
        if t < state.echo.shape[1]:
            ahead[:, here : here + block] += window(state.echo, t, block)
    return replace(state, spectra=spectra, past=past, ahead=ahead)


def _grown(state: FractalState) -> tuple[Tensor, Tensor]:
    """The ring buffers, doubled if the inputs up to now fill them and the filter reaches back further.

    No output is waiting then: the tiles so far end at or before a multiple of the size of the buffers.
    """
    past, ahead = state.past, state.ahead
    ring = past.shape[1]
    if state.position < ring or ring == state.reach:
        return past, ahead
    return F.pad(past, (0, 0, 0, ring)), ahead.new_zeros(ahead.shape[0], 2 * ring, ahead.shape[2])


def _uninterrupted(state: FractalState, left: int) -> int:
    """How many inputs no tile interrupts: up to a multiple of BASE, or from one on a power of two that divides it."""
    begun, base = state.position % state.block, min(BASE, state.block)
    if begun % base or left < base:
        return min(left, base - begun % base)
    return min(begun & -begun or state.block, 1 << left.bit_length() - 1)


def _feed(v: Tensor, state: FractalState) -> tuple[Tensor, FractalState]:
    """Inputs that no tile interrupts: their own products, and those with the inputs since the last tile."""
    begun, length = state.position % state.block % BASE, v.shape[1]
    if begun == 0 and state.position:
        state = _tile(state)
    row = state.position % state.past.shape[1]
    past, recent = writable(state.past, v, state.head), state.past[:, row - begun : row]
    y = state.ahead[:, row : row + length] + fft_conv(v, state.head[: begun + length].T, history=recent)
    past[:, row : row + length] = v
    ahead = writable(state.ahead, v, state.head)
    ahead[:, row : row + length] = 0
    return y, replace(state, past=past, ahead=ahead, position=state.position + length)


def _restart(v: Tensor, state: FractalState) -> tuple[Tensor, FractalState]:
    """One convolution of all inputs that later outputs depend on, and a tiling that begins after them."""
    before = history(state.past, state.position)
    y, echo = convolve_after(v, before, state.taps, state.echo[:, state.position :])
    empty = state.past.new_zeros(v.shape[0], state.block, v.shape[2])
    ahead = window(echo, 0, state.block).clone(memory_format=torch.contiguous_format)
    earlier = all_inputs(state.earlier, before, v)
    return y, replace(state, past=empty, ahead=ahead, echo=echo, earlier=earlier, position=0)
