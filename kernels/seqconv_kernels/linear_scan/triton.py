"""The real diagonal scan in Triton, ``h[t] = a[t] h[t-1] + x[t]`` over (length, channels): a chunked scan.

Three kernels, as in every chunked scan (Mamba-2's ``chunk_state``, ``state_passing``, ``chunk_scan``):

1. *chunk_state*: all chunks in parallel, each from a state of zero: its final state and its total decay, the product
   of its factors;
2. *state_passing*: sequential over the chunks of a segment, but only one multiply-add per chunk and channel:
   ``S <- decay[c] S + state[c]``;
3. *chunk_scan*: all chunks in parallel, each from the state that enters it; this writes the output.

So a and x are read twice and h is written once, and nothing is divided by a decay: a factor of zero is a clean reset.

The adjoint runs backwards in time: with ``g[t] = dL/dh[t]`` as the output receives it, and ``d[t]`` the gradient that
reaches h[t] on all paths,

    d[t] = g[t] + a[t+1] d[t+1],      dx[t] = d[t],      da[t] = d[t] h[t-1],      dstate = a[0] d[0]

It is the same scan with the factors shifted by one step, so the same kernels run it (``BACKWARDS``), and the gradient
of either scan is made of the other. :func:`state_passing` serves every op whose state decays by elementwise factors.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._core.operator.operators import operator
from .._core.triton.support import Chunks, on_device
from .reference import scan_batch
from .spec import Inputs

BLOCK = 128
"""Channels of a program: one per thread of four warps, so that a row is read in full 512-byte lines (float32)."""
MIN_CHUNK = 32
"""Steps of the shortest chunk; a longer sequence takes about its square root, which balances kernels 2 and 3."""
PREFETCH = 8
"""Chunks whose states are loaded before any is used: state_passing would else wait for memory at every chunk."""


@triton.jit
@no_type_check
def _load_factor(a, t, end, c, channels, BACKWARDS: tl.constexpr):
    """The factor that leads to step t; backwards it is a[t+1], and zero at the last step of a segment."""
    if BACKWARDS:
        # One past the last step belongs to the next segment, whose gradient must not flow into this one.
        return tl.load(a + (t + 1) * channels + c, mask=c < tl.where(t + 1 < end, channels, 0), other=0)
    return tl.load(a + t * channels + c, mask=c < channels, other=0)


@triton.jit
@no_type_check
def _chunk_state_kernel(
    a, x, states, decays, starts, stops, segments, cu_seqlens, channels, BACKWARDS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Final state of each chunk from an initial state of zero, and its total decay.

    Grid (chunks, blocks of channels). A program owns one chunk of BLOCK channels, a thread one channel. It streams the
    rows of ``a`` and ``x`` in (reversed) time order and accumulates both results in registers.
    """
    chunk, c = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    start, stop, valid = tl.load(starts + chunk), tl.load(stops + chunk), c < channels
    end = tl.load(cu_seqlens + tl.load(segments + chunk) + 1)
    h, decay = tl.zeros([BLOCK], states.dtype.element_ty), tl.full([BLOCK], 1, states.dtype.element_ty)
    # Loads do not depend on h, so unrolling lets four steps' loads be in flight at once.
    for i in tl.range(0, stop - start, loop_unroll_factor=4):
        t = stop - 1 - i if BACKWARDS else start + i
        factor = _load_factor(a, t, end, c, channels, BACKWARDS)
        h = factor * h + tl.load(x + t * channels + c, mask=valid, other=0)
        decay *= factor
    tl.store(states + chunk * channels + c, h, mask=valid)
    tl.store(decays + chunk * channels + c, decay, mask=valid)


@triton.jit
@no_type_check
def _chunk_scan_kernel(
    a, x, entering, out, starts, stops, segments, cu_seqlens, channels, BACKWARDS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """All states of each chunk from the state that enters it. Grid and streams as in :func:`_chunk_state_kernel`."""
    chunk, c = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    start, stop, valid = tl.load(starts + chunk), tl.load(stops + chunk), c < channels
    end = tl.load(cu_seqlens + tl.load(segments + chunk) + 1)
    h = tl.load(entering + chunk * channels + c, mask=valid, other=0)
    for i in tl.range(0, stop - start, loop_unroll_factor=4):
        t = stop - 1 - i if BACKWARDS else start + i
        # The recurrence again, now from the state that enters; each h is stored, whole lines over the channels.
        h = _load_factor(a, t, end, c, channels, BACKWARDS) * h
        h += tl.load(x + t * channels + c, mask=valid, other=0)
        tl.store(out + t * channels + c, h, mask=valid)


@triton.jit
@no_type_check
def _state_passing_kernel(
    decays, states, initial, final, offsets, width, inner,
    BACKWARDS: tl.constexpr, PREFETCH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``S <- decay[c] S + states[c]`` over the chunks of a segment; states[c] becomes the state that enters chunk c.

    Grid (segments, blocks of the state's elements). A program owns BLOCK elements of the state of one segment, keeps
    them in registers, and streams ``decays`` and ``states`` chunk by chunk, PREFETCH of them ahead.
    """
    segment, w = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    low, high, valid = tl.load(offsets + segment), tl.load(offsets + segment + 1), w < width
    h = tl.zeros([BLOCK], states.dtype.element_ty)
    if initial is not None:
        h += tl.load(initial + segment * width + w, mask=valid, other=0).to(states.dtype.element_ty)
    for i in tl.range(0, high - low, PREFETCH):
        nearest = high - 1 - i if BACKWARDS else low + i
        # First all loads of the group, then its chain of multiply-adds: the latency of memory is paid once per group.
        loaded = ()
        for j in tl.static_range(PREFETCH):
            chunk = nearest - j if BACKWARDS else nearest + j
            exists = w < tl.where(high - low > i + j, width, 0)
            # `inner` neighbouring elements of a state share a factor, as the d_v elements of one key channel do.
            decay = tl.load(decays + chunk * (width // inner) + w // inner, mask=exists, other=1)
            loaded += (decay, tl.load(states + chunk * width + w, mask=exists, other=0))
        for j in tl.static_range(PREFETCH):
            chunk = nearest - j if BACKWARDS else nearest + j
            # In place: what a chunk adds was loaded above, so its slot is free for the state that enters it.
            tl.store(states + chunk * width + w, h, mask=w < tl.where(high - low > i + j, width, 0))
            h = loaded[2 * j] * h + loaded[2 * j + 1]
    tl.store(final + segment * width + w, h, mask=valid)


def state_passing(
    decays: Tensor, states: Tensor, initial: Tensor | None, offsets: Tensor, *, backwards: bool = False, inner: int = 1
) -> Tensor:
    """Run ``S <- decays[c] S + states[c]`` over the chunks of every segment; return the final states.

    Args:
        decays: (chunks, width / inner), each factor for ``inner`` neighbouring elements of the state.
        states: (chunks, width), what each chunk adds; overwritten by the states that enter the chunks.
        initial: (segments, width), or ``None`` for zero.
        offsets: first chunk of each segment, and the end.
        backwards: from the last chunk of each segment to its first.
        inner: neighbouring elements that share a factor.
    """
    segments, width = len(offsets) - 1, states.shape[1]
    final = states.new_empty(segments, width)
    with on_device(states):
        _state_passing_kernel[(segments, triton.cdiv(width, BLOCK))](
            decays, states, initial, final, offsets, width, inner, backwards, PREFETCH, BLOCK
        )
    return final


def _scan(a: Tensor, x: Tensor, state: Tensor | None, backwards: bool) -> Tensor:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    if out.numel() == 0:
        return out
    a, x, channels = a.contiguous(), x.contiguous(), x[0, 0].numel()
    # L / size sequential steps of state passing, size sequential steps within a chunk: least at size = sqrt(L).
    size = max(MIN_CHUNK, triton.next_power_of_2(int(x.shape[1] ** 0.5)))
    chunks = Chunks.split(None, x, size)
    states, decays = x.new_empty(2, len(chunks.starts), channels)
    grid = (len(chunks.starts), triton.cdiv(channels, BLOCK))
    with on_device(x):
        _chunk_state_kernel[grid](a, x, states, decays, *chunks[:4], channels, backwards, BLOCK)
        initial = None if state is None else state.contiguous()
        state_passing(decays, states, initial, chunks.offsets, backwards=backwards)
        _chunk_scan_kernel[grid](a, x, states, out, *chunks[:4], channels, backwards, BLOCK)
    return out


def linear_scan(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The states and the final ones."""
    return scan_batch(_forward, inputs)


@operator("linear_scan_triton", lambda a, x, state: x.new_empty(x.shape))
def _forward(a: Tensor, x: Tensor, state: Tensor) -> Tensor:
    """h[t] = a[t] h[t-1] + x[t] along axis 1; all tensors of one real dtype."""
    return _scan(a, x, state, backwards=False)


@operator("linear_scan_triton_adjoint", lambda a, g: g.new_empty(g.shape))
def _adjoint(a: Tensor, g: Tensor) -> Tensor:
    """d[t] = g[t] + a[t+1] d[t+1] along axis 1."""
    return _scan(a, g, None, backwards=True)


def _shift(h: Tensor, first: Tensor) -> Tensor:
    """``h[t-1]``, with ``first`` before the first step."""
    return torch.cat([first[:, None], h[:, :-1]], dim=1)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[2], output)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """da[t] = d[t] h[t-1], dx[t] = d[t], dstate = a[0] d[0]."""
    a, state, h = ctx.saved_tensors
    dx = _adjoint(a, grad)
    return dx * _shift(h, state), dx, dx[:, 0] * a[:, 0]


def _save_adjoint(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], output)


def _differentiate_adjoint(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Of ``d = adjoint(a, g)``: dg is the forward scan of the gradient, and ``da[t] = d[t] dg[t-1]``."""
    a, d = ctx.saved_tensors
    zero = torch.zeros_like(d[:, 0])
    dg = _forward(a, grad, zero)
    return d * _shift(dg, zero), dg


_forward.differentiate(_save, _differentiate)
_adjoint.differentiate(_save_adjoint, _differentiate_adjoint)
