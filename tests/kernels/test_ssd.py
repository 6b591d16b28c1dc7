"""State-space duality: chunked against reference, golden numbers, time steps, packing, errors."""

import pytest
import torch
import torch.nn.functional as F
from scan_cases import (
    ALL,
    FAST,
    LENGTHS,
    assert_same,
    check_finite_differences,
    check_golden,
    check_low_precision,
    check_packed,
    check_steps,
    check_strides_and_empty_batches,
    values_and_gradients,
)

from golden_cases import load_variant
from seqconv_kernels import ssd, ssd_step
from seqconv_kernels.ssd.cases import SHAPES, Shape, example_inputs
from tolerances import assert_near

each_implementation = pytest.mark.parametrize("implementation", ALL)


def tiny(length, **options):
    return example_inputs(Shape(2, length, 4, 3, 2, 5), dtype=torch.float64, initial_state=True, **options)


def run(implementation):
    def call(**inputs):
        return ssd(**inputs, return_final_state=True, implementation=implementation)

    return call


@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("length", LENGTHS)
def test_equals_the_reference(implementation, length):
    inputs = tiny(length)
    got, want = (values_and_gradients(run(name), inputs) for name in (implementation, "reference"))
    assert_same(got, want, f"length {length}")


@pytest.mark.parametrize("chunk_size", [1, 3, 8, 256])
def test_the_chunk_size_changes_nothing(chunk_size):
    inputs = tiny(41)
    got = values_and_gradients(run("chunked"), {**inputs, "chunk_size": chunk_size})
    assert_same(got, values_and_gradients(run("reference"), inputs))


@each_implementation
def test_gradients_are_those_of_finite_differences(implementation):
    inputs = example_inputs(Shape(1, 5, 2, 2, 1, 3), dtype=torch.float64, initial_state=True)
    inputs["A"] = inputs["A"] / 8
    check_finite_differences(run(implementation), inputs)


def test_steps_equal_the_whole():
    inputs = {**tiny(9), "dt_limit": (0.01, 0.2)}
    check_steps(run("chunked"), ssd_step, inputs, ("x", "dt", "B", "C", "z"))


@each_implementation
def test_packed_equals_separate(implementation):
    inputs = example_inputs(Shape(1, 100, 4, 3, 2, 5), dtype=torch.float64)
    inputs["initial_state"] = torch.randn(3, 4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    check_packed(run(implementation), run("reference"), inputs, ("x", "dt", "B", "C", "z"))


@each_implementation
def test_extreme_time_steps_reset_the_state(implementation):
    inputs = tiny(100)
    inputs["dt"][:, ::7] = 1e6
    inputs["dt"][:, 3::7] = -1e6
    assert_same(values_and_gradients(run(implementation), inputs), values_and_gradients(run("reference"), inputs))
    y = run(implementation)(**{k: v.float() if isinstance(v, torch.Tensor) else v for k, v in inputs.items()})[0]
    assert_near(y, run("reference")(**inputs)[0])


@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_keeps_sums_in_float32(implementation, dtype):
    check_low_precision(run(implementation), tiny(100), dtype, wide=("A", "D", "dt_bias", "initial_state"))


@pytest.mark.parametrize("implementation", FAST)
def test_strided_inputs_and_empty_batches(implementation):
    inputs = tiny(33)
    check_strides_and_empty_batches(run(implementation), inputs, ("x", "dt", "B", "C", "z", "initial_state"))


@each_implementation
@pytest.mark.parametrize("variant", ["minimal", "minimal_initial_states"])
def test_golden_minimal(variant, implementation):
    """The original takes decays and inputs that are already multiplied by the time step."""

    def call(X, A, B, C, initial_states=None):
        ones = torch.ones_like(A[0, 0])
        state = None if initial_states is None else initial_states[:, 0]
        x = X / -A[..., None]
        y, final = ssd(x, -A, -ones, B, C, initial_state=state, return_final_state=True, implementation=implementation)
        return {"y": y, "final_state": final}

    check_golden(load_variant("scan/ssd", variant), call)


@each_implementation
@pytest.mark.parametrize("variant", ["combined_odd", "combined_odd_init", "combined_Dhdim_z_dtlimit"])
def test_golden_combined(variant, implementation):
    case = load_variant("scan/ssd", variant)

    def call(initial_states=None, **inputs):
        y, final = ssd(
            **inputs, **case.meta["args"], dt_softplus=True, initial_state=initial_states, return_final_state=True,
            implementation=implementation,
        )  # fmt: skip
        return {"y": y, "final_state": final}

    check_golden(case, call)


@each_implementation
def test_golden_packed(implementation):
    case = load_variant("scan/ssd", "combined_seq_idx")

    def call(**inputs):
        y, states = ssd(
            **inputs, dt_softplus=True, cu_seqlens=case.group("const")["cu_seqlens"], return_final_state=True,
            implementation=implementation,
        )  # fmt: skip
        return {"y": y, "varlen_states": states, "final_state": states[-1:]}

    check_golden(case, call)


def test_the_time_step_is_softplus_then_limits():
    inputs = tiny(11)
    want = ssd(**inputs, dt_limit=(0.01, 0.1))
    dt = F.softplus(inputs["dt"] + inputs["dt_bias"]).clamp(0.01, 0.1)
    assert_near(ssd(**{**inputs, "dt": dt, "dt_bias": None, "dt_softplus": False}), want)


def test_example_shapes_have_the_sizes_they_name():
    assert ssd(**example_inputs(SHAPES["tiny"], initial_state=True)).shape == (2, 37, 4, 3)


@pytest.mark.usefixtures("unannotated")
def test_errors_name_the_remedy():
    good = tiny(5)
    cases = {
        r"x of shape \(5, 4, 3\).*\(batch, length, heads, head_dim\).*Remedy": {"x": good["x"][0]},
        r"4 heads and 3 groups.*Remedy": {"B": torch.ones(2, 5, 3, 5, dtype=torch.float64)},
        r"dt of shape \(2, 5, 3\).*\(2, 5, 4\).*Remedy": {"dt": good["dt"][..., :3]},
        r"A of shape \(3,\).*\(4,\).*Remedy": {"A": good["A"][:3]},
        r"D of shape \(3,\).*\(4,\) or \(4, 3\).*Remedy": {"D": good["D"][:3]},
        r"C of shape \(2, 5, 2, 4\).*Remedy": {"C": good["C"][..., :4]},
        r"initial_state of shape \(1, 4, 3, 5\).*Remedy": {"initial_state": good["initial_state"][:1]},
        r"dt of dtype torch.int64.*Remedy": {"dt": good["dt"].long()},
        r"dt_limit=\(1.0, 0.5\).*swap": {"dt_limit": (1.0, 0.5)},
        r"chunk_size=0.*Remedy": {"chunk_size": 0},
        r"implementation 'tritn'.*one of chunked, cpu, .*reference": {"implementation": "tritn"},
        r"cu_seqlens with a batch of 2.*Remedy": {"cu_seqlens": torch.tensor([0, 5])},
    }
    for pattern, change in cases.items():
        with pytest.raises(ValueError, match=f"ssd: received {pattern}"):
            ssd(**{**good, **change})
