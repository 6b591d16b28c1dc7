"""The long convolution in Triton against the reference, run by test_triton.py."""

import pytest
import torch
from scan_cases import assert_same, values_and_gradients
from triton_cases import DEVICE, check_operator, device_and_layout, each_dtype

import seqconv_kernels as K
from seqconv_kernels.fft_conv import plan, triton_passes
from seqconv_kernels.fft_conv.cases import Shape, example_inputs
from tolerances import assert_near

NAMES = ("u", "h", "skip", "pre_gate", "post_gate", "history")


def run(implementation):
    def call(**inputs):
        return (K.fft_conv(**inputs, implementation=implementation),)

    return call


def check(inputs, layout="contiguous"):
    want = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    got = values_and_gradients(run("triton"), device_and_layout(inputs, layout, ("u", "pre_gate")))
    assert_same(got, values_and_gradients(run("reference"), want), str(inputs["u"].shape))


def after_history(inputs, past):
    u = inputs["u"]
    history = torch.randn(u.shape[0], past, u.shape[2], generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return inputs | {"history": history.to(u.dtype)}


@each_dtype
def test_every_dtype(dtype):
    check(example_inputs(Shape(2, 300, 3, 300), dtype=dtype, gates=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_several_programs_and_their_sums(dtype):
    check(example_inputs(Shape(1, 1024, 9, 1024), dtype=dtype))


@pytest.mark.parametrize(
    ("shape", "gates", "past", "layout"),
    [
        (Shape(2, 1, 3, 1), True, 0, "contiguous"),
        (Shape(2, 255, 17, 300), False, 0, "sliced"),
        (Shape(1, 200, 3, 57), True, 90, "transposed"),
        (Shape(1, 5, 2, 4), False, 30, "contiguous"),
        (Shape(0, 5, 3, 5), True, 4, "contiguous"),
    ],
)
def test_every_option(shape, gates, past, layout):
    inputs = example_inputs(shape, dtype=torch.float64, gates=gates)
    check(after_history(inputs, past) if past else inputs, layout)


def test_without_skip_and_with_one_gate():
    inputs = example_inputs(Shape(2, 50, 3, 50), dtype=torch.float64, gates=True)
    check({k: v for k, v in inputs.items() if k not in ("skip", "pre_gate")})
    check({k: v for k, v in inputs.items() if k not in ("skip", "post_gate")})


def test_outer_transforms():
    assert plan.Plan.make(2171, 2101, torch.float32, None).outer == 16
    check(after_history(example_inputs(Shape(1, 2101, 1, 2101), gates=True), 70))


def test_outer_transforms_in_rows_of_their_matrix(monkeypatch):
    monkeypatch.setitem(plan.LARGEST_INNER, torch.float32, 512)
    monkeypatch.setattr(triton_passes, "OUTER_ROWS", 16)
    assert plan.Plan.make(5000, 5000, torch.float32, None).outer == 32
    check(example_inputs(Shape(1, 5000, 1, 5000)))


@pytest.mark.parametrize(("length", "taps", "past", "blocks"), [(330, 20, 0, 2), (260, 9, 33, 2)])
def test_short_filters_over_blocks(length, taps, past, blocks):
    assert plan.Plan.make(length + past, taps, torch.float64, None).blocks == blocks
    inputs = example_inputs(Shape(1, length, 3, taps), dtype=torch.float64, gates=True)
    check(after_history(inputs, past) if past else inputs)


@pytest.mark.parametrize(("length", "limit", "kept"), [(600, 0.45, 16), (1000, 0.6, 32), (2100, 0.5, 16)])
def test_a_part_of_the_spectrum(length, limit, kept):
    assert len(plan.Plan.make(length, length, torch.float32, limit).kept) == kept
    check(example_inputs(Shape(1, length, 1, length), gates=True) | {"frequency_limit": limit})


def test_transposed_layouts_and_sums_in_memory(monkeypatch):
    monkeypatch.setattr(triton_passes, "LOAD_BYTES", 1000)
    monkeypatch.setattr(triton_passes, "REGISTER_POINTS", 16)
    check(example_inputs(Shape(2, 100, 3, 100), dtype=torch.float64, gates=True))


def test_is_an_operator():
    inputs = after_history(example_inputs(Shape(1, 2, 1, 3), dtype=torch.float64, gates=True), 1)
    check_operator(torch.ops.seqconv.fft_conv_triton.default, *(device_and_layout(inputs)[k] for k in NAMES), None)


def test_gradients_of_gradients():
    def second(implementation):
        inputs = example_inputs(Shape(1, 3, 1, 3), dtype=torch.float64, gates=True)
        leaves = [inputs[k].to(DEVICE).requires_grad_() for k in NAMES[:5]]
        y = K.fft_conv(**dict(zip(NAMES, leaves, strict=False)), implementation=implementation)
        first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), leaves)

    for got, want in zip(second("triton"), second("reference"), strict=True):
        assert_near(got, want)


@pytest.mark.usefixtures("unannotated")
@pytest.mark.filterwarnings("ignore")
def test_compiles_without_graph_breaks():
    inputs = device_and_layout(example_inputs(Shape(2, 20, 3, 20), gates=True))

    def conv(u):
        return K.fft_conv(**(inputs | {"u": u}), implementation="triton")

    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    assert_near(compiled(inputs["u"]), conv(inputs["u"]))


def test_comes_first_and_says_what_is_unsupported():
    inputs = device_and_layout(example_inputs(Shape(1, 5, 3, 4)))
    assert torch.equal(K.fft_conv(**inputs), K.fft_conv(**inputs, implementation="triton"))
    with pytest.raises(ValueError, match=r"h of dtype torch.float64 is wider than the accumulators, torch.float32"):
        K.fft_conv(**(inputs | {"h": inputs["h"].double()}), implementation="triton")
    with pytest.raises(ValueError, match="u has no time steps"):
        K.fft_conv(**(inputs | {"u": inputs["u"][:, :0]}), implementation="triton")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    ("shape", "past", "outer"),
    [(Shape(2, 300, 3, 300), 0, False), (Shape(2, 200, 17, 300), 40, False), (Shape(2, 2101, 2, 2101), 70, True)],
)
def test_what_is_not_finite_reaches_later_outputs_of_its_channel(shape, past, outer, value):
    inputs = example_inputs(shape, dtype=torch.float32, gates=True)
    inputs = after_history(inputs, past) if past else inputs
    length, token = shape.length, shape.length // 2
    assert (plan.Plan.make(length + past, shape.taps, torch.float32, None).outer > 1) == outer
    want = K.fft_conv(**inputs, implementation="reference")
    spoilt = {k: v.clone() for k, v in inputs.items()}
    spoilt["u"][1, token, 1] = value
    got = K.fft_conv(**device_and_layout(spoilt), implementation="triton").cpu()
    expected = want.clone()
    expected[1, token:, 1] = torch.nan
    assert_near(got.nan_to_num(), expected.nan_to_num())
    assert torch.equal(got.isnan(), expected.isnan())
    if past:
        spoilt["history"][0, 3, 0] = value
        got = K.fft_conv(**device_and_layout(spoilt), implementation="triton").cpu()
        expected[0, :, 0] = torch.nan
        assert torch.equal(got.isnan(), expected.isnan())
