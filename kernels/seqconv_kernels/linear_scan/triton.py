"""The real diagonal scan in Triton: chunks side by side, the states between them, then the chunks again from these.

Backwards in time runs the adjoint, ``d[t] = g[t] + a[t+1] d[t+1]``; the gradient of either is made of the other.
:func:`join`, the step between the chunks, serves every scan that is cut into chunks.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._core.operators import operator
from .._core.triton_support import Chunks, on_device

BLOCK = 128
LEAST_CHUNK = 32
AHEAD = 8


@triton.jit
@no_type_check
def _factor(a, t, last, c, channels, BACKWARDS: tl.constexpr):
    """The factor that leads to step t; backwards it is that of the step after, and none at the end of a segment."""
    if BACKWARDS:
        return tl.load(a + (t + 1) * channels + c, mask=c < tl.where(t + 1 < last, channels, 0), other=0)
    return tl.load(a + t * channels + c, mask=c < channels, other=0)


@triton.jit
@no_type_check
def _ends_kernel(
    a, x, ends, decays, starts, stops, segments, bounds, channels, BACKWARDS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """What each chunk makes of a state of zero, and its product of factors."""
    chunk, c = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    start, stop, live = tl.load(starts + chunk), tl.load(stops + chunk), c < channels
    last = tl.load(bounds + tl.load(segments + chunk) + 1)
    h, decay = tl.zeros([BLOCK], ends.dtype.element_ty), tl.full([BLOCK], 1, ends.dtype.element_ty)
    for i in tl.range(0, stop - start, loop_unroll_factor=4):
        t = stop - 1 - i if BACKWARDS else start + i
        factor = _factor(a, t, last, c, channels, BACKWARDS)
        h = factor * h + tl.load(x + t * channels + c, mask=live, other=0)
        decay *= factor
    tl.store(ends + chunk * channels + c, h, mask=live)
    tl.store(decays + chunk * channels + c, decay, mask=live)


@triton.jit
@no_type_check
def _states_kernel(
    a, x, entering, out, starts, stops, segments, bounds, channels, BACKWARDS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """All states of each chunk from the one that enters it."""
    chunk, c = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    start, stop, live = tl.load(starts + chunk), tl.load(stops + chunk), c < channels
    last = tl.load(bounds + tl.load(segments + chunk) + 1)
    h = tl.load(entering + chunk * channels + c, mask=live, other=0)
    for i in tl.range(0, stop - start, loop_unroll_factor=4):
        t = stop - 1 - i if BACKWARDS else start + i
        h = _factor(a, t, last, c, channels, BACKWARDS) * h
        h += tl.load(x + t * channels + c, mask=live, other=0)
        tl.store(out + t * channels + c, h, mask=live)


@triton.jit
@no_type_check
def _join_kernel(
    decays, ends, initial, final, first, width, inner,
    BACKWARDS: tl.constexpr, AHEAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """From chunk to chunk of a segment; AHEAD of them are loaded at a time, for the loads to overlap."""
    segment, w = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    low, high, live = tl.load(first + segment), tl.load(first + segment + 1), w < width
    h = tl.zeros([BLOCK], ends.dtype.element_ty)
    if initial is not None:
        h += tl.load(initial + segment * width + w, mask=live, other=0).to(ends.dtype.element_ty)
    for i in tl.range(0, high - low, AHEAD):
        near = high - 1 - i if BACKWARDS else low + i
        loaded = ()
        for j in tl.static_range(AHEAD):
            chunk = near - j if BACKWARDS else near + j
            there = w < tl.where(high - low > i + j, width, 0)
            decay = tl.load(decays + chunk * (width // inner) + w // inner, mask=there, other=1)
            loaded += (decay, tl.load(ends + chunk * width + w, mask=there, other=0))
        for j in tl.static_range(AHEAD):
            chunk = near - j if BACKWARDS else near + j
            tl.store(ends + chunk * width + w, h, mask=w < tl.where(high - low > i + j, width, 0))
            h = loaded[2 * j] * h + loaded[2 * j + 1]
    tl.store(final + segment * width + w, h, mask=live)


def join(
    decays: Tensor, ends: Tensor, initial: Tensor | None, first: Tensor, *, backwards: bool = False, inner: int = 1
) -> Tensor:
    """Run ``S <- decays[c] S + ends[c]`` over the chunks of every segment; return the last states.

    Args:
        decays: (chunks, width / inner), each factor for ``inner`` neighbours of the state.
        ends: (chunks, width); overwritten by the states that enter the chunks.
        initial: (segments, width), or ``None`` for zero.
        first: the first chunk of each segment, and the end.
        backwards: from the last chunk of each segment to its first.
        inner: neighbours that share a factor.
    """
    segments, width = len(first) - 1, ends.shape[1]
    final = ends.new_empty(segments, width)
    with on_device(ends):
        _join_kernel[(segments, triton.cdiv(width, BLOCK))](
            decays, ends, initial, final, first, width, inner, backwards, AHEAD, BLOCK
        )
    return final


def _run(a: Tensor, x: Tensor, state: Tensor | None, backwards: bool) -> Tensor:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    if out.numel() == 0:
        return out
    a, x, channels = a.contiguous(), x.contiguous(), x[0, 0].numel()
    size = max(LEAST_CHUNK, triton.next_power_of_2(int(x.shape[1] ** 0.5)))
    cut = Chunks.cut(None, x, size)
    ends, decays = x.new_empty(2, len(cut.starts), channels)
    grid = (len(cut.starts), triton.cdiv(channels, BLOCK))
    with on_device(x):
        _ends_kernel[grid](a, x, ends, decays, *cut[:4], channels, backwards, BLOCK)
        join(decays, ends, None if state is None else state.contiguous(), cut.first, backwards=backwards)
        _states_kernel[grid](a, x, ends, out, *cut[:4], channels, backwards, BLOCK)
    return out


@operator("linear_scan_triton", lambda a, x, state: x.new_empty(x.shape))
def linear_scan(a: Tensor, x: Tensor, state: Tensor) -> Tensor:
    """h[t] = a[t] h[t-1] + x[t] along axis 1; all tensors of one real dtype."""
    return _run(a, x, state, backwards=False)


@operator("linear_scan_triton_adjoint", lambda a, g: g.new_empty(g.shape))
def _adjoint(a: Tensor, g: Tensor) -> Tensor:
    """d[t] = g[t] + a[t+1] d[t+1] along axis 1."""
    return _run(a, g, None, backwards=True)


def _delayed(h: Tensor, first: Tensor) -> Tensor:
    return torch.cat([first[:, None], h[:, :-1]], dim=1)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[2], output)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, state, h = ctx.saved_tensors
    dx = _adjoint(a, grad)
    return dx * _delayed(h, state), dx, dx[:, 0] * a[:, 0]


def _save_adjoint(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], output)


def _differentiate_adjoint(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    a, d = ctx.saved_tensors
    nothing = torch.zeros_like(d[:, 0])
    dg = linear_scan(a, grad, nothing)
    return d * _delayed(dg, nothing), dg


linear_scan.differentiate(_save, _differentiate)
_adjoint.differentiate(_save_adjoint, _differentiate_adjoint)
