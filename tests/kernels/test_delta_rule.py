"""The delta rule: chunked against reference, golden numbers, resets, packing, errors."""

import math

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
from torch._subclasses import FakeTensorMode

from golden_cases import load_variant
from seqconv_kernels import delta_rule, delta_rule_step
from seqconv_kernels.delta_rule import chunked
from seqconv_kernels.delta_rule.cases import SHAPES, Shape, example_inputs
from seqconv_kernels.delta_rule.spec import DELTA_RULE, Inputs
from tolerances import assert_near

each_decay = pytest.mark.parametrize("decay", ["vector", "scalar", "none"])
each_implementation = pytest.mark.parametrize("implementation", ALL)


def tiny(length, decay="scalar", **options):
    shape = Shape(2, length, 2, 6, 5, v_heads=4)
    return example_inputs(shape, dtype=torch.float64, decay=decay, initial_state=True, **options)


def run(implementation):
    def call(**inputs):
        return delta_rule(**inputs, return_final_state=True, implementation=implementation)

    return call


@each_decay
@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("length", LENGTHS)
def test_equals_the_reference(implementation, decay, length):
    inputs = tiny(length, decay)
    got, want = (values_and_gradients(run(name), inputs) for name in (implementation, "reference"))
    assert_same(got, want, f"{decay} at {length}")


@each_decay
def test_keys_wider_than_triton_holds_take_the_chunked_form_on_a_gpu(decay):
    """Chosen for tensors of a GPU, which need no GPU to be looked at; its numbers on the CPU."""
    inputs = example_inputs(Shape(1, 20, 1, 300, 3, 2), dtype=torch.float64, decay=decay, initial_state=True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = {name: torch.empty(t.shape, dtype=t.dtype, device="cuda") for name, t in inputs.items()}
        given = Inputs(**{"log_decay": None, **fake}, scale=1.0)
        assert DELTA_RULE.choose(given) is chunked.delta_rule
        assert DELTA_RULE.report(given)["triton"] == "d_k = 300, wanted at most 256"
    got, want = (values_and_gradients(run(name), inputs) for name in ("chunked", "reference"))
    assert_same(got, want, decay)


@each_decay
@each_implementation
def test_gradients_are_those_of_finite_differences(decay, implementation):
    inputs = example_inputs(Shape(1, 5, 1, 3, 2, 2), dtype=torch.float64, decay=decay, initial_state=True)
    check_finite_differences(run(implementation), inputs)


@each_decay
def test_steps_equal_the_whole(decay):
    inputs = tiny(9, decay)
    check_steps(run("chunked"), delta_rule_step, inputs, ("q", "k", "v", "beta", "log_decay"))


@pytest.mark.parametrize("decay", ["vector", "scalar"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("implementation", FAST)
def test_extreme_decays_are_exact(implementation, decay, dtype):
    inputs = tiny(130, decay)
    rng = torch.Generator().manual_seed(1)
    strength = torch.randint(0, 4, inputs["log_decay"].shape, generator=rng)
    inputs["log_decay"] = torch.tensor([-1e-3, -30.0, -800.0, -math.inf], dtype=torch.float64)[strength]
    got = values_and_gradients(run(implementation), {k: v.to(dtype) for k, v in inputs.items()})
    assert_same(got, values_and_gradients(run("reference"), inputs))


@pytest.mark.parametrize("implementation", FAST)
def test_a_strength_of_two_on_repeated_keys_stays_accurate_in_float32(implementation):
    """The worst case of the triangular solve: every row undoes what the one before wrote."""
    inputs = tiny(256, "none")
    inputs["k"] = inputs["k"][:, :1].expand(-1, 256, -1, -1)
    inputs["beta"] = torch.full_like(inputs["beta"], 2.0)
    got = run(implementation)(**{k: v.float() for k, v in inputs.items()})
    for name, a, b in zip(("output", "state"), got, run("reference")(**inputs), strict=True):
        assert_near(a, b, what=name)


@each_decay
@each_implementation
def test_packed_equals_separate(decay, implementation):
    inputs = example_inputs(Shape(1, 100, 2, 6, 5, 4), dtype=torch.float64, decay=decay)
    inputs["initial_state"] = torch.randn(3, 4, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    check_packed(run(implementation), run("reference"), inputs, ("q", "k", "v", "beta", "log_decay"))


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
@pytest.mark.parametrize("variant", ["delta_rule", "delta_rule_init", "delta_rule_beta_per_channel"])
def test_golden_delta_rule(variant, implementation):
    """The original puts heads before the length."""

    def call(q, k, v, beta, initial_state=None):
        q, k, v, beta = (t.transpose(1, 2) for t in (q, k, v, beta))
        per_channel = beta.dim() == 4
        y, state = delta_rule(
            q, k, v, beta, initial_state=initial_state, return_final_state=True,
            implementation=None if per_channel and implementation == "chunked" else implementation,
        )  # fmt: skip
        return {"y": y.transpose(1, 2), "final_state": state}

    check_golden(load_variant("scan/fla_ops", variant), call)


@each_implementation
@pytest.mark.parametrize("variant", ["gated_delta_rule", "gated_delta_rule_init", "gated_delta_rule_varlen", "kda"])
def test_golden_gated_delta_rule(variant, implementation):
    case = load_variant("scan/fla_ops", variant)

    def call(g, **inputs):
        y, state = delta_rule(
            **inputs, log_decay=g, return_final_state=True, cu_seqlens=case.group("const").get("cu_seqlens"),
            implementation=implementation,
        )  # fmt: skip
        return {"y": y, "final_state": state}

    check_golden(case, call)


def test_example_shapes_have_the_sizes_they_name():
    assert delta_rule(**example_inputs(SHAPES["tiny"], initial_state=True)).shape == (2, 37, 4, 5)


@pytest.mark.usefixtures("unannotated")
def test_errors_name_the_remedy():
    good = tiny(5)
    cases = {
        r"k of shape \(5, 2, 6\).*\(batch, length, heads, width\).*Remedy": {"k": good["k"][0]},
        r"3 heads of v for 2 of k.*Remedy": {"v": good["v"][:, :, :3]},
        r"q of shape \(2, 4, 2, 6\).*\(2, 5, 2, 6\).*Remedy": {"q": good["q"][:, :4]},
        r"beta of shape \(2, 5, 3\).*one per value channel": {"beta": good["beta"][..., :3]},
        r"log_decay of shape \(2, 5, 3\).*one per channel of its key": {"log_decay": good["log_decay"][..., :3]},
        r"initial_state of shape \(1, 4, 6, 5\).*Remedy": {"initial_state": good["initial_state"][:1]},
        r"v of dtype torch.int64.*Remedy": {"v": good["v"].long()},
        r"implementation='chunked'.*one beta per head.*or one of .*'reference'": {
            "implementation": "chunked",
            "beta": good["v"],
        },
        r"cu_seqlens with a batch of 2.*Remedy": {"cu_seqlens": torch.tensor([0, 5])},
    }
    for pattern, change in cases.items():
        with pytest.raises(ValueError, match=f"delta_rule: received {pattern}"):
            delta_rule(**{**good, **change})
    tokens = {k: v[:, 0] for k, v in good.items() if k != "initial_state"}
    with pytest.raises(ValueError, match=r"received state of shape \(1, 4, 6, 5\).*Remedy"):
        delta_rule_step(**tokens, state=good["initial_state"][:1])
