"""Exact online convolution in O(log² length) per token, by fractal tiling.

Equation: ``y_t = sum_s h[s] u_{t-s}``. Tokens come in blocks of b. Within a block every input pushes its products
with ``h[0..b-1]`` into the block's outputs. When a block ends at time t, the last U inputs are convolved with
``h[1..2U-1]`` at once, U the largest power of two times b that divides t, and added to the outputs t .. t+U-1::

    inputs t-U .. t-1   --rfft(2U)-->   ⊙ rfft(h[0..2U-1], 2U)   --irfft, second half-->   outputs t .. t+U-1

These squares cover every pair (input, later output) once. U stops at the first size that covers all taps, so that
a stream may be longer than the filter: inputs and outputs live in rings of that size. A long prefill is one FFT
convolution, whose tail (what its inputs will still add to later outputs) is kept as ``echo``; the tiling then starts
afresh behind it.

Source: van der Hoeven 1997 (relaxed multiplication); Oncescu et al. 2024, "Flash Inference" (arXiv 2410.12982);
Agarwal et al. 2024, "FutureFill" (arXiv 2410.03766).
"""

from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from seqconv_kernels import fft_conv

from ..state import State, state_class
from .tiles import check_sizes, convolve_behind, convolve_circle, head_of, history, spectrum, window, writable

BLOCK = 64
"""Tokens per block: from this size on an FFT is faster than pushing."""

RESTART = 8
"""A prefill of more than taps/RESTART tokens is one FFT; a shorter one goes through the blocks."""


@state_class
class FractalState(State):
    """Everything that later outputs need.

    Attributes:
        taps: impulse response.
        head: its first taps, time first, repeated for every head.
        spectra: of its first 2U taps, for every U met so far, (channels, U + 1).
        inputs: of the current block.
        outputs: sums of the current block, as far as they are known.
        past: ring of the inputs since the last restart.
        ahead: ring of what they add to later blocks.
        echo: what inputs before the last restart add to the outputs since.
        position: tokens since the last restart.
    """

    taps: Float[Tensor, "channels taps"]
    head: Float[Tensor, "block width"]
    spectra: tuple[Tensor, ...]
    inputs: Float[Tensor, "batch block width"]
    outputs: Float[Tensor, "batch block width"]
    past: Float[Tensor, "batch width ring"]
    ahead: Float[Tensor, "batch width ring"]
    echo: Float[Tensor, "batch width later"]
    position: int

    batch_free: ClassVar[frozenset[str]] = frozenset({"taps", "head", "spectra"})
    growing: ClassVar[frozenset[str]] = frozenset({"taps", "spectra", "past", "ahead", "echo"})

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
    taps: Float[Tensor, "channels taps"], batch_size: int, *, heads: int = 1, block: int = BLOCK
) -> FractalState:
    """The state before the first input.

    Args:
        taps: impulse responses, lag 0 first; float32 or float64, which is also the dtype of the sums.
        batch_size: rows.
        heads: how often the channels of ``taps`` repeat in the inputs, head after head.
        block: tokens per block, a power of two.

    Raises:
        ValueError: no taps, or a block that is not a power of two.
    """
    check_sizes(taps, block)
    head = head_of(taps, block, heads)
    buffers = taps.new_zeros(2, batch_size, block, head.shape[1])
    empty = taps.new_zeros(3, batch_size, head.shape[1], 0)
    return FractalState(taps, head, (), buffers[0], buffers[1], empty[0], empty[1], empty[2], 0)


def fractal_prefill(
    u: Float[Tensor, "batch length width"], state: FractalState
) -> tuple[Float[Tensor, "batch length width"], FractalState]:
    """Outputs for any number of inputs behind those of ``state``."""
    v, pieces = u.to(state.taps.dtype), []
    if u.shape[1] > 1 and u.shape[1] * RESTART > state.taps.shape[1]:
        y, state = _restart(v, state)
        return y.to(u.dtype), state
    while v.shape[1]:
        room = state.block - state.position % state.block
        y, state = _feed(v[:, :room], state)
        v = v[:, room:]
        pieces.append(y)
    return torch.cat(pieces, dim=1).to(u.dtype), state


def fractal_step(
    u_t: Float[Tensor, "batch width"], state: FractalState
) -> tuple[Float[Tensor, "batch width"], FractalState]:
    """Output for one input."""
    block, position = state.head.shape[0], state.position
    begun = position % block
    if begun == 0 and position:
        state = _close_block(state)
    v = u_t.to(state.taps.dtype)
    inputs, outputs = writable(state.inputs, v), writable(state.outputs, v, state.head)
    inputs[:, begun] = v
    outputs[:, begun:].addcmul_(v[:, None], state.head[: block - begun])
    return outputs[:, begun].to(u_t.dtype), _moved(state, inputs, outputs, position + 1)


def _restart(v: Tensor, state: FractalState) -> tuple[Tensor, FractalState]:
    """One convolution of all inputs that still matter, and a tiling that begins behind them."""
    before = history(state.inputs, state.past, state.position)
    y, echo = convolve_behind(v, before, state.taps, state.echo[:, :, state.position :])
    empty = state.past.new_zeros(2, *state.past.shape[:2], 0)
    outputs = window(echo, 0, state.block).transpose(1, 2).clone(memory_format=torch.contiguous_format)
    return y, replace(state, outputs=outputs, past=empty[0], ahead=empty[1], echo=echo, position=0)


def _feed(v: Tensor, state: FractalState) -> tuple[Tensor, FractalState]:
    """Inputs that stay within one block."""
    begun = state.position % state.block
    if begun == 0 and state.position:
        state = _close_block(state)
    end, rest = begun + v.shape[1], state.block - begun
    inputs, outputs = writable(state.inputs, v), writable(state.outputs, v, state.head)
    inputs[:, begun:end] = v
    outputs[:, begun:] += fft_conv(F.pad(v, (0, 0, 0, rest - v.shape[1])), state.head[:rest].T)
    return outputs[:, begun:end], _moved(state, inputs, outputs, state.position + v.shape[1])


def _moved(state: FractalState, inputs: Tensor, outputs: Tensor, position: int) -> FractalState:
    """The state within the same block. Spelled out, because ``dataclasses.replace`` costs a tenth of a step."""
    return FractalState(
        state.taps, state.head, state.spectra, inputs, outputs, state.past, state.ahead, state.echo, position
    )


def _close_block(state: FractalState) -> FractalState:
    """Store the inputs of a full block, add the tile that ends here, and open the next block's outputs.

    Done when the next input comes, not before: the last tile of a stream would be for nothing.
    """
    t, block, spectra = state.position, state.block, state.spectra
    past, ahead = _grown(state)
    ring = past.shape[2]
    past = writable(past, state.inputs)
    past[:, :, (t - block) % ring : (t - block) % ring + block] = state.inputs.transpose(1, 2)
    size = min(t & -t, state.reach)
    level = (size // block).bit_length() - 1
    if level == len(spectra):
        spectra = (*spectra, spectrum(state.taps[:, : 2 * size], 2 * size))
    here, oldest = t % ring, (t - size) % ring
    tile = convolve_circle(past[:, :, oldest : oldest + size], spectra[level], 2 * size)[:, :, size:]
    ahead = writable(ahead, tile)
    ahead[:, :, here : here + size] += tile
    outputs = ahead[:, :, here : here + block].contiguous()
    if t < state.echo.shape[2]:
        outputs = outputs + window(state.echo, t, block)
    outputs = outputs.transpose(1, 2).clone(memory_format=torch.contiguous_format)
    ahead[:, :, here : here + block] = 0
    return replace(state, spectra=spectra, outputs=outputs, past=past, ahead=ahead)


def _grown(state: FractalState) -> tuple[Tensor, Tensor]:
    """The rings, doubled if the inputs up to now do not fit and the filter reaches back further.

    At that time the outputs to come start at a multiple of the old size, so they move into the new half as they are.
    """
    past, ahead = state.past, state.ahead
    ring = past.shape[2]
    if state.position <= ring or ring == state.reach:
        return past, ahead
    if ring == 0:
        return F.pad(past, (0, state.block)), F.pad(ahead, (0, state.block))
    return F.pad(past, (0, ring)), F.pad(ahead, (ring, 0))
