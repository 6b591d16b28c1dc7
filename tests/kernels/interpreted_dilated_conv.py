"""Dilated levels in Triton against the reference, run by test_triton.py."""

import pytest
import torch
from scan_cases import assert_same, values_and_gradients
from triton_cases import device_and_layout, each_dtype

from seqconv_kernels.dilated_conv import dilated_conv
from seqconv_kernels.dilated_conv import triton as implementation
from seqconv_kernels.dilated_conv.cases import Shape, example_inputs
from tolerances import assert_near


def check(shape, activation=None, past=False, dtype=torch.float64, layout="contiguous"):
    given = example_inputs(shape, dtype=dtype)
    inputs, dilations = {k: given[k] for k in ("x", "weight")}, given["dilations"]
    sizes = [(shape.batch, (shape.width - 1) * d, shape.channels) for d in dilations]
    rng = torch.Generator().manual_seed(1)
    if past:
        inputs |= {str(i): torch.randn(*size, generator=rng, dtype=torch.float64) for i, size in enumerate(sizes)}

    def run(name):
        def call(x, weight, **history):
            options = {"activation": activation, "history": list(history.values()) or None, "return_history": True}
            y, after = dilated_conv(x, weight, dilations, **options, implementation=name)
            return y, *after

        return call

    want = values_and_gradients(run("reference"), {k: v.double() for k, v in inputs.items()})
    got = values_and_gradients(run("triton"), device_and_layout(inputs, layout, ("x",)))
    for name, tensor in want.items():
        assert_near(got[name].cpu(), tensor, dtype=dtype, what=name)


@each_dtype
def test_every_dtype(dtype):
    check(Shape(2, 33, 3, 3, 2, 3), "silu", dtype=dtype)


@pytest.mark.parametrize(
    ("shape", "activation", "past", "layout"),
    [
        (Shape(2, 20, 3, 4, 3, 2), "tanh", True, "sliced"),
        (Shape(1, 9, 2, 5, 1, 1), None, False, "transposed"),
        (Shape(1, 5, 2, 1, 2, 3), "relu", True, "contiguous"),
        (Shape(2, 4, 2, 4, 3, 4), "silu", True, "contiguous"),
        (Shape(0, 5, 3, 4, 2, 2), "silu", True, "contiguous"),
    ],
)
def test_every_option(shape, activation, past, layout):
    check(shape, activation, past, layout=layout)


def test_levels_wider_than_a_grid_take_the_reference(monkeypatch):
    monkeypatch.setattr(implementation, "MAX_CHANNELS", 7)
    check(Shape(1, 20, 3, 3, 3, 3), "silu", True)


@pytest.mark.usefixtures("unannotated")
@pytest.mark.filterwarnings("ignore")
def test_compiles_without_graph_breaks():
    inputs = device_and_layout(example_inputs(Shape(1, 9, 2, 3, 2, 2)))

    def conv(x):
        return dilated_conv(**(inputs | {"x": x}), implementation="triton")

    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    assert_near(compiled(inputs["x"]), conv(inputs["x"]))


def test_comes_first():
    inputs = device_and_layout(example_inputs(Shape(1, 9, 2, 3, 2, 2)))
    got, want = dilated_conv(**inputs), dilated_conv(**inputs, implementation="triton")
    assert_same({"y": got}, {"y": want})
    assert torch.equal(got, want)
