"""The recurrent cells: torch's layers, golden FlashRNN, padding in front, packing, errors; the compiled kernels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_cases import (
    CPU,
    assert_same,
    check_finite_differences,
    check_golden,
    check_low_precision,
    check_no_autocast,
    check_packed,
    check_steps,
    check_strides_and_empty_batches,
    values_and_gradients,
)

from golden_cases import load_variant
from seqconv_kernels import rnn, rnn_step
from seqconv_kernels._core import native
from seqconv_kernels.rnn.cases import SHAPES, Shape, example_inputs
from seqconv_kernels.rnn.cells import CELLS
from tolerances import assert_near

ISAS = native.library().isas() if native.unavailable() is None else ["plain"]
each_cell = pytest.mark.parametrize("cell", CELLS)
each_form = pytest.mark.parametrize("implementation", [CPU, "reference"])
FLASHRNN_GATES = {"r": (1, 2, 0), "x": (0, 1, 2)}
"""FlashRNN orders the recurrent gates of its GRU as n, r, z, and those of the input as r, z, n."""


def run(cell, implementation):
    def call(**inputs):
        return rnn(**inputs, cell=cell, return_final_state=True, implementation=implementation)

    return call


@pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
@settings(max_examples=60)
@given(
    isa=st.sampled_from(ISAS),
    cell=st.sampled_from(list(CELLS)),
    length=st.sampled_from((1, 2, 7, 8, 9, 17)),
    batch=st.integers(1, 11),
    heads=st.integers(1, 3),
    head_dim=st.sampled_from((1, 3, 8, 16, 17, 40)),
    dtype=st.sampled_from((torch.float32, torch.float64)),
    state=st.booleans(),
    bias=st.booleans(),
)
def test_agrees_with_the_reference(isa, cell, length, batch, heads, head_dim, dtype, state, bias):
    inputs = example_inputs(Shape(batch, length, heads, head_dim), cell, dtype=dtype, initial_state=state)
    if not bias:
        del inputs["bias"]
    exact = {k: v.double() for k, v in inputs.items()}
    native.library().set_isa(isa)
    try:
        got = values_and_gradients(run(cell, "cpu"), inputs)
    finally:
        native.library().set_isa(ISAS[0])
    assert_same(got, values_and_gradients(run(cell, "reference"), exact), f"{cell} in {isa}")


@each_cell
@each_form
def test_gradients_are_those_of_finite_differences(cell, implementation):
    inputs = example_inputs(Shape(2, 3, 1, 2), cell, dtype=torch.float64, initial_state=True)
    check_finite_differences(run(cell, implementation), inputs, twice=True, fast=True)


@pytest.mark.parametrize(("cell", "layer"), [("lstm", torch.nn.LSTM), ("gru", torch.nn.GRU), ("elman", torch.nn.RNN)])
@each_form
def test_one_head_is_the_layer_of_torch(cell, layer, implementation):
    torch.manual_seed(0)
    original, x = layer(5, 4, batch_first=True).double(), torch.randn(3, 9, 5, dtype=torch.float64)
    want, _ = original(x)
    projected = (x @ original.weight_ih_l0.T + original.bias_ih_l0).unflatten(-1, (-1, 1, 4))
    weight, bias = original.weight_hh_l0.view(-1, 1, 4, 4), original.bias_hh_l0.view(-1, 1, 4)
    y = rnn(projected, weight, bias, cell=cell, implementation=implementation)
    torch.testing.assert_close(y[:, :, 0], want, rtol=1e-10, atol=1e-12)


def flashrnn(cell, implementation):
    """The op in FlashRNN's layouts: time first, weights (heads, in, gates, out), all states of every token."""

    def call(Wx, R, bias, states):
        x, weight, b = Wx.transpose(0, 1), R.permute(2, 0, 3, 1), bias
        if cell == "gru":  # the last of its four biases belongs to the input
            x = x + torch.stack([torch.zeros_like(bias[3])] * 2 + [bias[3]])
            weight, b = (t[list(FLASHRNN_GATES["r"])] for t in (weight, bias))
        state, found = states[0], []
        for t in range(x.shape[1]):
            options = {"cell": cell, "initial_state": state, "return_final_state": True}
            y, state = rnn(x[:, t : t + 1], weight, b, implementation=implementation, **options)
            torch.testing.assert_close(y[:, 0], state[:, 0], rtol=0, atol=0)
            found.append(state)
        return {"states": torch.stack(found), "last": state[None]}

    return call


@each_cell
@each_form
@pytest.mark.parametrize("start", ["", "_init"])
def test_golden_flashrnn(cell, start, implementation):
    case = load_variant("scan/flashrnn", cell + start)
    check_golden(case, flashrnn(cell, implementation))


@each_cell
@each_form
def test_golden_flashrnn_in_one_call(cell, implementation):
    case = load_variant("scan/flashrnn", cell)
    i = {k: v.double() for k, v in case.group("in").items()}
    x, weight, bias = i["Wx"].transpose(0, 1), i["R"].permute(2, 0, 3, 1), i["bias"]
    if cell == "gru":
        x = x + torch.stack([torch.zeros_like(bias[3])] * 2 + [bias[3]])
        weight, bias = (t[list(FLASHRNN_GATES["r"])] for t in (weight, bias))
    y, last = rnn(
        x, weight, bias, cell=cell, initial_state=i["states"][0], return_final_state=True, implementation=implementation
    )
    torch.testing.assert_close(y.transpose(0, 1), case.tensors["out.states"][:, :, 0], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(last, case.tensors["out.last"][0], rtol=1e-9, atol=1e-10)


@each_cell
def test_steps_equal_the_whole(cell):
    inputs = example_inputs(Shape(2, 9, 2, 3), cell, dtype=torch.float64, initial_state=True)
    check_steps(run(cell, None), lambda **i: rnn_step(**i, cell=cell), inputs, ("x",))


@each_cell
@each_form
def test_packed_equals_separate(cell, implementation):
    inputs = example_inputs(Shape(1, 40, 2, 3), cell, dtype=torch.float64)
    inputs["initial_state"] = example_inputs(Shape(3, 1, 2, 3), cell, dtype=torch.float64, initial_state=True)[
        "initial_state"
    ]
    check_packed(run(cell, implementation), run(cell, "reference"), inputs, ("x",), bounds=(0, 1, 30, 40))


@each_cell
@each_form
def test_padding_in_front_changes_nothing(cell, implementation):
    inputs = example_inputs(Shape(3, 12, 2, 3), cell, dtype=torch.float64, initial_state=True)
    starts = torch.tensor([0, 5, 12])

    def padded(**i):
        return run(cell, implementation)(**i, starts=starts)

    def separate(x, initial_state, **rest):
        rows = [
            run(cell, "reference")(x=x[b : b + 1, s:], initial_state=initial_state[b : b + 1], **rest)
            for b, s in ((0, 0), (1, 5))
        ]
        ys = [torch.nn.functional.pad(y, (0, 0, 0, 0, 12 - y.shape[1], 0)) for y, _ in rows]
        empty = torch.zeros_like(ys[0]) * x[2:].sum()
        return torch.cat([*ys, empty]), torch.cat([*(s for _, s in rows), initial_state[2:]])

    inputs["x"][1, :5], inputs["x"][2] = 9.0, 9.0
    assert_same(values_and_gradients(padded, inputs), values_and_gradients(separate, inputs), cell)


@each_cell
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_keeps_sums_in_float32(cell, dtype):
    inputs = example_inputs(Shape(2, 50, 2, 3), cell, dtype=torch.float64, initial_state=True)
    check_low_precision(run(cell, None), inputs, dtype, wide=("initial_state",))


@each_cell
@each_form
def test_no_autocast_strides_and_empty_batches(cell, implementation):
    inputs = example_inputs(Shape(2, 9, 2, 3), cell, dtype=torch.float64, initial_state=True)
    check_no_autocast(run(cell, implementation), inputs)
    check_strides_and_empty_batches(run(cell, implementation), inputs, ("x", "initial_state"))


@pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
@each_cell
def test_threads_do_not_change_a_bit(cell):
    inputs, before, results = example_inputs(Shape(20, 60, 3, 24), cell), torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(values_and_gradients(run(cell, "cpu"), inputs))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, results[1][name]) for name, one in results[0].items())


@each_form
def test_extreme_gates_of_slstm_stay_finite(implementation):
    inputs = example_inputs(Shape(1, 40, 1, 4), "slstm", dtype=torch.float64)
    inputs["x"][:, 10, 0], inputs["x"][:, 20, 1], inputs["x"][:, 30, :2] = 300.0, -300.0, 300.0
    inputs["x"][:, 0, 0] = -300.0
    y, state = run("slstm", implementation)(**{k: v.float() for k, v in inputs.items()})
    want, last = run("slstm", "reference")(**inputs)
    assert y.isfinite().all()
    assert_near(y, want)
    assert_near(state, last)


def test_the_stabiliser_drops_out_of_the_output():
    inputs = example_inputs(Shape(1, 9, 2, 3), "slstm", dtype=torch.float64, initial_state=True)
    scaled = inputs["initial_state"].clone()
    scaled[:, 1:3] *= 1.7
    scaled[:, 3] -= torch.tensor(1.7).double().log()
    shifted, _ = run("slstm", None)(**inputs | {"initial_state": scaled})
    assert_near(shifted, run("slstm", None)(**inputs)[0])


def test_example_shapes_have_the_sizes_they_name():
    assert rnn(**example_inputs(SHAPES["tiny"], initial_state=True), cell="lstm").shape == (2, 37, 2, 5)


@pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
def test_the_extension_checks_what_it_is_told():
    x, weight, h = torch.zeros(2, 4, 24), torch.zeros(4, 2, 3, 3), torch.zeros(2, 4, 6)
    last, bias = torch.zeros(2, 2, 6), torch.zeros(4, 2, 3)

    def call(x=x, weight=weight, bias=bias, first=None, starts=None, out=h, saved=None, last=last, cell=0):
        views = map(native.view, (x, weight, bias, first, starts, None, out, saved, last))
        return native.library().rnn_forward(*views, cell, 1)

    assert call() == 0
    for pattern, change in {
        r"an unknown cell": {"cell": 4},
        r"recurrent_weight of dtype code 1; wanted code 0": {"weight": weight.double()},
        r"x of shape \(2, 4, 18\); wanted \(2, 4, 24\)": {"x": x[..., :18]},
        r"bias of shape \(3, 2, 3\)": {"bias": bias[:3]},
        r"initial_state of shape \(1, 2, 6\)": {"first": last[:1]},
        r"y of shape \(2, 4, 5\)": {"out": h[..., :5]},
        r"saved of shape \(2, 4, 6\); wanted \(2, 4, 30\)": {"saved": h},
        r"starts of shape \(1\)": {"starts": torch.zeros(1, dtype=torch.int64)},
    }.items():
        with pytest.raises(ValueError, match=pattern):
            call(**change)


@pytest.mark.usefixtures("unannotated")
def test_errors_name_the_remedy():
    good = example_inputs(Shape(2, 5, 2, 3), initial_state=True) | {"cell": "lstm"}
    cases = {
        r"cell 'lstn'.*did you mean 'lstm'": {"cell": "lstn"},
        r"x of shape \(2, 5, 4, 2, 3\).*3 gates.*Remedy: project the input to the 3 gates of 'gru'": {"cell": "gru"},
        r"recurrent_weight of shape \(3, 2, 3, 3\).*\(4, 2, 3, 3\)": {"recurrent_weight": good["recurrent_weight"][:3]},
        r"bias of shape \(4, 2, 2\).*Remedy": {"bias": good["bias"][..., :2]},
        r"initial_state of shape \(1, 2, 2, 3\).*Remedy": {"initial_state": good["initial_state"][:1]},
        r"starts of shape \(1,\).*Remedy": {"starts": torch.zeros(1, dtype=torch.int64)},
        r"starts of shape \(2,\) and dtype torch.float32": {"starts": torch.zeros(2)},
        r"cu_seqlens with a batch of 2.*Remedy": {"cu_seqlens": torch.tensor([0, 5])},
    }
    for pattern, change in cases.items():
        with pytest.raises(ValueError, match=f"rnn: received .*{pattern}"):
            rnn(**{**good, **change})
    one = {k: v[:1] if k in ("x", "initial_state") else v for k, v in good.items()}
    with pytest.raises(ValueError, match=r"rnn: received starts and cu_seqlens.*Remedy"):
        rnn(**one, starts=torch.tensor([0]), cu_seqlens=torch.tensor([0, 5]))
    with pytest.raises(ValueError, match=r"rnn_step: received state of shape \(1, 2, 2, 3\).*Remedy"):
        rnn_step(good["x"][:, 0], good["recurrent_weight"], cell="lstm", state=good["initial_state"][:1])
