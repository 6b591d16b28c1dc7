"""SGConv: the numbers of the original, and what its filter promises."""

import pytest
import torch
import torch.nn.functional as F

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv import create_mixer
from seqconv.filters.explicit.sgconv import SGConvFilter
from seqconv.interop import from_original

RTOL, ATOL = 1e-9, 1e-10
CASES = ["sgconv_cat", "sgconv_cat_bidirectional", "sgconv_learnable", "sgconv_sum"]


def as_seqconv(case, tensor):
    """(batch, length, channels), whatever the layout of the original."""
    return tensor.transpose(1, 2) if case.hyper.get("transposed", True) else tensor


@pytest.mark.parametrize("name", CASES)
def test_outputs_kernels_and_gradients_of_the_original(name):
    case = load_case(name)
    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    u = case.tensors["in.u"].clone().requires_grad_()
    y = imported(as_seqconv(case, u))
    assert_close(y, as_seqconv(case, case.tensors["out.y"]), RTOL, ATOL, "y")
    (y * as_seqconv(case, case.tensors["cot.y"])).sum().backward()
    wanted = case.group("grad")
    assert_close(u.grad, wanted.pop("in.u"), RTOL, ATOL, "gradient of the input")
    check_gradients(imported, wanted, RTOL, ATOL)


@pytest.mark.parametrize("name", CASES)
def test_the_norm_is_measured_once_for_all_lengths(name):
    case = load_case(name)
    mixer = from_original(case.meta["original"], case.group("param"), **case.hyper)
    frozen = case.group("param") | case.group("param_after")
    again = from_original(case.meta["original"], frozen, **case.hyper)
    for length in ("", "_short", "_long"):
        u, want = as_seqconv(case, case.tensors[f"in.u{length}"]), as_seqconv(case, case.tensors[f"out.y{length}"])
        assert_close(mixer(u), want, RTOL, ATOL, f"y{length}")
        assert_close(again(u), want, RTOL, ATOL, f"y{length} with the saved norm")
    convolution, length = mixer.convolution, case.hyper["L"]
    k, copies = case.tensors["out.k"], case.hyper.get("channels", 1)
    taps = convolution.filter(length).unflatten(0, (-1, copies, case.hyper["d_model"]))
    assert_close(taps[0], k[..., :length], RTOL, ATOL, "taps of the past")
    if convolution.two_sided:
        assert_close(taps[1].flip(-1), k[..., length:], RTOL, ATOL, "taps of the future")


def naive_taps(filter: SGConvFilter, alpha: float) -> torch.Tensor:
    """The definition, tap by tap, for one channel."""
    kernels, total = filter.kernels[:, 0].detach(), filter.max_length
    scales, dim = kernels.shape
    h, start = torch.zeros(total, dtype=kernels.dtype), 0
    for i in range(scales):
        factor = 2 ** ((i if filter.options["combine"] == "sum" else max(0, i - 1)) + filter.options["init_scale"])
        for t in range(dim * factor):
            if filter.options["upsampling"] == "nearest":
                value = kernels[i, t // factor]
            else:
                place = min(max((t + 0.5) / factor - 0.5, 0), dim - 1)
                left, part = int(place), place - int(place)
                value = (1 - part) * kernels[i, left] + part * kernels[i, min(left + 1, dim - 1)]
            h[start + t] += alpha ** (scales - 1 - i) * value
        start += dim * factor if filter.options["combine"] == "cat" else 0
    return h


@pytest.mark.parametrize("combine", ["cat", "sum"])
@pytest.mark.parametrize("upsampling", ["linear", "nearest"])
@pytest.mark.parametrize("sizes", [{"l_max": 20}, {"l_max": 16, "init_scale": 1}, {"l_max": 64, "n_scales": 2}])
def test_taps_are_the_definition(combine, upsampling, sizes):
    options = {"kernel_dim": 4, "combine": combine, "upsampling": upsampling, "decay_min": 1.5, **sizes}
    filter = SGConvFilter(2, **options).double()
    want = naive_taps(filter, 1.5)
    assert filter.max_length == len(want)
    got = filter(len(want) + 3)[0] * filter.norm[0]
    assert_close(got[: len(want)], want, 1e-7, 1e-9)
    assert (got[len(want) :] == 0).all()
    assert_close(filter(5)[0] * filter.norm[0], want[:5], 1e-7, 1e-9)


def test_power_law_decay_multiplies_the_taps():
    torch.manual_seed(0)
    filter = SGConvFilter(6, l_max=16, kernel_dim=4, groups=2, decay="power", decay_min=0.5, decay_max=1.5).double()
    plain = SGConvFilter(6, l_max=16, kernel_dim=4, groups=2, decay_min=1.0, decay_max=1.0).double()
    with torch.no_grad():
        plain.kernels.copy_(filter.kernels)
    t = torch.arange(16, dtype=torch.float64)
    want = plain(16) * plain.norm[:, None] * (t + 1) ** -filter.power.repeat(2)[:, None] / filter.norm[:, None]
    assert_close(filter(16), want, 1e-9, 1e-10)
    fixed = SGConvFilter(2, l_max=4, decay="fixed_power", lr=1e-2)
    assert not isinstance(fixed.power, torch.nn.Parameter)
    assert fixed.kernels._optim == {"lr": 1e-2}


def test_every_filter_starts_with_norm_one_and_the_norm_stays():
    filter = SGConvFilter(3, l_max=32, kernel_dim=8, init="cos").double()
    assert_close(filter(32).norm(dim=1), torch.ones(3).double(), 1e-6, 1e-6)
    before = filter.norm.clone()
    with torch.no_grad():
        filter.kernels.mul_(3)
    filter(7)
    assert torch.equal(filter.norm, before)


def test_kernels_and_their_norm_stay_in_float32_when_the_mixer_is_converted():
    mixer = create_mixer("sgconv", 8, l_max=32)
    want = mixer.convolution.filter(32)
    assert torch.equal(mixer.to(torch.bfloat16).convolution.filter(32), want)
    assert mixer.out_proj.weight.dtype == torch.bfloat16


def test_weight_norm_is_folded_into_the_weight():
    case = load_case("sgconv_cat")
    params, hyper = case.group("param"), case.hyper
    weight = params.pop("output_linear.0.weight")
    params["output_linear.0.weight_g"] = weight.norm(dim=1, keepdim=True)
    params["output_linear.0.weight_v"] = 3 * weight
    mixer = from_original(case.meta["original"], params, **hyper, weight_norm=True)
    assert_close(mixer(as_seqconv(case, case.tensors["in.u"])), as_seqconv(case, case.tensors["out.y"]), RTOL, ATOL)


@pytest.mark.parametrize("transposed", [True, False])
def test_the_layer_norm_of_the_original(transposed):
    """``ln``: one scale and one shift in the transposed layout, ``torch.nn.LayerNorm`` in the other."""
    case = load_case("sgconv_cat")
    hyper = case.hyper | {"ln": True, "transposed": transposed, "postact": None}
    params = case.group("param") | {"output_linear.weight": torch.eye(4).double(), "output_linear.bias": torch.zeros(4)}
    params = {k: v.double() for k, v in params.items() if not k.startswith("output_linear.0")}
    m, s = torch.tensor([0.3]).double(), torch.tensor([1.7]).double()
    names = ("m", "s") if transposed else ("bias", "weight")
    values = (m, s) if transposed else (m.expand(4), s.expand(4))
    params |= {f"norm.norm.{name}": value for name, value in zip(names, values, strict=True)}
    u = as_seqconv(case, case.tensors["in.u"])
    got = from_original(case.meta["original"], params, **hyper)(u)
    mixer = from_original(case.meta["original"], case.group("param"), **case.hyper)
    v = F.gelu(mixer.convolution(u, skip=mixer.D))
    standard = (v - v.mean(-1, keepdim=True)) / (
        v.var(-1, correction=0, keepdim=True) + (0 if transposed else 1e-5)
    ).sqrt()
    assert_close(
        got, s * (standard + m / v.std(-1, correction=0, keepdim=True)) if transposed else s * standard + m, 1e-9, 1e-9
    )


def test_errors_say_what_to_do():
    original, cases = "ctlllll/SGConv:GConv", {}
    cases[r"norm 'lyer'.*did you mean 'layer'"] = lambda: create_mixer("sgconv", 8, norm="lyer")
    cases[r"combine 'add'.*one of cat, sum"] = lambda: create_mixer("sgconv", 8, combine="add")
    cases[r"activation 'gleu'.*did you mean 'gelu'"] = lambda: create_mixer("sgconv", 8, activation="gleu")
    cases[r"channels=2, linear=True.*Remedy: set linear=False"] = lambda: create_mixer(
        "sgconv", 8, channels=2, linear=True
    )
    cases[r"l_max=0.*sizes of at least 1"] = lambda: create_mixer("sgconv", 8, l_max=0)
    cases[r"hyper-parameter 'kernel_dm'.*did you mean 'kernel_dim'"] = lambda: from_original(
        original, {}, d_model=4, kernel_dm=3
    )
    cases[r"no d_model.*Remedy: pass the arguments"] = lambda: from_original(original, {}, l_max=64)
    cases[r"hyper_act='glu'.*the original fails"] = lambda: from_original(
        original, {}, d_model=4, l_max=64, hyper_act="glu"
    )
    cases[r"mode 'cat'.*did you mean 'cat_cos'"] = lambda: from_original(original, {}, d_model=4, l_max=64, mode="cat")
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
