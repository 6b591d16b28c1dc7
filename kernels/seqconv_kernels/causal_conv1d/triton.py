"""The short causal convolution in Triton: one program per tile of steps and channels of one segment.

Forward, with ``K`` the width and the initial state before step 0 of every segment::

    conv[t, c] = bias[c] + sum_k weight[c, k] x[t - (K-1) + k, c],      y = act(conv)

Backward, with ``g = dL/dconv``, two kernels::

    g[t, c] = dy[t, c] act'(conv[t, c])                         conv is recomputed: cheaper than to store and load it
    dbias[c] = sum_t g[t, c],    dweight[c, k] = sum_t g[t, c] x[t - (K-1) + k, c]
    dx[s, c] = sum_k weight[c, k] g[s + K-1 - k, c]             the same convolution, backwards in time

The first kernel writes g and its tile's part of the sums over t; the second one needs the g of later tiles, hence a
kernel of its own. Parts are added in a fixed order, so results are the same bits every time. All kernels are bound by
memory: x is read K times, but all but the first time from the cache.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._core.operator.double_backward import differentiate_by
from .._core.operator.operators import operator
from .._core.packing import reversible
from .._core.triton.functions import TYPES, address, sigmoid, silu_slope, store_tile, view
from .._core.triton.support import Chunks, accumulator_dtype, count_segments, on_device
from .spec import Inputs

BLOCK_T = 32
"""Steps of a tile: the K-1 steps that it reads of its neighbour are then a tenth of its own for the usual width 4."""
BLOCK_C = 64
"""Channels of a tile: 128 bytes of a half-precision row, a whole line of the cache."""


@triton.jit
@no_type_check
def _tile(starts, stops, segments, cu_seqlens, channels, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr):
    """Start of this program's tile, its channels, which elements exist, its segment and where that begins and ends.

    Positions inside the kernels count from the start of the tile, so that they fit 32 bits.
    """
    tile = tl.program_id(0)
    start, segment = tl.load(starts + tile), tl.load(segments + tile)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    # The last tile of a segment is short, and the last block of channels may be.
    valid = (tl.arange(0, BLOCK_T) < tl.load(stops + tile) - start)[:, None] & (c < channels)[None, :]
    first, end = tl.load(cu_seqlens + segment) - start, tl.load(cu_seqlens + segment + 1) - start
    return start, c, valid, segment, first.to(tl.int32), end.to(tl.int32)


@triton.jit
@no_type_check
def _load_inputs(x, initial, s, c, valid, first, channels, step, ACC: tl.constexpr):
    """Inputs (BLOCK_T, BLOCK_C) at positions s of one segment; those before its first come from the initial state.

    ``initial`` points one row after the state of the segment, so that position ``first - 1`` is its last row. The two
    masks exclude each other: the sum of both loads is whichever exists, zero if neither.
    """
    t = s[:, None]
    inputs = tl.load(x + (t * step + c[None, :]), mask=valid & (t >= first), other=0).to(ACC)
    # Row `first - 1` is the newest of the state's K-1 rows, `first - (K-1)` the oldest.
    if initial is not None:
        inputs += tl.load(initial + ((t - first) * channels + c[None, :]), mask=valid & (t < first), other=0).to(ACC)
    return inputs


@triton.jit
@no_type_check
def _convolve(
    x, weight, bias, initial, c, valid, first, channels, step,
    WIDTH: tl.constexpr, BLOCK_T: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The convolution before the activation, (BLOCK_T, BLOCK_C) in registers: one multiply-add per tap.

    ``weight`` is (width, channels), so that neighbouring threads read neighbouring taps.
    """
    acc = tl.zeros(valid.shape, ACC)
    for k in tl.range(WIDTH, loop_unroll_factor=4):
        # The shifted tile comes from the cache again: shifting registers between threads would cost more.
        inputs = _load_inputs(x, initial, tl.arange(0, BLOCK_T) + k - (WIDTH - 1), c, valid, first, channels, step, ACC)
        acc += inputs * tl.load(weight + k * channels + c, mask=c < channels, other=0).to(ACC)[None, :]
    if bias is not None:
        acc += tl.load(bias + c, mask=c < channels, other=0).to(ACC)[None, :]
    return acc


@triton.jit
@no_type_check
def _forward_kernel(
    x, weight, bias, initial, y, starts, stops, segments, cu_seqlens, length, channels,
    WIDTH: tl.constexpr, SILU: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Grid (tiles, blocks of channels). A program reads K shifted tiles of ``x`` and writes one of ``y``."""
    start, c, valid, segment, first, _ = _tile(starts, stops, segments, cu_seqlens, channels, BLOCK_T, BLOCK_C)
    if initial is not None:
        initial += (segment + 1) * (WIDTH - 1) * channels
    inputs = address(x, start, length)
    out = _convolve(inputs, weight, bias, initial, c, valid, first, channels, x.step, WIDTH, BLOCK_T, ACC)
    if SILU:
        out *= sigmoid(out)
    y += start * channels
    tl.store(y + (tl.arange(0, BLOCK_T)[:, None] * channels + c[None, :]), out.to(y.dtype.element_ty), mask=valid)


@triton.jit
@no_type_check
def _weight_gradient_kernel(
    x, weight, bias, initial, dy, g, dweight, dbias, starts, stops, segments, cu_seqlens, length, channels,
    WIDTH: tl.constexpr, SILU: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """``g`` and this tile's part of dweight (tiles, width, channels) and dbias (tiles, channels).

    Grid (tiles, blocks of channels). Without an activation g is dy itself and is not written.
    """
    tile, t = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK_T)
    start, c, valid, segment, first, _ = _tile(starts, stops, segments, cu_seqlens, channels, BLOCK_T, BLOCK_C)
    if initial is not None:
        initial += (segment + 1) * (WIDTH - 1) * channels
    inputs, outputs = address(x, start, length), address(dy, start, length)
    grad = tl.load(outputs + (t[:, None] * dy.step + c[None, :]), mask=valid, other=0).to(ACC)
    if SILU:
        conv = _convolve(inputs, weight, bias, initial, c, valid, first, channels, x.step, WIDTH, BLOCK_T, ACC)
        grad *= silu_slope(conv, sigmoid(conv))
        tl.store(g + start * channels + (t[:, None] * channels + c[None, :]), grad, mask=valid)
    for k in tl.range(WIDTH):
        shifted = _load_inputs(inputs, initial, t + k - (WIDTH - 1), c, valid, first, channels, x.step, ACC)
        # Outputs beyond the tile have grad = 0, so their inputs add nothing.
        tl.store(dweight + (tile * WIDTH + k) * channels + c, tl.sum(grad * shifted, 0), mask=c < channels)
    if dbias is not None:
        tl.store(dbias + tile * channels + c, tl.sum(grad, 0), mask=c < channels)


@triton.jit
@no_type_check
def _transposed_convolve(
    g, weight, s, c, valid, first, end, channels, step, WIDTH: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """``sum_k weight[c, k] g[s + K-1 - k, c]`` over the outputs of one segment, which are those in [first, end)."""
    # The transposed convolution: output t = s + K-1 - k read the input s through tap k.
    acc = tl.zeros(valid.shape, ACC)
    for k in tl.range(WIDTH, loop_unroll_factor=4):
        t = s[:, None] + (WIDTH - 1) - k
        grad = tl.load(g + (t * step + c[None, :]), mask=valid & (t >= first) & (t < end), other=0).to(ACC)
        acc += grad * tl.load(weight + k * channels + c, mask=c < channels, other=0).to(ACC)[None, :]
    return acc


@triton.jit
@no_type_check
def _input_gradient_kernel(
    g, weight, dx, starts, stops, segments, cu_seqlens, length, channels,
    WIDTH: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Grid (tiles, blocks of channels). A program reads K shifted tiles of ``g`` and writes one of ``dx``."""
    start, c, valid, _, first, end = _tile(starts, stops, segments, cu_seqlens, channels, BLOCK_T, BLOCK_C)
    t = tl.arange(0, BLOCK_T)
    grads = address(g, start, length)
    acc = _transposed_convolve(grads, weight, t, c, valid, first, end, channels, g.step, WIDTH, ACC)
    dx += start * channels
    tl.store(dx + (t[:, None] * channels + c[None, :]), acc.to(dx.dtype.element_ty), mask=valid)


@triton.jit
@no_type_check
def _state_gradient_kernel(
    g, weight, dinitial, cu_seqlens, length, channels,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradient of the initial state: of the ``K-1`` inputs before each segment.

    Grid (segments, blocks of channels). ROWS is K-1 rounded up to a power of two; positions count from the segment.
    """
    segment = tl.program_id(0).to(tl.int64)
    start = tl.load(cu_seqlens + segment)
    end = (tl.load(cu_seqlens + segment + 1) - start).to(tl.int32)
    j, c = tl.arange(0, ROWS), tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    valid = (j < WIDTH - 1)[:, None] & (c < channels)[None, :]
    grads = address(g, start, length)
    # Inputs at negative positions -(K-1)..-1 of the segment: row j of the state is position j - (K-1).
    acc = _transposed_convolve(grads, weight, j - (WIDTH - 1), c, valid, 0, end, channels, g.step, WIDTH, ACC)
    column = tl.program_id(1) * BLOCK_C
    rows = dinitial + segment * (WIDTH - 1) * channels + column
    store_tile(rows, channels, acc, WIDTH - 1, channels - column, ROWS, BLOCK_C)


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


@reversible("x")
def causal_conv1d(inputs: Inputs) -> Tensor:
    """The output."""
    y: Tensor = _forward(inputs)
    return y


@operator("causal_conv1d_triton", lambda inputs: inputs.x.new_empty(inputs.x.shape))
def _forward(inputs: Inputs) -> Tensor:
    """The output."""
    x, weight, bias, activation, initial_state, cu_seqlens, _ = inputs
    y = x.new_empty(x.shape)
    if y.numel() == 0:
        return y
    _, length, channels = x.shape
    chunks = Chunks.split(cu_seqlens, x, BLOCK_T)
    with on_device(x):
        _forward_kernel[(len(chunks.starts), triton.cdiv(channels, BLOCK_C))](
            view(x), weight.T.contiguous(), _contiguous(bias), _contiguous(initial_state), y, *chunks[:4],
            length, channels, weight.shape[1], activation == "silu", BLOCK_T, BLOCK_C, TYPES[accumulator_dtype(x)],
        )  # fmt: skip
    return y


@operator("causal_conv1d_triton_backward", lambda inputs, _: _empty_gradients(inputs))
def _backward(inputs: Inputs, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and the initial state; the last two empty where there is none."""
    x, weight, bias, activation, initial_state, cu_seqlens, _ = inputs
    dx, dweight, dbias, dinitial = _empty_gradients(inputs)
    if x.numel() == 0:
        return dx, dweight.zero_(), dbias.zero_(), dinitial.zero_()
    (_, length, channels), width, dtype = x.shape, weight.shape[1], accumulator_dtype(x)
    signal, outputs = view(x), view(dy)
    taps, silu = weight.T.contiguous(), activation == "silu"
    chunks, blocks = Chunks.split(cu_seqlens, x, BLOCK_T), triton.cdiv(channels, BLOCK_C)
    tiles = len(chunks.starts)
    # Without an activation g is dy; with one it is kept in the accumulators' dtype, so dx rounds only once.
    g = torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format) if silu else outputs.ptr
    # A part per tile instead of atomic additions: the sum has one order, so results repeat bit by bit.
    weight_parts = dweight.new_empty(tiles, width, channels)
    bias_parts = None if bias is None else dbias.new_empty(tiles, channels)
    sizes = (length, channels)
    with on_device(x):
        _weight_gradient_kernel[(tiles, blocks)](
            signal, taps, _contiguous(bias), _contiguous(initial_state), outputs, g, weight_parts, bias_parts,
            *chunks[:4], *sizes, width, silu, BLOCK_T, BLOCK_C, TYPES[dtype], num_warps=8,
        )  # fmt: skip
        grads = view(g)
        _input_gradient_kernel[(tiles, blocks)](
            grads, taps, dx, *chunks[:4], *sizes, width, BLOCK_T, BLOCK_C, TYPES[dtype]
        )
        if dinitial.numel():
            rows = triton.next_power_of_2(width - 1)
            _state_gradient_kernel[(len(dinitial), blocks)](
                grads, taps, dinitial, chunks.cu_seqlens, *sizes, width, rows, BLOCK_C, TYPES[dtype]
            )
    return dx, weight_parts.sum(0).T.contiguous(), dbias if bias_parts is None else bias_parts.sum(0), dinitial


def _empty_gradients(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, bias, (channels, width), dtype = inputs.x, inputs.bias, inputs.weight.shape, accumulator_dtype(inputs.x)
    rows = 0 if inputs.initial_state is None else count_segments(inputs.cu_seqlens, x.shape[0])
    return (
        x.new_empty(x.shape),
        x.new_empty(channels, width, dtype=dtype),
        x.new_empty(0 if bias is None else channels, dtype=dtype),
        x.new_empty(rows, width - 1, channels, dtype=dtype),
    )


differentiate_by(_forward, _backward, Inputs)
