"""The short causal convolution in Triton against the reference, run by test_triton.py."""

import pytest
import torch
from scan_cases import assert_same, check_finite_differences, values_and_gradients
from triton_cases import check_operator, device_and_layout, each_dtype

import seqconv_kernels as K
from seqconv_kernels.causal_conv1d.cases import Shape, example_inputs
from tolerances import assert_near


def run(implementation):
    def call(**inputs):
        return K.causal_conv1d(**inputs, return_final_state=True, implementation=implementation)

    return call


def check(inputs, layout="contiguous"):
    want = {k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in inputs.items()}
    got = values_and_gradients(run("triton"), device_and_layout(inputs, layout, ("x",)))
    assert_same(got, values_and_gradients(run("reference"), want), str(inputs["x"].shape))


@each_dtype
def test_every_dtype(dtype):
    check(example_inputs(Shape(2, 35, 70, 4), dtype=dtype, initial_state=True))


@pytest.mark.parametrize(
    ("shape", "activation", "bias", "state", "layout"),
    [
        (Shape(2, 130, 5, 3), None, False, False, "sliced"),
        (Shape(1, 2, 3, 7), "silu", False, True, "transposed"),
        (Shape(1, 33, 3, 20), None, True, True, "contiguous"),
        (Shape(1, 5, 2, 1), "silu", True, True, "contiguous"),
        (Shape(0, 5, 3, 4), "silu", True, True, "contiguous"),
    ],
)
def test_every_option(shape, activation, bias, state, layout):
    inputs = example_inputs(shape, dtype=torch.float64, initial_state=state) | {"activation": activation}
    check(inputs if bias else inputs | {"bias": None}, layout)


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("bounds", [[0, 70], [0, 1, 3, 68, 70]])
def test_packed(bounds, state):
    inputs = example_inputs(Shape(1, 70, 3, 4), dtype=torch.float64)
    if state:
        inputs["initial_state"] = torch.randn(len(bounds) - 1, 3, 3, dtype=torch.float64)
    check(inputs | {"cu_seqlens": torch.tensor(bounds, dtype=torch.int32)})


def test_is_an_operator_with_exact_gradients():
    inputs = example_inputs(Shape(1, 3, 1, 3), dtype=torch.float64, initial_state=True)
    check_finite_differences(lambda **i: K.causal_conv1d(**i, implementation="triton"), device_and_layout(inputs))
    arguments = [device_and_layout(inputs)[k] for k in ("x", "weight", "bias", "activation", "initial_state")]
    check_operator(torch.ops.seqconv.causal_conv1d_triton.default, *arguments, None, False)


@pytest.mark.usefixtures("unannotated")
@pytest.mark.filterwarnings("ignore")
def test_compiles_without_graph_breaks():
    inputs = device_and_layout(example_inputs(Shape(2, 20, 6, 4), initial_state=True))

    def conv(x):
        return K.causal_conv1d(**(inputs | {"x": x}), return_final_state=True, implementation="triton")

    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    for got, want in zip(compiled(inputs["x"]), conv(inputs["x"]), strict=True):
        assert_near(got, want)


def test_comes_first_and_says_what_is_unsupported():
    inputs = device_and_layout(example_inputs(Shape(1, 5, 3, 4)))
    assert torch.equal(K.causal_conv1d(**inputs), K.causal_conv1d(**inputs, implementation="triton"))
    with pytest.raises(
        ValueError, match=r"weight of dtype torch.float64 is wider than the accumulators, torch.float32"
    ):
        K.causal_conv1d(**(inputs | {"weight": inputs["weight"].double()}), implementation="triton")
