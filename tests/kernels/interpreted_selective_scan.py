"""The selective scan in Triton against the reference, run by test_triton.py."""

import pytest
import torch
from scan_cases import values_and_gradients
from triton_cases import check_operator, device_and_layout, each_dtype

import seqconv_kernels as K
from seqconv_kernels.selective_scan.cases import Shape, example_inputs
from tolerances import assert_near

ACTIVATIONS = ("u", "delta", "B", "C", "z")


def run(implementation):
    def call(**inputs):
        return K.selective_scan(**inputs, return_final_state=True, implementation=implementation)

    return call


def check(inputs, layout="contiguous"):
    want = {k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in inputs.items()}
    got = values_and_gradients(run("triton"), device_and_layout(inputs, layout, ACTIVATIONS))
    for name, wanted in values_and_gradients(run("reference"), want).items():
        assert_near(got[name], wanted, dtype=inputs["u"].dtype, what=name)


@each_dtype
def test_every_dtype(dtype):
    check(example_inputs(Shape(1, 35, 3, 3), dtype=dtype, initial_state=True))


@pytest.mark.parametrize(
    ("shape", "gate", "state", "layout"),
    [
        (Shape(1, 9, 65, 1), True, False, "contiguous"),
        (Shape(1, 1, 3, 16), False, True, "sliced"),
        (Shape(2, 9, 6, 4, 2), True, True, "transposed"),
        (Shape(1, 2, 3, 260, 1), True, False, "contiguous"),
        (Shape(0, 5, 3, 4), True, True, "contiguous"),
    ],
)
def test_every_option(shape, gate, state, layout):
    check(example_inputs(shape, dtype=torch.float64, gate=gate, initial_state=state), layout)


def test_without_skip_bias_and_softplus():
    inputs = example_inputs(Shape(2, 9, 3, 4), dtype=torch.float64, gate=False)
    inputs = {k: v for k, v in inputs.items() if k not in ("D", "delta_bias")} | {"delta_softplus": False}
    check(inputs | {"delta": inputs["delta"].abs()})


@pytest.mark.parametrize(("state", "reverse"), [(False, False), (True, False), (True, True)])
def test_packed(state, reverse):
    bounds = [0, 1, 34, 36, 38]
    inputs = example_inputs(Shape(1, 38, 3, 2), dtype=torch.float64)
    if state:
        inputs["initial_state"] = torch.randn(len(bounds) - 1, 3, 2, dtype=torch.float64)
    check(inputs | {"cu_seqlens": torch.tensor(bounds, dtype=torch.int32), "reverse": reverse})


@pytest.mark.parametrize(("programs", "chunks"), [(1, 1), (2048, 3)])
def test_whole_or_in_chunks(programs, chunks, monkeypatch):
    from seqconv_kernels.selective_scan import triton

    monkeypatch.setattr(triton, "PROGRAMS", programs)
    inputs = example_inputs(Shape(1, 70, 2, 2), dtype=torch.float64, initial_state=True)
    layout = triton._Layout(*(inputs[k] for k in ("u", "A", "B", "C")), None)
    assert (len(layout.chunks.starts), layout.whole) == (chunks, chunks == 1)
    check(inputs)


def test_time_steps_of_every_size():
    inputs = example_inputs(Shape(1, 7, 3, 2), dtype=torch.float32)
    inputs["delta"] = torch.tensor([-30.0, -16.0, -5.0, 0.0, 5.0, 16.0, 30.0])[None, :, None].expand(1, 7, 3)
    check(inputs | {"delta_bias": torch.zeros(3)})


def test_is_an_operator():
    inputs = device_and_layout(example_inputs(Shape(1, 2, 1, 1), dtype=torch.float64, initial_state=True))
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "delta_softplus", "initial_state")
    check_operator(torch.ops.seqconv.selective_scan_triton.default, *(inputs[k] for k in names), None, False, True)


@pytest.mark.usefixtures("unannotated")
@pytest.mark.filterwarnings("ignore")
def test_compiles_without_graph_breaks():
    inputs = device_and_layout(example_inputs(Shape(1, 5, 2, 2), initial_state=True))

    def scan(u):
        return run("triton")(**(inputs | {"u": u}))

    compiled = torch.compile(scan, fullgraph=True, backend="aot_eager")
    for got, want in zip(compiled(inputs["u"]), scan(inputs["u"]), strict=True):
        assert_near(got, want)


@pytest.mark.parametrize("value", [-0.5, torch.nan])
def test_unusual_time_steps_propagate(value):
    inputs = device_and_layout(example_inputs(Shape(2, 5, 2, 2)) | {"delta_softplus": False})
    inputs["delta"] = inputs["delta"].abs() * 0.1
    inputs["delta"][1, 2, 0] = value
    inputs.pop("delta_bias")
    for got, want in zip(run("triton")(**inputs), run("reference")(**inputs), strict=True):
        assert torch.equal(got.isnan(), want.isnan())
        assert_near(got.nan_to_num(), want.nan_to_num())
