"""The recurrent cells in Triton: one program per block of sequences and head, which runs through all tokens.

Forward, per head and token (cells as in :mod:`.cells`)::

    r_g = R_g h + b_g for every gate g        states = cell(x, r, states)

The weights of a head are loaded once and stay on chip, in registers and shared memory, together with the states: per
token only x is read and h (and what the backward pass needs) written. The product of a block of sequences with the
weights of a gate runs on the matrix units. Backward, from the last token to the first, with d the gradients of the
states on all paths::

    (dx, dr, d) = adjoint of the cell        d_h += sum over g of R_g^T dr_g

dr goes to memory; the weight's gradient, the sum over all tokens of dr h[t-1]^T, is one matrix product afterwards.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._core.triton.functions import TYPES, sigmoid
from .._core.triton.support import accumulator_dtype, on_device
from .autograd import SAVED, gradients, kernels, outputs
from .cells import CELLS
from .spec import Inputs

ROWS = 16
"""Sequences of a program: the height of the smallest matrix product."""
MIN_BLOCK = 16
"""Channels that a matrix product needs at least."""
WARPS = 8
"""Of a program: with 16 each thread has too few registers for its share of the weights, and spills more."""
LSTM: tl.constexpr = tl.constexpr(0)
GRU: tl.constexpr = tl.constexpr(1)
ELMAN: tl.constexpr = tl.constexpr(2)
CODES = {"lstm": 0, "gru": 1, "elman": 2, "slstm": 3}
"""What the kernels call the cells."""


@triton.jit
@no_type_check
def _tanh(x):
    # From e^(-2|x|), which cannot overflow; Triton has no tanh for every dtype.
    small = tl.exp(-2 * tl.abs(x))
    far = (1 - small) / (1 + small)
    return tl.where(x < 0, -far, far)


@triton.jit
@no_type_check
def _cell(x, r, h, c, n, m, CELL: tl.constexpr):
    """The states after a token, and what is saved of it; states that a cell does not have pass through."""
    if CELL == LSTM:
        i, f, z, o = sigmoid(x[0] + r[0]), sigmoid(x[1] + r[1]), _tanh(x[2] + r[2]), sigmoid(x[3] + r[3])
        c = f * c + i * z
        return (o * _tanh(c), c, n, m), (i, f, z, o, c)
    elif CELL == GRU:
        reset, update = sigmoid(x[0] + r[0]), sigmoid(x[1] + r[1])
        fresh = _tanh(x[2] + reset * r[2])
        return (update * h + (1 - update) * fresh, c, n, m), (reset, update, fresh, r[2])
    elif CELL == ELMAN:
        return (_tanh(x[0] + r[0]), c, n, m), ()
    else:
        i, f = x[0] + r[0], x[1] + r[1]
        # log sigmoid(f), by an exponential that cannot overflow; gates are taken relative to the larger exponent m.
        kept = m + tl.minimum(f, 0.0) - tl.log(1 + tl.exp(-tl.abs(f)))
        m = tl.where((n == 0) | (kept < i), i, kept)
        enter, stay = tl.exp(i - m), tl.minimum(tl.exp(tl.minimum(kept - m, 0.0)), 1.0)
        z, o = _tanh(x[2] + r[2]), sigmoid(x[3] + r[3])
        c, n = stay * c + enter * z, tl.maximum(stay * n + enter, 1.0)
        return (o * c / n, c, n, m), (enter, stay, z, o, c, n, sigmoid(-f))


@triton.jit
@no_type_check
def _cell_backward(s, before, h, dh, dc, dn, dm, CELL: tl.constexpr):
    """Gradients of x and r, and of the states before the token but for what flows through r."""
    if CELL == LSTM:
        squashed = _tanh(s[4])
        total = dc + dh * s[3] * (1 - squashed * squashed)
        gate_i, gate_f = total * s[2] * s[0] * (1 - s[0]), total * before[1] * s[1] * (1 - s[1])
        gate_z, gate_o = total * s[0] * (1 - s[2] * s[2]), dh * squashed * s[3] * (1 - s[3])
        dx = (gate_i, gate_f, gate_z, gate_o)
        return dx, dx, (dh * 0, total * s[1], dn, dm)
    elif CELL == GRU:
        fresh = dh * (1 - s[1]) * (1 - s[2] * s[2])
        reset = fresh * s[3] * s[0] * (1 - s[0])
        update = dh * (before[0] - s[2]) * s[1] * (1 - s[1])
        return (reset, update, fresh), (reset, update, fresh * s[0]), (dh * s[1], dc, dn, dm)
    elif CELL == ELMAN:
        dx = (dh * (1 - h * h),)
        return dx, dx, (dh * 0, dc, dn, dm)
    else:
        n = tl.maximum(s[5], 1.0)  # zero where there is no token
        total, norm = dc + dh * s[3] / n, dn - dh * h / n
        norm = tl.where(s[1] * before[2] + s[0] < 1, 0.0, norm)
        enter, stay = (total * s[2] + norm) * s[0], (total * before[1] + norm * before[2]) * s[1]
        largest, rest = s[0] == 1, dm - enter - stay  # an input gate of one is that of the maximum
        kept = stay + tl.where(largest, 0.0, rest)
        gate_z, gate_o = total * s[0] * (1 - s[2] * s[2]), dh * s[4] / n * s[3] * (1 - s[3])
        dx = (enter + tl.where(largest, rest, 0.0), kept * s[6], gate_z, gate_o)
        return dx, dx, (dh * 0, total * s[1], norm * s[1], kept)


@triton.jit
@no_type_check
def _weights(weight, head, heads, width, c, G: tl.constexpr, TRANSPOSED: tl.constexpr, ACC: tl.constexpr):
    """The blocks of a head, (in, out) for every gate, or (out, in)."""
    tiles = ()
    valid = (c < width)[:, None] & (c < width)[None, :]
    for g in tl.static_range(G):
        # In memory a block is (out, in); the forward product h W^T reads it as (in, out).
        block = weight + (g * heads + head) * width * width
        if TRANSPOSED:
            tiles += (tl.load(block + c[None, :] * width + c[:, None], mask=valid, other=0).to(ACC),)
        else:
            tiles += (tl.load(block + c[:, None] * width + c[None, :], mask=valid, other=0).to(ACC),)
    return tiles


@triton.jit
@no_type_check
def _planes(ptr, token, head, heads, width, c, mask, PLANES: tl.constexpr, ACC: tl.constexpr):
    """Vectors of a head at the tokens of a block, from (tokens, planes, heads, width)."""
    found = ()
    for p in tl.static_range(PLANES):
        at = ((token * PLANES + p) * heads + head) * width
        found += (tl.load(ptr + at[:, None] + c[None, :], mask=mask, other=0).to(ACC),)
    return found


@triton.jit
@no_type_check
def _store_planes(ptr, values, token, head, heads, width, c, mask, PLANES: tl.constexpr):
    for p in tl.static_range(PLANES):
        at = ((token * PLANES + p) * heads + head) * width
        tl.store(ptr + at[:, None] + c[None, :], values[p], mask=mask)


@triton.jit
@no_type_check
def _state(ptr, n, head, heads, width, c, mask, p, STATES: tl.constexpr, ACC: tl.constexpr):
    """State p of the sequences of a block; zero where the cell has none, or nothing is given."""
    zero = tl.zeros(mask.shape, ACC)
    if ptr is not None:
        if p < STATES:
            at = ((n * STATES + p) * heads + head) * width
            return tl.load(ptr + at[:, None] + c[None, :], mask=mask, other=0).to(ACC)
        else:
            return zero
    else:
        return zero


@triton.jit
@no_type_check
def _states(ptr, n, head, heads, width, c, mask, STATES: tl.constexpr, ACC: tl.constexpr):
    """h, c, n and m of the sequences of a block, (ROWS, BLOCK) each."""
    found = ()
    for p in tl.static_range(4):
        found += (_state(ptr, n, head, heads, width, c, mask, p, STATES, ACC),)
    return found


@triton.jit
@no_type_check
def _forward_kernel(
    x, weight, bias, initial, begins, ends, out, saved, final, sequences, heads, width,
    CELL: tl.constexpr, G: tl.constexpr, STATES: tl.constexpr, SAVED: tl.constexpr, LEARNING: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of sequences, heads). States are (ROWS, BLOCK) in registers, one row per sequence."""
    n, head, c = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1), tl.arange(0, BLOCK)
    exists = n < sequences
    begin, end = tl.load(begins + n, mask=exists, other=0), tl.load(ends + n, mask=exists, other=0)
    valid = exists[:, None] & (c < width)[None, :]
    w = _weights(weight, head, heads, width, c, G, True, ACC)
    biases = ()
    for g in tl.static_range(G):
        if bias is not None:
            biases += (tl.load(bias + (g * heads + head) * width + c, mask=c < width, other=0).to(ACC),)
    h, cc, nn, mm = _states(initial, n, head, heads, width, c, valid, STATES, ACC)
    # As many steps as the longest sequence of the block has tokens: rows whose sequence is over keep their states.
    for step in range(0, tl.max(end - begin)):
        token = begin + step
        now = (token < end)[:, None]
        entering = _planes(x, token, head, heads, width, c, valid & now, G, ACC)
        r = ()
        for g in tl.static_range(G):
            # (ROWS, BLOCK) = (sequences, in) times (in, out), accumulated in ACC.
            product = tl.dot(h, w[g], input_precision=PRECISION, out_dtype=ACC)
            if bias is not None:
                product += biases[g][None, :]
            r += (product,)
        after, kept = _cell(entering, r, h, cc, nn, mm, CELL)
        h, cc = tl.where(now, after[0], h), tl.where(now, after[1], cc)
        nn, mm = tl.where(now, after[2], nn), tl.where(now, after[3], mm)
        _store_planes(out, (h,), token, head, heads, width, c, valid & now, 1)
        if LEARNING:
            _store_planes(saved, kept, token, head, heads, width, c, valid & now, SAVED)
    _store_planes(final, (h, cc, nn, mm), n, head, heads, width, c, valid, STATES)


@triton.jit
@no_type_check
def _backward_kernel(
    weight, initial, begins, ends, out, saved, dout, dfinal, dx, dr, dinitial, sequences, heads, width,
    CELL: tl.constexpr, G: tl.constexpr, STATES: tl.constexpr, SAVED: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid and layouts as in :func:`_forward_kernel`; ``dr`` is ``None`` where it equals dx."""
    n, head, c = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1), tl.arange(0, BLOCK)
    exists = n < sequences
    begin, end = tl.load(begins + n, mask=exists, other=0), tl.load(ends + n, mask=exists, other=0)
    valid = exists[:, None] & (c < width)[None, :]
    w = _weights(weight, head, heads, width, c, G, False, ACC)
    first = _states(initial, n, head, heads, width, c, valid, STATES, ACC)
    dh, dc, dn, dm = _states(dfinal, n, head, heads, width, c, valid, STATES, ACC)
    longest = tl.max(end - begin)
    # Right to left; a row joins at its own last token, until when its gradients are those of the final states.
    for i in range(0, longest):
        step = longest - 1 - i
        token = begin + step
        now = (token < end)[:, None]
        mask, earlier = valid & now, valid & now & (token > begin)[:, None]
        kept = _planes(saved, token, head, heads, width, c, mask, SAVED, ACC)
        (h,) = _planes(out, token, head, heads, width, c, mask, 1, ACC)
        (grad,) = _planes(dout, token, head, heads, width, c, mask, 1, ACC)
        # States before the token: those of the token before, or the initial ones.
        (h_before,) = _planes(out, token - 1, head, heads, width, c, earlier, 1, ACC)
        before = (h_before + tl.where(step > 0, 0.0, first[0]),)
        if STATES > 1:
            at = ((token - 1) * SAVED + 4) * heads * width + head * width
            before += (tl.load(saved + at[:, None] + c[None, :], mask=earlier, other=0).to(ACC)
                       + tl.where(step > 0, 0.0, first[1]),)  # fmt: skip
        if STATES > 2:
            at = ((token - 1) * SAVED + 5) * heads * width + head * width
            before += (tl.load(saved + at[:, None] + c[None, :], mask=earlier, other=0).to(ACC)
                       + tl.where(step > 0, 0.0, first[2]),)  # fmt: skip
        # The output's gradient joins that of the state; gates are dx, products dr, d what reaches the earlier states.
        gates, products, d = _cell_backward(kept, before, h, dh + grad, dc, dn, dm, CELL)
        through = d[0]
        for g in tl.static_range(G):
            through += tl.dot(tl.where(mask, products[g], 0.0), w[g], input_precision=PRECISION, out_dtype=ACC)
        dh, dc = tl.where(mask, through, dh), tl.where(mask, d[1], dc)
        dn, dm = tl.where(mask, d[2], dn), tl.where(mask, d[3], dm)
        _store_planes(dx, gates, token, head, heads, width, c, mask, G)
        if dr is not None:
            _store_planes(dr, products, token, head, heads, width, c, mask, G)
    _store_planes(dinitial, (dh, dc, dn, dm), n, head, heads, width, c, valid, STATES)


def _bounds(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """First token of each sequence, counted through the batch, and the one after its last."""
    x = inputs.x
    if inputs.cu_seqlens is not None:
        bounds = inputs.cu_seqlens.to(x.device, torch.int64)
        return bounds[:-1].contiguous(), bounds[1:].contiguous()
    rows = torch.arange(x.shape[0], device=x.device) * x.shape[1]
    starts = 0 if inputs.starts is None else inputs.starts.to(x.device).clamp(0, x.shape[1])
    return rows + starts, rows + x.shape[1]


def _launch(kernel: Any, inputs: Inputs, before: list[Any], after: list[Any], **options: Any) -> None:
    """Run a kernel whose arguments are those ``before`` the bounds of the sequences, and those ``after`` them."""
    x, dtype, cell = inputs.x, accumulator_dtype(inputs.x), CELLS[inputs.cell]
    begins, ends = _bounds(inputs)
    heads, width = x.shape[3:]
    if x.numel() == 0:
        return
    with on_device(x):
        kernel[(triton.cdiv(len(begins), ROWS), heads)](
            *before, begins, ends, *after, len(begins), heads, width,
            CELL=CODES[inputs.cell], G=cell.gates, STATES=cell.states, SAVED=SAVED[inputs.cell], ROWS=ROWS,
            BLOCK=max(MIN_BLOCK, triton.next_power_of_2(width)), ACC=TYPES[dtype],
            PRECISION="ieee" if dtype == torch.float64 else "tf32x3", num_warps=WARPS, **options,
        )  # fmt: skip


def _dense(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _forward(inputs: Inputs, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
    h, final_state, saved = outputs(inputs, learning)
    if inputs.starts is not None:
        h.zero_()
        saved.zero_()
    before = [_dense(inputs.x), _dense(inputs.recurrent_weight), _dense(inputs.bias), _dense(inputs.initial_state)]
    learning = learning and SAVED[inputs.cell] > 0
    _launch(_forward_kernel, inputs, before, [h, saved, final_state], LEARNING=learning)
    return h, final_state, saved


def _backward(inputs: Inputs, h: Tensor, saved: Tensor, dh: Tensor, dfinal: Tensor | None) -> tuple[Tensor, ...]:
    dx, _, _, dinitial = gradients(inputs)
    dr = torch.empty_like(dx) if inputs.cell == "gru" else None
    if inputs.starts is not None:
        dx.zero_()
        dr = None if dr is None else dr.zero_()
    before = [_dense(inputs.recurrent_weight), _dense(inputs.initial_state)]
    after = [h.contiguous(), saved, dh.contiguous(), _dense(dfinal), dx, dr, dinitial]
    _launch(_backward_kernel, inputs, before, after)
    # One product over all tokens is faster than sums in the kernel, and always adds in the same order.
    products = (dx if dr is None else dr).flatten(0, 1)
    dweight = torch.einsum("tghi,thj->ghij", products, _entering(inputs, h).flatten(0, 1))
    return dx, dweight, products.sum(0), dinitial


def _entering(inputs: Inputs, h: Tensor) -> Tensor:
    """h[t-1] at every token, the initial one at the first of a sequence."""
    entering = h.roll(1, 1)
    begins, ends = _bounds(inputs)
    first = inputs.initial_state
    values = h.new_zeros(len(begins), *h.shape[2:]) if first is None else first[:, 0].to(h.dtype)
    # A row of padding alone has no first token: it writes past the end.
    flat = torch.cat([entering.flatten(0, 1), torch.zeros_like(entering[:1, :1].flatten(0, 1))])
    flat[torch.where(begins < ends, begins, len(flat) - 1)] = values
    return flat[:-1].view_as(entering)


rnn = kernels("rnn_triton", _forward, _backward, "default")
"""The outputs and the final states."""
