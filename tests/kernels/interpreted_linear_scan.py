"""The real diagonal scan in Triton against the reference, run by test_triton.py."""

import pytest
import torch
from scan_cases import assert_same, check_finite_differences, values_and_gradients
from triton_cases import check_operator, device_and_layout, each_dtype

from seqconv_kernels import linear_scan
from seqconv_kernels.linear_scan.cases import Shape, example_inputs
from tolerances import assert_near


def run(implementation):
    def call(**inputs):
        return linear_scan(**inputs, return_final_state=True, implementation=implementation)

    return call


def check(inputs, layout="contiguous"):
    want = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    got = values_and_gradients(run("triton"), device_and_layout(inputs, layout, ("a", "x")))
    assert_same(got, values_and_gradients(run("reference"), want), str(inputs["x"].shape))


@each_dtype
def test_every_dtype(dtype):
    shape = Shape(2, 70, 130) if dtype == torch.float64 else Shape(2, 40, 3)  # two blocks of channels take seconds
    check(example_inputs(shape, dtype=dtype, initial_state=True))


@pytest.mark.parametrize("length", [1, 2, 32, 33, 130])
def test_every_length(length):
    check(example_inputs(Shape(2, length, 3), dtype=torch.float64, initial_state=length % 2 == 0))


@pytest.mark.parametrize("layout", ["sliced", "transposed"])
def test_every_layout_and_several_axes(layout):
    check(example_inputs(Shape(2, 19, 6), dtype=torch.float64, initial_state=True), layout)
    inputs = {k: v.unflatten(-1, (2, 3)) for k, v in example_inputs(Shape(2, 19, 6), initial_state=True).items()}
    check(inputs, layout)


def test_packed_and_empty():
    inputs = example_inputs(Shape(1, 70, 3), dtype=torch.float64)
    inputs["initial_state"] = torch.randn(3, 3, dtype=torch.float64)
    check(inputs | {"cu_seqlens": torch.tensor([0, 1, 60, 70])})
    check(example_inputs(Shape(0, 5, 3), initial_state=True))


def test_a_factor_of_zero_resets_exactly():
    inputs = device_and_layout(example_inputs(Shape(1, 90, 3), dtype=torch.float64))
    inputs["a"][:, 50] = 0
    after = linear_scan(inputs["a"][:, 50:], inputs["x"][:, 50:], implementation="triton")
    assert_near(linear_scan(**inputs, implementation="triton")[:, 50:], after)


def test_is_an_operator_with_exact_gradients_of_gradients():
    inputs = device_and_layout(example_inputs(Shape(1, 2, 1), dtype=torch.float64, initial_state=True))
    check_finite_differences(lambda **i: linear_scan(**i, implementation="triton"), inputs, twice=True)
    check_operator(torch.ops.seqconv.linear_scan_triton.default, *inputs.values())
    check_operator(torch.ops.seqconv.linear_scan_triton_adjoint.default, inputs["a"], inputs["x"])


def test_complex_raises():
    inputs = device_and_layout(example_inputs(Shape(1, 5, 2), dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"a has dtype torch.complex64, wanted float32"):
        linear_scan(**inputs, implementation="triton")
    assert_near(linear_scan(**inputs), linear_scan(**inputs, implementation="reference"))
