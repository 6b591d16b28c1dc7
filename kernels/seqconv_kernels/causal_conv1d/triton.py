"""The short causal convolution in Triton: one program per tile of steps and channels, that crosses no bound.

The backward takes the gradient through the activation first, ``g = dy act'(conv)``, together with the parts of each
tile in the gradients of weight and bias; a second kernel sends g back to the inputs and to the initial state::

    dweight[c, k] = sum_t g[t, c] x[t - (K-1) + k, c],    dx[s, c] = sum_k weight[c, k] g[s + K-1 - k, c]
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._core.native import dense_rows
from .._core.operators import operator, typed_like
from .._core.triton_functions import TYPES, row_at, sigmoid
from .._core.triton_support import Chunks, count_segments, on_device, sums_dtype

BLOCK_T = 32
BLOCK_C = 64


@triton.jit
@no_type_check
def _tile(starts, stops, segments, bounds, channels, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr):
    """Start of this program's tile, its channels, which elements exist, its segment and where that begins and ends.

    Positions inside the kernels count from the start of the tile, so that they fit 32 bits.
    """
    tile = tl.program_id(0)
    start, segment = tl.load(starts + tile), tl.load(segments + tile)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    live = (tl.arange(0, BLOCK_T) < tl.load(stops + tile) - start)[:, None] & (c < channels)[None, :]
    first, last = tl.load(bounds + segment) - start, tl.load(bounds + segment + 1) - start
    return start, c, live, segment, first.to(tl.int32), last.to(tl.int32)


@triton.jit
@no_type_check
def _heard(x, initial, s, c, live, first, channels, x_step, SUMS: tl.constexpr):
    """Inputs at positions s of one segment; those before its first come from the initial state."""
    at = s[:, None]
    heard = tl.load(x + (at * x_step + c[None, :]), mask=live & (at >= first), other=0).to(SUMS)
    if initial is not None:
        heard += tl.load(initial + ((at - first) * channels + c[None, :]), mask=live & (at < first), other=0).to(SUMS)
    return heard


@triton.jit
@no_type_check
def _convolve(
    x, weight, bias, initial, c, live, first, channels, x_step,
    WIDTH: tl.constexpr, BLOCK_T: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """The sums before the activation."""
    sums = tl.zeros(live.shape, SUMS)
    for k in tl.range(WIDTH, loop_unroll_factor=4):
        heard = _heard(x, initial, tl.arange(0, BLOCK_T) + k - (WIDTH - 1), c, live, first, channels, x_step, SUMS)
        sums += heard * tl.load(weight + k * channels + c, mask=c < channels, other=0).to(SUMS)[None, :]
    if bias is not None:
        sums += tl.load(bias + c, mask=c < channels, other=0).to(SUMS)[None, :]
    return sums


@triton.jit
@no_type_check
def _forward_kernel(
    x, weight, bias, initial, y, starts, stops, segments, bounds, length, channels, x_row, x_step,
    WIDTH: tl.constexpr, SILU: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    start, c, live, segment, first, _ = _tile(starts, stops, segments, bounds, channels, BLOCK_T, BLOCK_C)
    if initial is not None:
        initial += (segment + 1) * (WIDTH - 1) * channels
    x = row_at(x, start, length, x_row, x_step)
    out = _convolve(x, weight, bias, initial, c, live, first, channels, x_step, WIDTH, BLOCK_T, SUMS)
    if SILU:
        out *= sigmoid(out)
    y += start * channels
    tl.store(y + (tl.arange(0, BLOCK_T)[:, None] * channels + c[None, :]), out.to(y.dtype.element_ty), mask=live)


@triton.jit
@no_type_check
def _weights_kernel(
    x, weight, bias, initial, dy, g, dweight, dbias, starts, stops, segments, bounds, length, channels,
    x_row, x_step, dy_row, dy_step,
    WIDTH: tl.constexpr, SILU: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    tile, t = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK_T)
    start, c, live, segment, first, _ = _tile(starts, stops, segments, bounds, channels, BLOCK_T, BLOCK_C)
    if initial is not None:
        initial += (segment + 1) * (WIDTH - 1) * channels
    x, dy = row_at(x, start, length, x_row, x_step), row_at(dy, start, length, dy_row, dy_step)
    grad = tl.load(dy + (t[:, None] * dy_step + c[None, :]), mask=live, other=0).to(SUMS)
    if SILU:
        sums = _convolve(x, weight, bias, initial, c, live, first, channels, x_step, WIDTH, BLOCK_T, SUMS)
        gate = sigmoid(sums)
        grad *= gate * (1 + sums * (1 - gate))
        tl.store(g + start * channels + (t[:, None] * channels + c[None, :]), grad, mask=live)
    for k in tl.range(WIDTH):
        heard = _heard(x, initial, t + k - (WIDTH - 1), c, live, first, channels, x_step, SUMS)
        tl.store(dweight + (tile * WIDTH + k) * channels + c, tl.sum(grad * heard, 0), mask=c < channels)
    if dbias is not None:
        tl.store(dbias + tile * channels + c, tl.sum(grad, 0), mask=c < channels)


@triton.jit
@no_type_check
def _send_back(g, weight, s, c, live, first, last, channels, g_step, WIDTH: tl.constexpr, SUMS: tl.constexpr):
    """What outputs from ``first`` to ``last`` send to the inputs at positions s."""
    sums = tl.zeros(live.shape, SUMS)
    for k in tl.range(WIDTH, loop_unroll_factor=4):
        at = s[:, None] + (WIDTH - 1) - k
        grad = tl.load(g + (at * g_step + c[None, :]), mask=live & (at >= first) & (at < last), other=0).to(SUMS)
        sums += grad * tl.load(weight + k * channels + c, mask=c < channels, other=0).to(SUMS)[None, :]
    return sums


@triton.jit
@no_type_check
def _inputs_kernel(
    g, weight, dx, starts, stops, segments, bounds, length, channels, g_row, g_step,
    WIDTH: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    start, c, live, _, first, last = _tile(starts, stops, segments, bounds, channels, BLOCK_T, BLOCK_C)
    g, t = row_at(g, start, length, g_row, g_step), tl.arange(0, BLOCK_T)
    sums = _send_back(g, weight, t, c, live, first, last, channels, g_step, WIDTH, SUMS)
    dx += start * channels
    tl.store(dx + (t[:, None] * channels + c[None, :]), sums.to(dx.dtype.element_ty), mask=live)


@triton.jit
@no_type_check
def _states_kernel(
    g, weight, dinitial, bounds, length, channels, g_row, g_step,
    WIDTH: tl.constexpr, REACH: tl.constexpr, BLOCK_C: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Tiles of REACH >= WIDTH - 1 positions before each segment, which here count from its start."""
    segment = tl.program_id(0).to(tl.int64)
    start = tl.load(bounds + segment)
    last = (tl.load(bounds + segment + 1) - start).to(tl.int32)
    j, c = tl.arange(0, REACH), tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    live = (j < WIDTH - 1)[:, None] & (c < channels)[None, :]
    g = row_at(g, start, length, g_row, g_step)
    sums = _send_back(g, weight, j - (WIDTH - 1), c, live, 0, last, channels, g_step, WIDTH, SUMS)
    tl.store(dinitial + (segment * (WIDTH - 1) + j[:, None]) * channels + c[None, :], sums, mask=live)


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


@operator("causal_conv1d_triton", lambda x, *_: x.new_empty(x.shape))
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> Tensor:
    """The output."""
    y = x.new_empty(x.shape)
    if y.numel() == 0:
        return y
    (_, length, channels), x = x.shape, dense_rows(x)
    cut = Chunks.cut(cu_seqlens, x, BLOCK_T)
    with on_device(x):
        _forward_kernel[(len(cut.starts), triton.cdiv(channels, BLOCK_C))](
            x, weight.T.contiguous(), _contiguous(bias), _contiguous(initial_state), y, *cut[:4], length, channels,
            x.stride(0), x.stride(1), weight.shape[1], activation == "silu", BLOCK_T, BLOCK_C, TYPES[sums_dtype(x)],
        )  # fmt: skip
    return y


@operator("causal_conv1d_triton_backward", lambda *a: _gradients(*a[:3], *a[4:6]))
def _backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    dy: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and the initial state; the last two empty where there is none."""
    dx, dweight, dbias, dinitial = _gradients(x, weight, bias, initial_state, cu_seqlens)
    if x.numel() == 0:
        return dx, dweight.zero_(), dbias.zero_(), dinitial.zero_()
    (_, length, channels), width, dtype = x.shape, weight.shape[1], sums_dtype(x)
    x, dy, taps, silu = dense_rows(x), dense_rows(dy), weight.T.contiguous(), activation == "silu"
    cut, blocks = Chunks.cut(cu_seqlens, x, BLOCK_T), triton.cdiv(channels, BLOCK_C)
    tiles = len(cut.starts)
    g = torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format) if silu else dy
    weight_parts = dweight.new_empty(tiles, width, channels)
    bias_parts = None if bias is None else dbias.new_empty(tiles, channels)
    sizes = (length, channels)
    with on_device(x):
        _weights_kernel[(tiles, blocks)](
            x, taps, _contiguous(bias), _contiguous(initial_state), dy, g, weight_parts, bias_parts, *cut[:4], *sizes,
            *x.stride()[:2], *dy.stride()[:2], width, silu, BLOCK_T, BLOCK_C, TYPES[dtype], num_warps=8,
        )  # fmt: skip
        _inputs_kernel[(tiles, blocks)](
            g, taps, dx, *cut[:4], *sizes, *g.stride()[:2], width, BLOCK_T, BLOCK_C, TYPES[dtype]
        )
        if dinitial.numel():
            reach = triton.next_power_of_2(width - 1)
            _states_kernel[(len(dinitial), blocks)](
                g, taps, dinitial, cut.bounds, *sizes, *g.stride()[:2], width, reach, BLOCK_C, TYPES[dtype]
            )
    return dx, weight_parts.sum(0).T.contiguous(), dbias if bias_parts is None else bias_parts.sum(0), dinitial


def _gradients(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (channels, width), dtype = weight.shape, sums_dtype(x)
    rows = 0 if initial_state is None else count_segments(cu_seqlens, x.shape[0])
    return (
        x.new_empty(x.shape),
        x.new_empty(channels, width, dtype=dtype),
        x.new_empty(0 if bias is None else channels, dtype=dtype),
        x.new_empty(rows, width - 1, channels, dtype=dtype),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.activation, initial_state, cu_seqlens = inputs
    ctx.save_for_backward(x, weight, bias, initial_state, cu_seqlens)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, initial_state, cu_seqlens = ctx.saved_tensors
    gradients = _backward(x, weight, bias, ctx.activation, initial_state, cu_seqlens, dy)
    cast = typed_like((x, weight, bias, initial_state), gradients)
    return (*cast[:3], None, cast[3], None)


causal_conv1d.differentiate(_setup_context, _differentiate)
