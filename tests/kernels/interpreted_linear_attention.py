"""Linear attention, SSD and the delta rule in Triton against the reference, run by test_triton.py."""

import math

import pytest
import torch
from scan_cases import values_and_gradients
from triton_cases import check_operator, device_and_layout

import seqconv_kernels as K
from benchmarks.gpu.interpreter import rounds_to_nearest
from seqconv_kernels._linear_attention import triton, triton_blocks
from seqconv_kernels.delta_rule import cases as delta
from seqconv_kernels.gated_linear_attention import cases as attention
from seqconv_kernels.ssd import cases as ssd
from tolerances import assert_near

KINDS = [("gated_linear_attention", d) for d in ("vector", "scalar", "constant", "none")]
KINDS += [("delta_rule", d) for d in ("vector", "scalar", "none")] + [("ssd", "scalar")]
DECAYING = [kind for kind in KINDS if kind[1] in ("vector", "scalar") and kind[0] != "ssd"]
each_kind = pytest.mark.parametrize(("op", "decay"), KINDS)
TOKENS = ("q", "k", "v", "beta", "log_decay", "x", "dt", "B", "C", "z")


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch):
    """Several chunks in short sequences."""
    monkeypatch.setattr(triton_blocks, "CHUNK", 16)


def given(op, decay, length=20, batch=1, d_k=6, d_v=5, **options):
    """Heads that share queries, keys, or the state, as each op lets them."""
    options = {"dtype": torch.float64, "initial_state": True, **options}
    if op == "ssd":
        return ssd.example_inputs(ssd.Shape(batch, length, 2, d_v, 1, d_k), **options)
    if op == "delta_rule":
        return delta.example_inputs(delta.Shape(batch, length, 1, d_k, d_v, 2), decay=decay, **options)
    return attention.example_inputs(attention.Shape(batch, length, 2, d_k, d_v, 1), decay=decay, **options)


def run(op, implementation):
    def call(**inputs):
        return getattr(K, op)(**inputs, return_final_state=True, implementation=implementation)

    return call


def wide(inputs):
    return {k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in inputs.items()}


def check(op, inputs, layout="contiguous"):
    got = values_and_gradients(run(op, "triton"), device_and_layout(inputs, layout, TOKENS))
    dtype = next(v for v in inputs.values() if isinstance(v, torch.Tensor)).dtype
    for name, wanted in values_and_gradients(run(op, "reference"), wide(inputs)).items():
        assert wanted.isfinite().all(), name
        assert_near(got[name], wanted, dtype=dtype, what=name)


@each_kind
def test_equals_the_reference(op, decay):
    check(op, given(op, decay, length=37))


@pytest.mark.parametrize(
    ("op", "decay"), [("gated_linear_attention", "vector"), ("gated_linear_attention", "scalar"), ("ssd", "scalar")]
)
def test_keys_wider_than_a_program_holds(op, decay, monkeypatch):
    monkeypatch.setattr(triton, "WIDEST_KEY", 16)
    check(op, given(op, decay, length=20, d_k=37))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("op", "decay"), [KINDS[0], KINDS[4], KINDS[6]])
def test_every_dtype(op, decay, dtype):
    check(op, given(op, decay, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)])
@each_kind
def test_half_precision_keeps_the_state_in_float32(op, decay, dtype, monkeypatch):
    """Root mean square errors: the state has 16 bits at least, outputs and gradients those of their dtype.

    The last is what fla's tests allow half precision (0.005 for all but the delta rules, 0.008 and more for these). A
    gradient of A is one number per head, the sum of all tokens' with both signs.
    """
    monkeypatch.setattr(triton_blocks, "CHUNK", 64)
    inputs = given(op, decay, length=150, d_k=32, d_v=32, dtype=dtype)
    with rounds_to_nearest():
        got = values_and_gradients(run(op, "triton"), device_and_layout(inputs))
    for name, wanted in values_and_gradients(run(op, "reference"), wide(inputs)).items():
        error = ((got[name].double().cpu() - wanted).norm() / wanted.norm()).item()
        assert error < {"output 1": 1e-5, "gradient of A": 1e-2}.get(name, 5e-3), f"{name}: {error:.1e}"


@pytest.mark.parametrize(("d_k", "d_v", "length"), [(33, 17, 3), (1, 1, 1)])
@pytest.mark.parametrize(("op", "decay"), [KINDS[0], KINDS[4]])
def test_widths_and_lengths_that_fill_no_block(op, decay, d_k, d_v, length):
    check(op, given(op, decay, length, d_k=d_k, d_v=d_v))


@pytest.mark.parametrize(("op", "decay"), [KINDS[0], KINDS[4], KINDS[6]])
def test_packed(op, decay):
    bounds = [0, 1, 19, 23]
    inputs = given(op, decay, bounds[-1])
    inputs["initial_state"] = torch.randn(3, *inputs["initial_state"].shape[1:], dtype=torch.float64)
    check(op, inputs | {"cu_seqlens": torch.tensor(bounds, dtype=torch.int32)})


@pytest.mark.parametrize("layout", ["sliced", "transposed"])
@pytest.mark.parametrize(("op", "decay"), [KINDS[1], KINDS[3]])
def test_layouts_without_an_initial_state(op, decay, layout):
    check(op, given(op, decay, 3, batch=2, initial_state=False), layout)


@pytest.mark.parametrize(("op", "decay"), DECAYING)
def test_extreme_decays_are_exact(op, decay):
    inputs = given(op, decay, length=32, dtype=torch.float32)
    rng = torch.Generator().manual_seed(1)
    strength = torch.randint(0, 5, inputs["log_decay"].shape, generator=rng)
    inputs["log_decay"] = torch.tensor([-1e-3, -0.1, -30.0, -800.0, -math.inf])[strength]
    check(op, inputs)


@pytest.mark.parametrize(("op", "decay"), [KINDS[0], KINDS[1]])
def test_growth_and_its_opposite_stay_finite_and_exact(op, decay):
    inputs = given(op, decay, dtype=torch.float32)
    inputs["log_decay"] = torch.zeros_like(inputs["log_decay"])
    inputs["log_decay"][:, 3::4], inputs["log_decay"][:, 1::4] = 30, -30
    check(op, inputs)


def test_a_strength_of_two_on_repeated_keys_stays_accurate_in_float32():
    """The worst case of the triangular inverse: every row undoes what the one before wrote."""
    inputs = given("delta_rule", "none", length=32, dtype=torch.float32)
    inputs["k"] = inputs["k"][:, :1].expand(-1, 32, -1, -1)
    inputs["beta"] = torch.full_like(inputs["beta"], 2.0)
    check("delta_rule", inputs)


def test_chunks_of_the_length_on_a_gpu(monkeypatch):
    monkeypatch.setattr(triton_blocks, "CHUNK", 64)
    check("delta_rule", given("delta_rule", "vector", length=70, dtype=torch.float16))


@each_kind
def test_batches_of_none(op, decay):
    check(op, given(op, decay, batch=0))


def test_only_the_outputs_that_are_used_need_a_gradient():
    inputs = device_and_layout(given("delta_rule", "scalar", length=5))
    inputs["v"].requires_grad_()
    for used in (0, 1):
        (got,) = torch.autograd.grad(run("delta_rule", "triton")(**inputs)[used].sum(), [inputs["v"]])
        (want,) = torch.autograd.grad(run("delta_rule", "reference")(**inputs)[used].sum(), [inputs["v"]])
        assert_near(got, want)


def test_the_result_is_the_same_every_time():
    inputs = device_and_layout(given("delta_rule", "vector", dtype=torch.float32))
    first, second = (values_and_gradients(run("delta_rule", "triton"), inputs) for _ in range(2))
    assert all(torch.equal(second[name], value) for name, value in first.items())


def test_is_an_operator():
    x = device_and_layout(given("delta_rule", "vector", length=2))
    run("delta_rule", "triton")(**x)
    tensors = (x["q"], x["k"], x["v"], x["log_decay"], x["beta"][..., None], x["initial_state"])
    check_operator(torch.ops.seqconv.linear_attention_triton.default, *tensors, None, 0.5, True)


@pytest.mark.usefixtures("unannotated")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("op", "decay"), [KINDS[0], KINDS[4], KINDS[6]])
def test_compiles_without_graph_breaks(op, decay):
    inputs = device_and_layout(given(op, decay, length=3, dtype=torch.float32))
    torch.compiler.reset()
    compiled = torch.compile(run(op, "triton"), fullgraph=True, backend="aot_eager")
    for got, want in zip(compiled(**inputs), run(op, "triton")(**inputs), strict=True):
        assert_near(got, want)


def test_autocast_does_not_reach_the_sums():
    inputs = device_and_layout(given("gated_linear_attention", "vector", length=3, dtype=torch.float32))
    want, _ = run("gated_linear_attention", "triton")(**inputs)
    with torch.autocast(want.device.type, torch.bfloat16):
        assert torch.equal(run("gated_linear_attention", "triton")(**inputs)[0], want)


@pytest.mark.usefixtures("unannotated")
def test_errors_say_what_is_unsupported():
    good = device_and_layout(given("delta_rule", "scalar", dtype=torch.float32))
    cases = {
        r"one beta per head, not per value channel": {"beta": good["v"]},
        r"q of dtype torch.float64 is wider than the accumulators, torch.float32": {"q": good["q"].double()},
        r"d_k = 300, wanted at most 256": {k: good[k].new_zeros(1, 20, 1, 300) for k in ("q", "k")}
        | {"initial_state": None},
    }
    for reason, change in cases.items():
        with pytest.raises(ValueError, match=rf"delta_rule: received implementation='triton'.*{reason}"):
            K.delta_rule(**(good | change), implementation="triton")
