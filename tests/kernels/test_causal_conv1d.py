"""The short causal convolution: every implementation against the reference, in values and in all gradients."""

from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import seqconv_kernels as K
from seqconv_kernels._core import native
from seqconv_kernels.causal_conv1d.cases import SHAPES, Shape, example_inputs
from tolerances import assert_near

ISAS = native.library().isas() if native.unavailable() is None else ["plain"]
compiled = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
implementations = pytest.mark.parametrize("implementation", ["reference", pytest.param("cpu", marks=compiled)])


def tensors(inputs):
    return {k: v for k, v in inputs.items() if isinstance(v, torch.Tensor) and v.is_floating_point()}


def fixed_weights(like):
    """Small multiples of a quarter, which every dtype holds exactly."""
    return ((7 * torch.arange(like.numel()) % 11 - 3) / 4).reshape(like.shape).to(like.dtype)


def run(inputs, implementation, dtype=None):
    """Output, final state, and the gradients of every input under fixed weights of both."""
    leaves = {k: v.detach().to(dtype or v.dtype).requires_grad_() for k, v in tensors(inputs).items()}
    y, final = K.causal_conv1d(**(inputs | leaves), return_final_state=True, implementation=implementation)
    weights = [fixed_weights(t) for t in (y, final)]
    loss = (y * weights[0]).sum() + (final * weights[1]).sum()
    return {"y": y.detach(), "final": final.detach()} | dict(
        zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)
    )


@compiled
@settings(max_examples=40)
@example(ISAS[-1], 2, 0, 1, 1, torch.float32, False, False, True, "contiguous", False)
@example(ISAS[-1], 1, 2, 1, 1, torch.float32, False, False, True, "contiguous", False)
@given(
    isa=st.sampled_from(ISAS),
    length=st.sampled_from((1, 2, 63, 64, 65, 1000)),
    batch=st.integers(0, 2),
    channels=st.integers(1, 35),
    width=st.sampled_from((1, 2, 3, 4, 7, 70)),
    dtype=st.sampled_from((torch.float32, torch.float64, torch.bfloat16, torch.float16)),
    silu=st.booleans(),
    bias=st.booleans(),
    state=st.booleans(),
    layout=st.sampled_from(("contiguous", "sliced", "channels first")),
    reverse=st.booleans(),
)
def test_cpu_agrees_with_the_reference(isa, length, batch, channels, width, dtype, silu, bias, state, layout, reverse):
    inputs = example_inputs(Shape(batch, length, channels, width), dtype=dtype, initial_state=state)
    inputs |= {"activation": "silu" if silu else None, "reverse": reverse}
    inputs["bias"] = inputs["bias"] if bias else None
    if layout == "sliced":
        inputs["x"] = torch.cat([inputs["x"], inputs["x"]], -1)[..., :channels]
    if layout == "channels first":
        inputs["x"] = inputs["x"].mT.contiguous().mT
    native.library().set_isa(isa)
    try:
        got = run(inputs, "cpu")
    finally:
        native.library().set_isa(ISAS[0])
    want = run(inputs, "reference", torch.float64)
    for name, value in got.items():
        assert_near(value, want[name], dtype=dtype, what=name)


@implementations
@pytest.mark.parametrize("width", [1, 3, 4, 9])
def test_equals_conv1d(implementation, width):
    inputs = example_inputs(Shape(2, 21, 5, width), dtype=torch.float64)
    x, weight, bias = inputs["x"], inputs["weight"], inputs["bias"]
    want = torch.nn.functional.conv1d(x.mT, weight[:, None], bias, padding=width - 1, groups=5)[..., :21].mT
    assert_near(K.causal_conv1d(x, weight, bias, implementation=implementation), want)
    got = K.causal_conv1d(x, weight, bias, activation="silu", implementation=implementation)
    assert_near(got, torch.nn.functional.silu(want))


@implementations
@pytest.mark.parametrize("bounds", [[0, 65], [0, 1, 3, 35, 65], list(range(66))])
@pytest.mark.parametrize("state", [False, True])
def test_packed_equals_separate(implementation, bounds, state):
    inputs = example_inputs(Shape(1, 65, 3, 4), dtype=torch.float64)
    if state:
        inputs["initial_state"] = torch.randn(len(bounds) - 1, 3, 3, dtype=torch.float64)
    packed = inputs | {"cu_seqlens": torch.tensor(bounds, dtype=torch.int32)}
    got, want = run(packed, implementation), run(packed, "reference")
    for name, value in got.items():
        assert_near(value, want[name], what=name)
    for i, (a, b) in enumerate(pairwise(bounds)):
        piece = inputs | {"x": inputs["x"][:, a:b]}
        if state:
            piece["initial_state"] = inputs["initial_state"][i : i + 1]
        y, final = K.causal_conv1d(**piece, return_final_state=True, implementation=implementation)
        assert_near(got["y"][:, a:b], y)
        assert_near(got["final"][i : i + 1], final)


@implementations
@pytest.mark.parametrize("bounds", [None, [0, 1, 3, 35, 65]])
def test_in_reverse_equals_reversed_sequences(implementation, bounds):
    segments = len(bounds) - 1 if bounds else 2
    inputs = example_inputs(Shape(1 if bounds else 2, 65, 3, 4), dtype=torch.float64)
    inputs["initial_state"] = torch.randn(segments, 3, 3, dtype=torch.float64)
    packed = {} if bounds is None else {"cu_seqlens": torch.tensor(bounds, dtype=torch.int32)}
    got = run(inputs | packed | {"reverse": True}, implementation)
    for i, (a, b) in enumerate(pairwise(bounds) if bounds else [(0, 65)]):
        state = inputs["initial_state"][i : i + 1] if bounds else inputs["initial_state"]
        sequence = inputs | {"x": inputs["x"][:, a:b].flip(1), "initial_state": state}
        y, final = K.causal_conv1d(**sequence, return_final_state=True, implementation="reference")
        assert_near(got["y"][:, a:b], y.flip(1))
        assert_near(got["final"][i : i + 1] if bounds else got["final"], final)
    for name, wanted in run(inputs | packed | {"reverse": True}, "reference").items():
        assert_near(got[name], wanted, what=name)


@implementations
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_splits_and_steps_equal_the_whole(implementation, dtype):
    inputs = example_inputs(Shape(2, 19, 6, 4), dtype=dtype, initial_state=True)
    x, state = inputs.pop("x"), inputs.pop("initial_state")
    options = {"return_final_state": True, "implementation": implementation}
    want, final = K.causal_conv1d(x, **inputs, initial_state=state, **options)
    ys, current = [], state
    for a, b in [(0, 1), (1, 3), (3, 19)]:
        y, current = K.causal_conv1d(x[:, a:b], **inputs, initial_state=current, **options)
        ys.append(y)
    assert_near(torch.cat(ys, 1), want)
    assert torch.equal(current, final)
    ys, current = [], state
    for t in range(19):
        y, current = K.causal_conv1d_step(x[:, t], **inputs, state=current)
        ys.append(y)
    assert_near(torch.stack(ys, 1), want)
    assert torch.equal(current, final)


@compiled
@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_step_writes_over_the_state_unless_it_is_needed(width):
    inputs = example_inputs(Shape(2, 1, 37, width), initial_state=True)
    x, state = inputs.pop("x")[:, 0], inputs.pop("initial_state")
    want, after = K.causal_conv1d_step(x, **inputs, state=state, implementation="reference")
    for kept in (state.clone().requires_grad_(), state.double()):
        before = kept.detach().clone()
        y, _ = K.causal_conv1d_step(x, **inputs, state=kept)
        assert_near(y, want)
        assert torch.equal(kept, before)
    y, written = K.causal_conv1d_step(x, **inputs, state=state, implementation="cpu")
    assert written is state
    assert_near(y, want)
    assert torch.equal(state, after)
    for other, message in (
        (state.double(), "state of dtype torch.float64 is wider than the sums"),
        (state.clone().requires_grad_(), "writes the next state over the last one"),
    ):
        with pytest.raises(ValueError, match=message):
            K.causal_conv1d_step(x, **inputs, state=other, implementation="cpu")


@compiled
def test_a_million_steps():
    inputs = example_inputs(Shape(1, 1_000_000, 2, 4))
    y = K.causal_conv1d(**inputs, implementation="cpu")
    tail = inputs | {"x": inputs["x"][:, -103:]}
    assert_near(y[:, -100:], K.causal_conv1d(**tail, implementation="reference")[:, -100:])


@compiled
@pytest.mark.usefixtures("unannotated")
@pytest.mark.filterwarnings("ignore")
def test_compiles_without_graph_breaks():
    inputs = example_inputs(Shape(2, 20, 6, 4), initial_state=True)
    conv = torch.compile(lambda x: K.causal_conv1d(**(inputs | {"x": x}), return_final_state=True), fullgraph=True)
    for got, want in zip(conv(inputs["x"]), K.causal_conv1d(**inputs, return_final_state=True), strict=True):
        assert_near(got, want)


@pytest.mark.usefixtures("unannotated")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("state", [False, True])
def test_exports_in_reverse_with_an_open_length(state):
    inputs = example_inputs(Shape(2, 7, 3, 4), initial_state=state)

    class Reversed(torch.nn.Module):
        def forward(self, x):
            return K.causal_conv1d(**(inputs | {"x": x}), return_final_state=True, reverse=True)

    length = torch.export.Dim("length", min=1, max=64)
    exported = torch.export.export(Reversed(), (inputs["x"],), dynamic_shapes=({1: length},)).module()
    for x in (inputs["x"], inputs["x"][:, :2], torch.cat([inputs["x"]] * 2, 1)):
        for got, want in zip(exported(x), Reversed()(x), strict=True):
            assert_near(got, want)


@compiled
def test_threads_do_not_change_a_bit():
    inputs = example_inputs(Shape(2, 300, 200, 4))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        want = run(inputs, "cpu")
        torch.set_num_threads(3)
        got = run(inputs, "cpu")
    finally:
        torch.set_num_threads(before)
    for name, value in got.items():
        assert torch.equal(value, want[name]), name


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(4, 3)}, r"x of shape \(4, 3\); wanted \(batch, length >= 1, channels\)"),
        ({"weight": torch.zeros(3, 1, 4)}, r"weight of shape \(3, 1, 4\); wanted \(3, width >= 1\)"),
        ({"bias": torch.zeros(4)}, r"bias of shape \(4,\); wanted \(channels\) = \(3,\)"),
        ({"initial_state": torch.zeros(2, 4, 3)}, r"initial_state of shape .* = \(2, 3, 3\)"),
        ({"activation": "sliu"}, "activation 'sliu'; wanted one of silu"),
        ({"bias": torch.zeros(3, dtype=torch.int64)}, "bias of dtype torch.int64 on cpu"),
        ({"cu_seqlens": torch.tensor([0, 5])}, "cu_seqlens with a batch of 2"),
        ({"implementation": "cuda"}, "implementation 'cuda'; wanted one of .*cpu, reference"),
    ],
)
def test_bad_input(change, message):
    inputs = {"x": torch.zeros(2, 5, 3), "weight": torch.zeros(3, 4)}
    with pytest.raises(ValueError, match=f"^causal_conv1d: received .*{message}.*Remedy: "):
        K.causal_conv1d(**(inputs | change))


@compiled
def test_parameters_wider_than_the_sums_go_to_the_reference():
    inputs = example_inputs(Shape(1, 5, 3, 4)) | {"weight": torch.ones(3, 4, dtype=torch.float64)}
    with pytest.raises(ValueError, match=r"weight of dtype torch.float64 is wider than the sums"):
        K.causal_conv1d(**inputs, implementation="cpu")
    assert_near(K.causal_conv1d(**inputs), K.causal_conv1d(**inputs, implementation="reference"))


@pytest.mark.usefixtures("unannotated")
def test_bad_input_of_the_step():
    with pytest.raises(ValueError, match=r"causal_conv1d_step: received x of shape \(2, 5, 3\)"):
        K.causal_conv1d_step(torch.zeros(2, 5, 3), torch.zeros(3, 4), state=torch.zeros(2, 3, 3))
    with pytest.raises(ValueError, match=r"state of shape \(2, 4, 3\)"):
        K.causal_conv1d_step(torch.zeros(2, 3), torch.zeros(3, 4), state=torch.zeros(2, 4, 3))


def test_shapes_are_named_and_make_inputs():
    first, second = (example_inputs(SHAPES["tiny"], seed=3) for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in tensors(first))
