"""The diagonal scan: chunked against reference, real and complex, golden HGRN, resets, packing, errors."""

import pytest
import torch
from scan_cases import (
    LENGTHS,
    assert_same,
    check_finite_differences,
    check_golden,
    check_low_precision,
    check_packed,
    check_steps,
    values_and_gradients,
)

from golden_cases import load_variant
from seqconv_kernels import linear_scan, linear_scan_step
from seqconv_kernels.linear_scan.cases import SHAPES, Shape, example_inputs
from tolerances import assert_near

each_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=["real", "complex"])


def run(implementation):
    def call(**inputs):
        return linear_scan(**inputs, return_final_state=True, implementation=implementation)

    return call


@each_dtype
@pytest.mark.parametrize("length", LENGTHS)
def test_chunked_equals_reference(dtype, length):
    inputs = example_inputs(Shape(2, length, 3), dtype=dtype, initial_state=True)
    got, want = (values_and_gradients(run(name), inputs) for name in ("chunked", "reference"))
    assert_same(got, want, f"length {length}")


def test_a_complex_factor_on_real_inputs_gives_a_complex_state():
    real, turning = (example_inputs(Shape(2, 40, 3), dtype=d) for d in (torch.float64, torch.complex128))
    inputs = {"a": turning["a"], "x": real["x"]}
    got, want = (values_and_gradients(run(name), inputs) for name in ("chunked", "reference"))
    assert got["output 0"].is_complex()
    assert not got["gradient of x"].is_complex()
    assert_same(got, want)


@each_dtype
@pytest.mark.parametrize("implementation", ["chunked", "reference"])
def test_gradients_are_those_of_finite_differences(dtype, implementation):
    inputs = example_inputs(Shape(1, 6, 2), dtype=dtype, initial_state=True)
    check_finite_differences(run(implementation), inputs, twice=True)


def test_several_channel_axes_and_vmap():
    inputs = {k: v.unflatten(-1, (2, 3)) for k, v in example_inputs(Shape(2, 19, 6), initial_state=True).items()}
    h = linear_scan(**inputs)
    flat = linear_scan(**{k: v.flatten(-2) for k, v in inputs.items()})
    assert_near(h.flatten(2), flat)
    over_axis = torch.func.vmap(lambda a, x: linear_scan(a, x), in_dims=2, out_dims=2)
    assert_near(over_axis(inputs["a"], inputs["x"]), linear_scan(inputs["a"], inputs["x"]))


def test_steps_equal_the_whole():
    inputs = example_inputs(Shape(2, 9, 3), dtype=torch.float64, initial_state=True)
    check_steps(run("chunked"), linear_scan_step, inputs, ("a", "x"))


@pytest.mark.parametrize("implementation", ["chunked", "reference"])
def test_a_factor_of_zero_resets_exactly(implementation):
    inputs = example_inputs(Shape(1, 90, 3), dtype=torch.float64)
    inputs["a"][:, 50] = 0
    h = linear_scan(**inputs, implementation=implementation)
    late = linear_scan(inputs["a"][:, 50:], inputs["x"][:, 50:], implementation=implementation)
    torch.testing.assert_close(h[:, 50:], late, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("implementation", ["chunked", "reference"])
def test_packed_equals_separate(implementation):
    inputs = example_inputs(Shape(1, 40, 3), dtype=torch.float64)
    inputs["initial_state"] = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    check_packed(run(implementation), run("reference"), inputs, ("a", "x"), bounds=(0, 1, 30, 40))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_keeps_sums_in_float32(dtype):
    inputs = example_inputs(Shape(2, 100, 3), dtype=torch.float64)
    check_low_precision(run("chunked"), inputs, dtype)


def test_a_million_steps_and_an_empty_batch():
    inputs = {k: v.abs() for k, v in example_inputs(Shape(1, 1_000_000, 1), dtype=torch.float64).items()}
    h = linear_scan(**inputs)
    end = linear_scan(inputs["a"][:, -500:], inputs["x"][:, -500:], implementation="reference")
    assert_near(h[:, -300:], end[:, -300:])
    assert linear_scan(torch.ones(0, 5, 3), torch.ones(0, 5, 3)).shape == (0, 5, 3)


def test_golden_hgrn():
    def call(g, x, initial_state):
        y, state = linear_scan(g.exp(), x, initial_state=initial_state, return_final_state=True)
        return {"y": y, "final_state": state}

    check_golden(load_variant("scan/fla_ops", "hgrn"), call)


def test_example_shapes_have_the_sizes_they_name():
    assert linear_scan(**example_inputs(SHAPES["tiny"], initial_state=True)).shape == (2, 37, 5)


@pytest.mark.usefixtures("unannotated")
def test_errors_name_the_remedy():
    good = example_inputs(Shape(2, 5, 3), initial_state=True)
    cases = {
        r"x of shape \(2,\).*\(batch, length >= 1, channels\).*Remedy": {"x": good["x"][:, 0, 0]},
        r"a of shape \(2, 5, 1\).*\(2, 5, 3\).*Remedy": {"a": good["a"][..., :1]},
        r"initial_state of shape \(1, 3\).*Remedy": {"initial_state": good["initial_state"][:1]},
        r"x of dtype torch.int64.*complex.*Remedy": {"x": good["x"].long()},
        r"implementation 'chunk'.*did you mean 'chunked'": {"implementation": "chunk"},
        r"cu_seqlens with a batch of 2.*Remedy": {"cu_seqlens": torch.tensor([0, 5])},
    }
    for pattern, change in cases.items():
        with pytest.raises(ValueError, match=f"linear_scan: received {pattern}"):
            linear_scan(**{**good, **change})
    with pytest.raises(ValueError, match=r"linear_scan_step: received state of shape \(1, 3\).*Remedy"):
        linear_scan_step(good["a"][:, 0], good["x"][:, 0], state=good["initial_state"][:1])
