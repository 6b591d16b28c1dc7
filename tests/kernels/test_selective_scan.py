"""The selective scan: every implementation against the reference, in values and in all gradients."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

import seqconv_kernels as K
from seqconv_kernels._core import native
from seqconv_kernels.selective_scan.cases import SHAPES, Shape, example_inputs
from seqconv_kernels.selective_scan.spec import SCAN
from tolerances import assert_near

ISAS = native.library().isas() if native.unavailable() is None else []
compiled = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
ACTIVATIONS = ("u", "delta", "B", "C", "z")
LENGTHS = (1, 2, 63, 64, 65)


@pytest.fixture
def restored_isa():
    yield
    native.library().set_isa(ISAS[0])


def floats(inputs):
    return {k: v for k, v in inputs.items() if isinstance(v, torch.Tensor) and v.is_floating_point()}


def fixed_weights(like):
    """Small multiples of a quarter, which every dtype holds exactly."""
    return ((7 * torch.arange(like.numel()) % 11 - 3) / 4).reshape(like.shape).to(like.dtype)


def run(inputs, implementation, dtype=None):
    """Output, final state, and the gradients of every input under fixed weights of both."""
    leaves = {k: v.detach().to(dtype or v.dtype).requires_grad_() for k, v in floats(inputs).items()}
    y, final = K.selective_scan(**(inputs | leaves), return_final_state=True, implementation=implementation)
    weights = [fixed_weights(t) for t in (y, final)]
    grads = torch.autograd.grad((y * weights[0]).sum() + (final * weights[1]).sum(), list(leaves.values()))
    return {"y": y.detach(), "final": final.detach()} | dict(zip(leaves, grads, strict=True))


def assert_same(inputs, implementation="cpu", dtype=torch.float32):
    got, want = run(inputs, implementation), run(inputs, "reference", torch.float64)
    for name, value in got.items():
        assert_near(value, want[name], dtype=dtype, what=name)


def strided(inputs, layout):
    """The same values in another layout of the activations."""
    if layout == "sliced":  # channels of a wider projection, as inside a model
        return inputs | {
            k: torch.cat([v, v], -1)[..., : v.shape[-1]] for k, v in floats(inputs).items() if k in "udeltaz"
        }
    if layout == "channels first":
        return inputs | {k: v.mT.contiguous().mT for k, v in floats(inputs).items() if k in ACTIVATIONS}
    return inputs


@compiled
@settings(max_examples=40)
@given(
    isa=st.sampled_from(ISAS),
    length=st.sampled_from(LENGTHS),
    batch=st.integers(0, 2),
    width=st.integers(1, 35),
    groups=st.sampled_from((0, 1, 2, 3)),
    d_state=st.sampled_from((1, 3, 4, 16, 21)),
    dtype=st.sampled_from((torch.float32, torch.float64, torch.bfloat16, torch.float16)),
    gate=st.booleans(),
    state=st.booleans(),
    layout=st.sampled_from(("contiguous", "sliced", "channels first")),
    bare=st.booleans(),
    reverse=st.booleans(),
)
def test_cpu_agrees_with_the_reference(
    isa, length, batch, width, groups, d_state, dtype, gate, state, layout, bare, reverse
):
    shape = Shape(batch, length, width * max(groups, 1), d_state, groups)
    inputs = example_inputs(shape, dtype=dtype, gate=gate, initial_state=state)
    if bare:
        inputs = {k: v for k, v in inputs.items() if k not in ("D", "delta_bias")} | {"delta_softplus": False}
        inputs["delta"] = inputs["delta"].abs() * 0.1
    native.library().set_isa(isa)
    try:
        assert_same(strided(inputs, layout) | {"reverse": reverse}, dtype=dtype)
    finally:
        native.library().set_isa(ISAS[0])


@compiled
@pytest.mark.parametrize("isa", ISAS)
def test_long_and_wide(isa, restored_isa):
    native.library().set_isa(isa)
    assert_same(example_inputs(Shape(1, 1000, 9, 64), initial_state=True))
    assert_same(example_inputs(Shape(2, 33, 300, 5, 2)))


@compiled
@pytest.mark.parametrize("bounds", [[0, 65], [0, 1, 2, 18, 34, 65], [0, 16, 32, 64, 65], list(range(66))])
@pytest.mark.parametrize("implementation", ["cpu", "reference"])
def test_packed_equals_separate(bounds, implementation):
    inputs = example_inputs(Shape(1, 65, 6, 4, 2), dtype=torch.float64)
    inputs["initial_state"] = torch.randn(len(bounds) - 1, 6, 4, dtype=torch.float64)
    packed = run(inputs | {"cu_seqlens": torch.tensor(bounds, dtype=torch.int32)}, implementation)
    for i, (a, b) in enumerate(pairwise(bounds)):
        piece = (
            inputs | {k: inputs[k][:, a:b] for k in ACTIVATIONS} | {"initial_state": inputs["initial_state"][i : i + 1]}
        )
        y, final = K.selective_scan(**piece, return_final_state=True, implementation="reference")
        assert_near(packed["y"][:, a:b], y)
        assert_near(packed["final"][i : i + 1], final)
    want = run(inputs | {"cu_seqlens": torch.tensor(bounds)}, "reference")
    for name, value in packed.items():
        assert_near(value, want[name], what=name)


@pytest.mark.parametrize("implementation", ["reference", pytest.param("cpu", marks=compiled)])
@pytest.mark.parametrize("bounds", [None, [0, 1, 18, 34, 65]])
def test_in_reverse_equals_reversed_sequences(implementation, bounds):
    inputs = example_inputs(Shape(1 if bounds else 2, 65, 6, 4, 2), dtype=torch.float64)
    inputs["initial_state"] = torch.randn(len(bounds) - 1 if bounds else 2, 6, 4, dtype=torch.float64)
    packed = {} if bounds is None else {"cu_seqlens": torch.tensor(bounds, dtype=torch.int32)}
    got = run(inputs | packed | {"reverse": True}, implementation)
    rows = pairwise(bounds) if bounds else [(0, 65)]
    for i, (a, b) in enumerate(rows):
        sequence = inputs | {k: inputs[k][:, a:b].flip(1) for k in ACTIVATIONS}
        sequence["initial_state"] = inputs["initial_state"][i : i + 1] if bounds else inputs["initial_state"]
        y, final = K.selective_scan(**sequence, return_final_state=True, implementation="reference")
        assert_near(got["y"][:, a:b], y.flip(1))
        assert_near(got["final"][i : i + 1] if bounds else got["final"], final)
    for name, wanted in run(inputs | packed | {"reverse": True}, "reference").items():
        assert_near(got[name], wanted, what=name)


@pytest.mark.parametrize("implementation", ["reference", pytest.param("cpu", marks=compiled)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_splits_and_steps_equal_the_whole(implementation, dtype):
    inputs = example_inputs(Shape(2, 19, 6, 4), dtype=dtype, initial_state=True)
    want, final = K.selective_scan(**inputs, return_final_state=True, implementation=implementation)
    state, ys = inputs["initial_state"], []
    for a, b in [(0, 1), (1, 17), (17, 19)]:
        piece = inputs | {k: inputs[k][:, a:b] for k in ACTIVATIONS} | {"initial_state": state}
        y, state = K.selective_scan(**piece, return_final_state=True, implementation=implementation)
        ys.append(y)
    assert_near(torch.cat(ys, 1), want)
    assert_near(state, final)
    state, ys = inputs.pop("initial_state"), []
    for t in range(19):
        y, state = K.selective_scan_step(**(inputs | {k: inputs[k][:, t] for k in ACTIVATIONS}), state=state)
        ys.append(y)
    assert_near(torch.stack(ys, 1), want)
    assert_near(state, final, dtype=torch.float32)
    assert state.dtype == torch.promote_types(dtype, torch.float32)


@compiled
@pytest.mark.parametrize("isa", ISAS)
def test_a_step_writes_over_the_state_unless_it_is_needed(isa, restored_isa):
    native.library().set_isa(isa)
    inputs = example_inputs(Shape(2, 1, 37, 5), initial_state=True)
    inputs |= {k: inputs[k][:, 0] for k in ACTIVATIONS}
    state = inputs.pop("initial_state")
    want, after = K.selective_scan_step(**inputs, state=state, implementation="reference")
    for kept in (state.clone().requires_grad_(), state.mT.contiguous().mT, state.double()):
        before = kept.detach().clone()
        y, _ = K.selective_scan_step(**inputs, state=kept)
        assert_near(y, want)
        assert torch.equal(kept, before)
    version = state._version
    y, written = K.selective_scan_step(**inputs, state=state, implementation="cpu")
    assert written is state
    assert state._version > version
    assert_near(y, want)
    assert_near(state, after)
    with pytest.raises(ValueError, match="writes the next state over the last one"):
        K.selective_scan_step(**inputs, state=state.clone().requires_grad_(), implementation="cpu")


def test_reference_is_the_equation():
    """One channel and one state, worked by hand."""
    column = lambda *values: torch.tensor(values, dtype=torch.float64).reshape(1, -1, 1)  # noqa: E731
    y, h = K.selective_scan(
        column(1.0, 2.0), column(0.5, 0.25), torch.tensor([[-1.0]]).double(), column(3.0, 1.0), column(2.0, 4.0),
        torch.tensor([0.1]).double(), return_final_state=True, implementation="reference",
    )  # fmt: skip
    h1 = 0.5 * 3.0 * 1.0
    h2 = torch.exp(torch.tensor(-0.25, dtype=torch.float64)) * h1 + 0.25 * 1.0 * 2.0
    assert_near(y, column(2 * h1 + 0.1, float(4 * h2 + 0.2)))
    assert_near(h, h2.reshape(1, 1, 1))


@compiled
@pytest.mark.parametrize("shape", [Shape(1, 18, 3, 2), Shape(2, 3, 4, 1, 2)])
def test_gradcheck(shape):
    inputs = example_inputs(shape, dtype=torch.float64, initial_state=True)
    names = list(floats(inputs))

    def scan(*values):
        return K.selective_scan(
            **inputs | dict(zip(names, values, strict=True)), return_final_state=True, implementation="cpu"
        )

    assert torch.autograd.gradcheck(scan, [inputs[k].requires_grad_() for k in names])


@compiled
@pytest.mark.parametrize("packed", [False, True])
def test_opcheck(packed):
    inputs = example_inputs(Shape(1 if packed else 2, 20, 6, 4, 2), initial_state=not packed)
    bounds = torch.tensor([0, 3, 20]) if packed else None
    inputs = inputs | {k: v.requires_grad_() for k, v in floats(inputs).items()}
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "delta_softplus", "initial_state")
    arguments = [inputs.get(k) for k in names]
    torch.library.opcheck(torch.ops.seqconv.selective_scan.default, (*arguments, bounds, False, True))


@compiled
@pytest.mark.usefixtures("unannotated")
@pytest.mark.filterwarnings("ignore")
def test_compile_export_and_checkpointing():
    inputs = example_inputs(Shape(2, 20, 6, 4), initial_state=True)
    want = run(inputs, "cpu")

    def scan(leaves):
        return K.selective_scan(**(inputs | leaves), return_final_state=True)

    for wrapped in (torch.compile(scan, fullgraph=True), lambda leaves: checkpoint(scan, leaves, use_reentrant=False)):
        leaves = {k: v.detach().clone().requires_grad_() for k, v in floats(inputs).items()}
        y, final = wrapped(leaves)
        weights = [fixed_weights(t) for t in (y, final)]
        grads = torch.autograd.grad((y * weights[0]).sum() + (final * weights[1]).sum(), list(leaves.values()))
        for name, got in {"y": y.detach(), "final": final.detach(), **dict(zip(leaves, grads, strict=True))}.items():
            assert_near(got, want[name], what=name)

    class Scan(torch.nn.Module):
        def forward(self, u, delta):
            return K.selective_scan(**(inputs | {"u": u, "delta": delta}))

    program = torch.export.export(Scan(), (inputs["u"], inputs["delta"]))
    assert_near(program.module()(inputs["u"], inputs["delta"]), want["y"])
    assert any("seqconv.selective_scan" in str(node.target) for node in program.graph.nodes)


@compiled
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_transforms_without_a_rule_fall_to_the_reference():
    inputs = example_inputs(Shape(2, 5, 3, 2), dtype=torch.float64)

    def scan(u):
        return K.selective_scan(**(inputs | {"u": u}))

    _, tangent = torch.func.jvp(scan, (inputs["u"],), (torch.ones_like(inputs["u"]),))
    zero = K.selective_scan(**(inputs | {"u": torch.zeros_like(inputs["u"])}))
    assert_near(tangent, K.selective_scan(**(inputs | {"u": torch.ones_like(inputs["u"])})) - zero)
    per_sample = torch.func.vmap(lambda u: scan(u))(torch.stack([inputs["u"], 2 * inputs["u"]]))
    assert_near(per_sample[0], scan(inputs["u"]))
    assert_near(torch.func.grad(lambda u: scan(u).sum())(inputs["u"]), run_sum_gradient(inputs))
    with pytest.raises(ValueError, match="forward-mode"):
        torch.func.jvp(
            lambda u: K.selective_scan(**(inputs | {"u": u}), implementation="cpu"), (inputs["u"],), (inputs["u"],)
        )


def run_sum_gradient(inputs):
    u = inputs["u"].clone().requires_grad_()
    return torch.autograd.grad(K.selective_scan(**(inputs | {"u": u}), implementation="reference").sum(), u)[0]


@compiled
def test_threads_do_not_change_a_bit():
    inputs = example_inputs(Shape(2, 200, 160, 16))
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


@compiled
@pytest.mark.parametrize("isa", ISAS)
def test_extreme_decays_and_a_million_steps(isa, restored_isa):
    native.library().set_isa(isa)
    ones = torch.ones(1, 4, 2)
    reset = torch.tensor([[-float("inf")], [-1000.0]])
    y = K.selective_scan(ones, ones, reset, ones[..., :1], ones[..., :1], implementation="cpu")
    assert torch.equal(y, ones)  # each step forgets all before it
    growing = K.selective_scan(ones, 20 * ones, torch.ones(2, 1), ones[..., :1], ones[..., :1], implementation="cpu")
    assert_near(growing, 20 * torch.exp(20.0 * torch.arange(4)).cumsum(0)[None, :, None].expand(1, 4, 2))
    length = 1_000_000
    for dtype, step in ((torch.float32, 1e-1), (torch.float64, 1e-4)):
        u, dt = torch.ones(1, length, 2, dtype=dtype), torch.full((1, length, 2), step, dtype=dtype)
        A = torch.tensor([[-1e-2], [-1.0]], dtype=dtype)
        y = K.selective_scan(u, dt, A, u[..., :1], u[..., :1], implementation="cpu")
        t = torch.arange(1, length + 1, dtype=torch.float64)[:, None]
        rate = -step * A[:, 0].double()
        assert_near(y[0], step * torch.special.expm1(-rate * t) / torch.special.expm1(-rate))


@compiled
def test_autocast_takes_the_widest_activation():
    inputs = example_inputs(Shape(1, 9, 4, 2), dtype=torch.bfloat16)
    inputs["delta"] = inputs["delta"].float()
    with torch.autocast("cpu", torch.bfloat16):
        y = K.selective_scan(**inputs, implementation="cpu")
    assert y.dtype == torch.bfloat16
    wide = inputs | {k: inputs[k].float() for k in ACTIVATIONS}
    assert_near(y, K.selective_scan(**wide), dtype=torch.bfloat16)


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.zeros(4, 3)}, r"u of shape \(4, 3\); wanted \(batch, length >= 1, channels\)"),
        ({"u": torch.zeros(2, 0, 3)}, "length >= 1"),
        ({"A": torch.zeros(2, 3)}, r"A of shape \(2, 3\); wanted \(3, d_state\)"),
        ({"delta": torch.zeros(2, 4, 1)}, r"delta of shape \(2, 4, 1\); wanted \(batch, length, channels\)"),
        ({"B": torch.zeros(2, 4, 2, 2), "C": torch.zeros(2, 4, 2, 2)}, "B with 2 groups; wanted groups that divide 3"),
        ({"C": torch.zeros(2, 4, 1, 2)}, r"C of shape \(2, 4, 1, 2\); wanted \(batch, length, d_state\)"),
        ({"D": torch.zeros(2)}, r"D of shape \(2,\); wanted \(channels\) = \(3,\)"),
        ({"initial_state": torch.zeros(2, 2, 3)}, r"initial_state of shape .*= \(2, 3, 2\)"),
        ({"z": torch.zeros(2, 4, 3, dtype=torch.float64)}, "u of dtype torch.float32 and z of dtype torch.float64"),
        ({"A": torch.zeros(3, 2, dtype=torch.int64)}, "A of dtype torch.int64"),
        ({"delta_bias": torch.zeros(3, device="meta")}, "delta_bias of dtype torch.float32 on meta"),
        ({"cu_seqlens": torch.tensor([0, 4])}, "cu_seqlens with a batch of 2; wanted a batch of 1"),
        ({"implementation": "cpuu"}, "one of cpu, mamba-ssm, reference"),
    ],
)
def test_bad_input(change, message):
    ones = torch.ones(2, 4, 3)
    inputs = {"u": ones, "delta": ones, "A": -torch.ones(3, 2), "B": torch.ones(2, 4, 2), "C": torch.ones(2, 4, 2)}
    with pytest.raises(ValueError, match=f"^selective_scan: received .*{message}.*Remedy: "):
        K.selective_scan(**(inputs | change))


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize("bounds", [[0, 4, 3], [1, 4], [0, 3], [0, 2, 2, 4]])
def test_bounds_that_do_not_increase_to_the_length(bounds):
    inputs = example_inputs(Shape(1, 4, 3, 2))
    with pytest.raises(ValueError, match="wanted increasing from 0 to the length 4"):
        K.selective_scan(**inputs, cu_seqlens=torch.tensor(bounds))


@compiled
def test_parameters_wider_than_the_sums_go_to_the_reference():
    inputs = example_inputs(Shape(1, 4, 3, 2))
    inputs["A"] = inputs["A"].double()
    with pytest.raises(ValueError, match=r"A of dtype torch.float64 is wider than the sums, torch.float32"):
        K.selective_scan(**inputs, implementation="cpu")
    assert K.selective_scan(**inputs, return_final_state=True)[1].dtype == torch.float64


@pytest.mark.usefixtures("unannotated")
def test_bad_input_of_the_step():
    inputs = example_inputs(Shape(2, 4, 3, 2))
    with pytest.raises(ValueError, match=r"selective_scan_step: received u of shape \(2, 4, 3\)"):
        K.selective_scan_step(**inputs, state=torch.zeros(2, 3, 2))
    one = inputs | {k: inputs[k][:, 0] for k in ACTIVATIONS}
    with pytest.raises(ValueError, match=r"state of shape \(2, 2, 3\); wanted .* = \(2, 3, 2\)"):
        K.selective_scan_step(**one, state=torch.zeros(2, 2, 3))


def test_shapes_are_named_and_make_inputs():
    assert all(name and shape.channels % max(shape.groups, 1) == 0 for name, shape in SHAPES.items())
    first, second = (example_inputs(SHAPES["tiny"], seed=3) for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in floats(first))
    assert SCAN.implementations[-1].name == "reference"
