"""Recurrent cells that only run token by token: LSTM, GRU, Elman's network, sLSTM, with several heads.

Equation, per head, with ``h`` of (head_dim,) and the recurrent weights ``R`` of a head block-diagonal over the heads::

    r[t] = R h[t-1] + b                      one block of (head_dim, head_dim) per gate and head
    states[t] = cell(x[t], r[t], states[t-1])

where ``x`` are inputs that were projected beforehand, one vector per gate (:mod:`~seqconv_kernels.rnn.cells` has the
equations of the cells). Unlike a scan it is not linear in its state: there is no parallel form. It can track states
that scans of diagonal matrices cannot (Merrill et al., 2024). Source: Pöppel et al., 2025, *FlashRNN* (arXiv
2412.07752).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._core.checks import check_floating, check_shape
from .._core.errors import argument_error, unknown_name
from .._core.packing import count_rows
from .cells import CELLS
from .spec import RNN, STEP, Inputs


def rnn(
    x: Float[Tensor, "batch length gates heads head_dim"],
    recurrent_weight: Float[Tensor, "gates heads head_dim head_dim"],
    bias: Float[Tensor, "gates heads head_dim"] | None = None,
    *,
    cell: str,
    initial_state: Float[Tensor, "segments states heads head_dim"] | None = None,
    return_final_state: bool = False,
    starts: Int[Tensor, " batch"] | None = None,
    cu_seqlens: Int[Tensor, " bounds"] | None = None,
    implementation: str | None = None,
) -> Float[Tensor, "batch length heads head_dim"] | tuple[Tensor, ...]:
    """Run a cell over whole sequences; differentiable in every floating tensor.

    Args:
        x: projected inputs, one vector per gate, in the order of :mod:`~seqconv_kernels.rnn.cells`.
        recurrent_weight: rows are outputs, as in ``nn.Linear``.
        bias: added to the recurrent product; zero if not given.
        cell: ``"lstm"``, ``"gru"``, ``"elman"`` or ``"slstm"``.
        initial_state: states before the first token (``segments`` = batch, or that of each packed sequence), h first;
            zero if not given.
        return_final_state: also return the states after the last token.
        starts: first token of each row, up to the length: those before it leave the states alone and yield zero, as
            padding on the left; 0 if not given.
        cu_seqlens: bounds of sequences packed into a batch of one; the states start again at each.
        implementation: ``"triton"``, ``"cpu"``, ``"reference"`` or ``None`` for the fastest that serves.

    Returns:
        h with the dtype of ``x``, or ``(h, final_state)``; the states are float32 at least, like the sums inside.

    Raises:
        ValueError: an unknown cell; shapes, dtypes or devices that do not match; both ``starts`` and ``cu_seqlens``;
            bounds that do not increase to the length.
    """
    inputs = Inputs(x, recurrent_weight, bias, cell, initial_state, starts, cu_seqlens)
    h, final_state = RNN(inputs, _check, implementation)
    return (h, final_state) if return_final_state else h


def rnn_step(
    x: Float[Tensor, "batch gates heads head_dim"],
    recurrent_weight: Float[Tensor, "gates heads head_dim head_dim"],
    bias: Float[Tensor, "gates heads head_dim"] | None = None,
    *,
    cell: str,
    state: Float[Tensor, "batch states heads head_dim"],
    implementation: str | None = None,
) -> tuple[Float[Tensor, "batch heads head_dim"], Float[Tensor, "batch states heads head_dim"]]:
    """One token of :func:`rnn`, from ``state``: the output and the next states.

    Raises:
        ValueError: as for :func:`rnn`.
    """
    return STEP(Inputs(x, recurrent_weight, bias, cell, state), _check_step, implementation)


def _check(operation: str, inputs: Inputs) -> None:
    x, starts = inputs.x, inputs.starts
    _check_shapes(operation, inputs, "batch, length", 5)
    rows = count_rows(operation, inputs.cu_seqlens, x)
    _check_state(operation, inputs, "initial_state", rows)
    if starts is None:
        return
    if inputs.cu_seqlens is not None:
        raise argument_error(operation, "starts and cu_seqlens", "one of them", "pack real tokens only")
    if tuple(starts.shape) != (x.shape[0],) or starts.dtype not in (torch.int32, torch.int64):
        got = f"starts of shape {tuple(starts.shape)} and dtype {starts.dtype}"
        raise argument_error(operation, got, f"({x.shape[0]},) of int32 or int64", "give one token index per row")


def _check_step(operation: str, inputs: Inputs) -> None:
    _check_shapes(operation, inputs, "batch", 4)
    _check_state(operation, inputs, "state", inputs.x.shape[0])


def _check_shapes(operation: str, inputs: Inputs, leading: str, rank: int) -> None:
    x, weight, bias, name = inputs[:4]
    if name not in CELLS:
        raise unknown_name(operation, "cell", str(name), CELLS)
    gates = CELLS[name].gates
    if x.dim() != rank or 0 in x.shape[1:] or x.shape[-3] != gates:
        got, wanted = f"x of shape {tuple(x.shape)}", f"({leading}, {gates} gates, heads, head_dim) without empty axes"
        raise argument_error(operation, got, wanted, f"project the input to the {gates} gates of {name!r}")
    _, heads, width = x.shape[-3:]
    check_shape(operation, "recurrent_weight", weight, "gates, heads, head_dim, head_dim", (gates, heads, width, width))
    check_shape(operation, "bias", bias, "gates, heads, head_dim", (gates, heads, width))
    tensors = {"x": x, "recurrent_weight": weight, "bias": bias, "initial_state": inputs.initial_state}
    check_floating(operation, tensors, x.device)


def _check_state(operation: str, inputs: Inputs, name: str, rows: int) -> None:
    wanted = (rows, CELLS[inputs.cell].states, *inputs.x.shape[-2:])
    check_shape(operation, name, inputs.initial_state, "batch or segments, states, heads, head_dim", wanted)
