"""The generalised delta rule: all forms against the reference, golden numbers, what it contains, resets, errors."""

import math
from itertools import product

import pytest
import torch
from scan_cases import (
    ALL,
    FAST,
    LENGTHS,
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

from golden_cases import load_case, load_variant
from seqconv_kernels import delta_rule, dplr_delta_rule, dplr_delta_rule_step
from seqconv_kernels.dplr_delta_rule.cases import SHAPES, Shape, example_inputs
from tolerances import assert_near

KINDS = [*product(["vector", "scalar", "none"], ["own", "key"])]
each_kind = pytest.mark.parametrize(("decay", "low_rank"), KINDS)
each_implementation = pytest.mark.parametrize("implementation", ALL)
TOKENS = ("q", "k", "v", "a", "b", "log_decay")


def tiny(length, decay="vector", low_rank="own", **options):
    shape = Shape(2, length, 4, 6, 5, key_heads=2)
    return example_inputs(shape, dtype=torch.float64, decay=decay, low_rank=low_rank, initial_state=True, **options)


def run(implementation):
    def call(**inputs):
        return dplr_delta_rule(**inputs, return_final_state=True, implementation=implementation)

    return call


@each_kind
@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("length", LENGTHS)
def test_equals_the_reference(implementation, decay, low_rank, length):
    inputs = tiny(length, decay, low_rank)
    got, want = (values_and_gradients(run(name), inputs) for name in (implementation, "reference"))
    assert_same(got, want, f"{decay} {low_rank} at {length}")


@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("low_rank", ["own", "key"])
def test_heads_wider_than_the_vectors_equal_the_reference(implementation, low_rank):
    shape = Shape(1, 70, 2, 40, 72)
    inputs = example_inputs(shape, low_rank=low_rank, initial_state=True)
    wide = {k: v.double() for k, v in inputs.items()}
    got, want = values_and_gradients(run(implementation), inputs), values_and_gradients(run("reference"), wide)
    assert_same(got, want)


@each_kind
@each_implementation
def test_gradients_are_those_of_finite_differences(decay, low_rank, implementation):
    shape = Shape(1, 5, 2, 3, 2, key_heads=1)
    inputs = example_inputs(shape, dtype=torch.float64, decay=decay, low_rank=low_rank, initial_state=True)
    check_finite_differences(run(implementation), inputs)


@each_kind
def test_steps_equal_the_whole(decay, low_rank):
    check_steps(run("chunked"), dplr_delta_rule_step, tiny(9, decay, low_rank), TOKENS)


@pytest.mark.parametrize("decay", ["vector", "scalar"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("implementation", FAST)
def test_extreme_decays_are_exact(implementation, decay, dtype):
    inputs = tiny(130, decay)
    rng = torch.Generator().manual_seed(1)
    strength = torch.randint(0, 4, inputs["log_decay"].shape, generator=rng)
    inputs["log_decay"] = torch.tensor([-1e-3, -30.0, -800.0, -math.inf], dtype=torch.float64)[strength]
    inputs["a"] = 0.1 * inputs["a"]
    got = values_and_gradients(run(implementation), {k: v.to(dtype) for k, v in inputs.items()})
    assert_same(got, values_and_gradients(run("reference"), inputs))


@each_kind
@each_implementation
def test_packed_equals_separate(decay, low_rank, implementation):
    inputs = example_inputs(Shape(1, 100, 4, 6, 5, 2), dtype=torch.float64, decay=decay, low_rank=low_rank)
    inputs["initial_state"] = torch.randn(3, 4, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    check_packed(run(implementation), run("reference"), inputs, TOKENS)


@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_keeps_sums_in_float32(implementation, dtype):
    check_low_precision(run(implementation), tiny(100), dtype)


@pytest.mark.parametrize("implementation", FAST)
def test_autocast_does_not_reach_the_sums(implementation):
    check_no_autocast(run(implementation), tiny(100))


@pytest.mark.parametrize("implementation", FAST)
def test_strided_inputs_and_empty_batches(implementation):
    inputs = tiny(33)
    check_strides_and_empty_batches(run(implementation), inputs, tuple(inputs))


@each_implementation
@pytest.mark.parametrize("decay", ["vector", "scalar"])
def test_it_contains_the_gated_delta_rule(implementation, decay):
    """``b = k = β k`` and ``a = -α k``: KDA and gated DeltaNet."""
    inputs = tiny(70, decay, "key")
    beta = inputs["a"].mean(-1).sigmoid().repeat_interleave(2, dim=2)
    q, k = (inputs[n].repeat_interleave(2, dim=2) for n in "qk")
    alpha = inputs["log_decay"].exp()
    alpha = alpha if decay == "vector" else alpha[..., None]
    rest = {name: inputs[name] for name in ("log_decay", "initial_state")}
    want = delta_rule(q, k, inputs["v"], beta, **rest, return_final_state=True, implementation="reference")
    got = run(implementation)(q=q, k=beta[..., None] * k, v=inputs["v"], a=-alpha * k, **rest)
    for name, a, b in zip(("output", "state"), got, want, strict=True):
        assert_near(a, b, what=name)


@each_implementation
@pytest.mark.parametrize("variant", ["rwkv7", "rwkv7_init"])
def test_golden_rwkv7(variant, implementation):
    """The original puts heads before the length, values before keys in the state, and takes log(-log decay)."""

    def call(q, k, v, w, a, b, initial_state=None):
        q, k, v, w, a, b = (t.transpose(1, 2) for t in (q, k, v, w, a, b))
        y, state = dplr_delta_rule(
            q, k, v, a, b, -w.exp(), scale=1.0, return_final_state=True, implementation=implementation,
            initial_state=None if initial_state is None else initial_state.mT,
        )  # fmt: skip
        return {"y": y.transpose(1, 2), "final_state": state.mT}

    check_golden(load_variant("scan/fla_ops", variant), call)


@each_implementation
@pytest.mark.parametrize("variant", ["dplr", "iplr"])
def test_golden_diagonal_plus_low_rank(variant, implementation):
    """``iplr`` has no decay."""

    def call(q, k, v, alpha, beta, initial_state, gk=None):
        q, k, v, a, b = (t.transpose(1, 2) for t in (q, k, v, alpha, beta))
        y, state = dplr_delta_rule(
            q, k, v, a, b, None if gk is None else gk.transpose(1, 2), initial_state=initial_state,
            return_final_state=True, implementation=implementation,
        )  # fmt: skip
        return {"y": y.transpose(1, 2), "final_state": state}

    check_golden(load_variant("scan/fla_ops", variant), call)


@each_implementation
def test_golden_gated_deltanet_2(implementation):
    """Erase gates ``b`` on the keys, write gates ``w`` on the values."""
    case = load_case("gdn2_scan")
    loss = case.tensors.pop("out.loss")

    def call(q, k, v, g, b, w, initial_state):
        o, state = dplr_delta_rule(
            q, k, w * v, -g.exp() * b * k, None, g, initial_state=initial_state, return_final_state=True,
            implementation=implementation,
        )  # fmt: skip
        return {"o": o, "final_state": state}

    check_golden(case, call, 1e-8, 1e-9)
    outputs = call(**case.group("in"))
    total = sum((outputs[name] * weight).sum() for name, weight in case.group("cot").items())
    torch.testing.assert_close(total, loss)


def test_example_shapes_have_the_sizes_they_name():
    assert dplr_delta_rule(**example_inputs(SHAPES["tiny"], initial_state=True)).shape == (2, 37, 4, 5)


@pytest.mark.usefixtures("unannotated")
def test_errors_name_the_remedy():
    good = tiny(5)
    cases = {
        r"k of shape \(5, 2, 6\).*\(batch, length, heads, width\).*Remedy": {"k": good["k"][0]},
        r"q of shape \(2, 5, 3, 6\) for 4 heads of v.*repeat the tensor": {"q": torch.zeros(2, 5, 3, 6).double()},
        r"a of shape \(2, 4, 2, 6\).*\(2, 5, 2, 6\).*Remedy": {"a": good["a"][:, :4]},
        r"b of shape \(2, 5, 2, 5\).*\(2, 5, 2, 6\).*Remedy": {"b": good["b"][..., :5]},
        r"log_decay of shape \(2, 5, 4, 3\).*one per channel of k": {"log_decay": good["log_decay"][..., :3]},
        r"initial_state of shape \(1, 4, 6, 5\).*Remedy": {"initial_state": good["initial_state"][:1]},
        r"v of dtype torch.int64.*Remedy": {"v": good["v"].long()},
        r"cu_seqlens with a batch of 2.*Remedy": {"cu_seqlens": torch.tensor([0, 5])},
    }
    for pattern, change in cases.items():
        with pytest.raises(ValueError, match=f"dplr_delta_rule: received {pattern}"):
            dplr_delta_rule(**{**good, **change})
    tokens = {k: v[:, 0] for k, v in good.items() if k != "initial_state"}
    with pytest.raises(ValueError, match=r"received state of shape \(1, 4, 6, 5\).*Remedy"):
        dplr_delta_rule_step(**tokens, state=good["initial_state"][:1])
