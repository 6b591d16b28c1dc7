"""Linear layers of few rows: every instruction set against the equation in float64; int8 weights; what dispatches."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from seqconv_kernels import skinny_linear
from seqconv_kernels._core import native
from seqconv_kernels.skinny_linear import MAX_ROWS, cpu, eager_linear, quantize_rows
from seqconv_kernels.skinny_linear.cases import Shape, example_inputs
from tolerances import assert_near

ISAS = native.library().isas() if native.unavailable() is None else []
compiled = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SIZES = [(1, 64, 33), (1, 37, 19), (2, 5, 3), (3, 257, 16), (5, 130, 70), (8, 768, 21), (1, 1, 1)]


@pytest.fixture(params=ISAS)
def isa(request):
    native.library().set_isa(request.param)
    yield request.param
    native.library().set_isa(ISAS[0])


def equation(inputs):
    """In float64, from the values that the narrow tensors hold."""
    weight, scale = inputs["weight"].double(), inputs.get("scale")
    if scale is not None:
        weight = weight * scale.double().view(len(scale), -1).repeat_interleave(
            weight.shape[1] // (1 if scale.dim() == 1 else scale.shape[1]), dim=1
        )
    y = torch.einsum("bi,oi->bo", inputs["x"].double(), weight)
    return y + inputs["bias"].double() if "bias" in inputs else y


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bias", [False, True])
def test_every_instruction_set(size, dtype, bias, isa):
    inputs = example_inputs(Shape(*size), str(dtype).removeprefix("torch."), dtype=dtype, bias=bias)
    got = skinny_linear(**inputs, implementation="cpu")
    assert got.dtype == dtype
    assert_near(got, equation(inputs), dtype=dtype)
    assert_near(skinny_linear(**inputs, implementation="reference"), equation(inputs), dtype=dtype)


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("size", "group"), [((1, 64, 33), None), ((3, 36, 19), 12), ((8, 256, 21), 128), ((1, 30, 5), 1)]
)
def test_int8_on_every_instruction_set(size, group, dtype, isa):
    inputs = example_inputs(Shape(*size), "int8", dtype=dtype, group_size=group)
    for implementation in ("cpu", "reference"):
        assert_near(skinny_linear(**inputs, implementation=implementation), equation(inputs), dtype=dtype)


@compiled
@pytest.mark.parametrize("weights", ["bfloat16", "float16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_narrow_weight_with_other_activations(weights, dtype, isa):
    inputs = example_inputs(Shape(3, 70, 40), weights, dtype=dtype)
    for implementation in ("cpu", "reference"):
        got = skinny_linear(**inputs, implementation=implementation)
        assert got.dtype == dtype
        assert_near(got, equation(inputs), dtype=dtype)


@compiled
def test_strided_rows_are_read_in_place():
    inputs = example_inputs(Shape(4, 48, 20))
    want = skinny_linear(**inputs)
    wide = torch.full((4, 60), torch.nan).index_copy(1, torch.arange(48), inputs["x"])
    weight = torch.full((20, 50), torch.nan).index_copy(1, torch.arange(48), inputs["weight"])
    bias = inputs["bias"]
    assert torch.equal(skinny_linear(wide[:, :48], weight[:, :48], bias, implementation="cpu"), want)
    assert torch.equal(skinny_linear(inputs["x"].T.contiguous().T, inputs["weight"], bias), want)


@compiled
def test_neither_threads_nor_other_rows_change_a_bit():
    inputs = example_inputs(Shape(7, 512, 1000))
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(skinny_linear(**inputs, implementation="cpu"))
    torch.set_num_threads(before)
    assert all(torch.equal(results[0], y) for y in results)
    alone = [skinny_linear(**{**inputs, "x": row[None]}, implementation="cpu") for row in inputs["x"]]
    assert torch.equal(torch.cat(alone), results[0])


@compiled
def test_what_the_kernel_does_not_serve_goes_to_the_reference():
    inputs = example_inputs(Shape(MAX_ROWS + 1, 64, 8))
    assert torch.equal(skinny_linear(**inputs), F.linear(inputs["x"], inputs["weight"], inputs["bias"]))
    with pytest.raises(ValueError, match=r"skinny_linear: .*x has 9 rows, the kernel serves up to 8.*Remedy"):
        skinny_linear(**inputs, implementation="cpu")
    inputs = example_inputs(Shape(2, 64, 8))
    leaf = inputs["x"].requires_grad_()
    skinny_linear(**inputs).sum().backward()
    assert_near(leaf.grad, inputs["weight"].sum(0).expand(2, -1))
    with pytest.raises(ValueError, match=r"skinny_linear: .*x needs a gradient, which only the reference gives"):
        skinny_linear(**inputs, implementation="cpu")


def test_gradients_through_an_int8_weight_are_those_of_its_values():
    inputs = example_inputs(Shape(2, 12, 5), "int8", dtype=torch.float64, group_size=4)
    leaf = inputs["x"].requires_grad_()
    skinny_linear(**inputs).sum().backward()
    dense = inputs["weight"].double() * inputs["scale"].double().repeat_interleave(4, 1)
    assert_near(leaf.grad, dense.sum(0).expand(2, -1))


@pytest.mark.parametrize("group", [None, 16])
def test_quantized_rows_are_the_nearest(group):
    weight = torch.randn(9, 64, generator=torch.Generator().manual_seed(0))
    weight[3] = 0
    narrow, scale = quantize_rows(weight, group_size=group)
    steps = scale.view(9, -1).repeat_interleave(group or 64, 1)
    assert ((narrow * steps - weight).abs() <= steps / 2 * (1 + 1e-5)).all()
    assert narrow.abs().amax() == 127
    with pytest.raises(ValueError, match=r"quantize_rows: received group_size=7 for 64 inputs; wanted a divisor"):
        quantize_rows(weight, group_size=7)


def test_wrong_arguments_are_named(unannotated):
    inputs = example_inputs(Shape(2, 12, 5), "int8")
    wrong = {
        r"weight of dtype torch.int8 with no scale; wanted .*Remedy: use quantize_rows": {"scale": None},
        r"weight of dtype torch.float32 with a scale": {"weight": inputs["weight"].float()},
        r"scale of shape \(5, 5\) for a weight of shape \(5, 12\)": {"scale": torch.ones(5, 5)},
        r"x of shape \(2, 11\) and weight of shape \(5, 12\)": {"x": inputs["x"][:, 1:]},
    }
    for message, change in wrong.items():
        with pytest.raises(ValueError, match=f"skinny_linear: received {message}"):
            skinny_linear(**{**inputs, **change})


@compiled
def test_the_eager_form_serves_plain_calls_alone(monkeypatch):
    monkeypatch.setattr(cpu, "WORTH_A_CALL", dict.fromkeys(cpu.WORTH_A_CALL, 0))
    inputs = example_inputs(Shape(2, 12, 5))
    x, weight, bias = inputs["x"], inputs["weight"], inputs["bias"]
    want = skinny_linear(x, weight, bias, implementation="cpu")
    assert torch.equal(eager_linear(x, weight, bias), want)
    assert torch.equal(eager_linear(x[:, None], weight, bias), want[:, None])
    assert torch.equal(eager_linear(x[0], weight, bias), want[0])
    assert eager_linear(x.repeat(5, 1), weight, bias) is None
    assert eager_linear(x.double(), weight, bias) is None
    assert eager_linear(x.to("meta"), weight, bias) is None
    leaf = weight.clone().requires_grad_()
    assert eager_linear(x, leaf, bias) is None
    with torch.no_grad():
        assert torch.equal(eager_linear(x, leaf, bias), want)
    with torch.autocast("cpu", torch.bfloat16):
        assert eager_linear(x, weight, bias) is None
    with FlopCounterMode(display=False):
        assert eager_linear(x, weight, bias) is None
    assert torch.func.vmap(lambda row: row if eager_linear(row, weight, bias) is None else row * torch.nan)(x).equal(x)
    with torch.profiler.profile() as profile:
        assert torch.equal(eager_linear(x, weight, bias), want)
    assert any(event.key == "seqconv::skinny_linear" for event in profile.key_averages())
    monkeypatch.undo()
    assert eager_linear(x, weight, bias) is None  # too small to be worth the call
    narrow, scale = quantize_rows(weight)
    assert torch.equal(eager_linear(x, narrow, bias, scale), skinny_linear(x, narrow, bias, scale=scale))


@compiled
def test_the_operator_passes_opcheck():
    for inputs in (example_inputs(Shape(2, 12, 5)), example_inputs(Shape(2, 12, 5), "int8", group_size=4)):
        arguments = tuple(inputs.get(k) for k in ("x", "weight", "bias", "scale"))
        torch.library.opcheck(torch.ops.seqconv.skinny_linear.default, arguments)


@compiled
def test_the_extension_checks_what_it_is_told():
    x, weight = torch.zeros(1, 6), torch.zeros(4, 6)

    def call(code=0, sizes=(1, 6, 4, 1), address=None):
        address = weight.data_ptr() if address is None else address
        y = torch.empty(1, 4)
        native.library().skinny_linear(0, code, sizes, (6, 6), x.data_ptr(), address, 0, 0, y.data_ptr(), 1)
        return y

    assert torch.equal(call(), torch.zeros(1, 4))
    for wrong in ({"code": 1}, {"code": -1}, {"sizes": (1, 6, 4, 4)}, {"address": 0}):
        with pytest.raises(ValueError, match="skinny_linear: a dtype, a size or an address"):
            call(**wrong)
