"""Calls of :mod:`seqconv_kernels.rnn` for the tests over all ops."""

from functools import partial

from call_case import Case, normal, packed, packed_inputs, token, with_state
from torch import Tensor

from seqconv_kernels import rnn, rnn_step
from seqconv_kernels.rnn.cells import CELLS


def inputs(batch: int, length: int, segments: int | None = None, *, cell: str = "lstm") -> dict[str, Tensor]:
    gates, states, _ = CELLS[cell]
    initial = normal(segments or batch, states, 2, 3)
    if cell == "slstm":
        initial[:, 2] = 1.5 + initial[:, 2].abs()
    return {
        "x": normal(batch, length, gates, 2, 3), "recurrent_weight": normal(gates, 2, 3, 3) / 2,
        "bias": normal(gates, 2, 3), "initial_state": initial,
    }  # fmt: skip


CASES = {
    **{f"rnn, {cell}": Case(partial(with_state(rnn), cell=cell), partial(inputs, cell=cell)) for cell in CELLS},
    "rnn, lstm, packed": Case(partial(packed(rnn), cell="lstm"), packed_inputs(inputs)),
    "rnn, slstm, packed": Case(partial(packed(rnn), cell="slstm"), packed_inputs(partial(inputs, cell="slstm"))),
}
STEPS = {"rnn_step": Case(partial(rnn_step, cell="slstm"), token(partial(inputs, cell="slstm"), ("x",)))}
