"""The 2-D convolution: both forms against direct sums, shapes of every kind, errors."""

import pytest
import torch
from scan_cases import assert_same, values_and_gradients

import seqconv_kernels as K
from seqconv_kernels.fft_conv2d.cases import SHAPES, Shape, example_inputs
from tolerances import assert_near

implementations = pytest.mark.parametrize("implementation", ["rows", "reference"])


def conv(implementation):
    return lambda **tensors: (K.fft_conv2d(**tensors, implementation=implementation),)


@implementations
@pytest.mark.parametrize("size", [(1, 1, 1, 1), (4, 5, 4, 5), (5, 4, 2, 9), (3, 6, 7, 1)])
def test_equals_direct_sums(implementation, size):
    height, width, rows, columns = size
    inputs = example_inputs(Shape(2, height, width, 3, rows, columns), dtype=torch.float64)
    u, h = inputs["u"], inputs["h"]
    want = inputs["skip"] * u
    for a in range(min(rows, height)):
        for b in range(min(columns, width)):
            want[:, a:, b:] += h[:, a, b] * u[:, : height - a, : width - b]
    assert_near(K.fft_conv2d(**inputs, implementation=implementation), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_agree_with_the_reference_in_values_and_gradients(dtype):
    inputs = example_inputs(Shape(2, 9, 13, 18, 9, 13), dtype=dtype)
    inputs["u"] = inputs["u"].transpose(1, 2).contiguous().transpose(1, 2)
    want = values_and_gradients(conv("reference"), {k: v.double() for k, v in inputs.items()})
    for name, got in values_and_gradients(conv("rows"), inputs).items():
        assert_near(got, want[name], dtype=dtype, what=name)
    del inputs["skip"]
    assert K.fft_conv2d(**inputs).dtype == dtype


def test_empty_maps_and_autocast():
    inputs = example_inputs(SHAPES["tiny"])
    assert K.fft_conv2d(**inputs | {"u": inputs["u"][:0]}).shape == (0, 5, 7, 3)
    plain = values_and_gradients(conv(None), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(values_and_gradients(conv(None), inputs), plain)


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.zeros(2, 3, 5, 7)}, r"u of shape \(2, 3, 5, 7\) and h .*Remedy: move the channels"),
        ({"h": torch.zeros(3, 0, 7)}, r"h of shape \(3, 0, 7\); wanted"),
        ({"skip": torch.zeros(4)}, r"skip of shape \(4,\); wanted \(channels\) = \(3,\)"),
        ({"h": torch.zeros(3, 4, 7, dtype=torch.int64)}, "h of dtype torch.int64"),
        ({"implementation": "row"}, "did you mean 'rows'"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=f"fft_conv2d: received .*{message}"):
        K.fft_conv2d(**example_inputs(SHAPES["tiny"]) | change)
