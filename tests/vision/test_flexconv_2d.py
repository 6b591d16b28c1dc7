"""FlexConv and CCNN over images: the numbers of their originals, sizes of kernels, other resolutions, errors."""

import math

import pytest
import torch
import torch.nn.functional as F

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv import from_original
from seqconv.convolution.grids import mix_grid
from seqconv.filters.implicit.grids import GridFilter
from seqconv.vision import create_mixer_2d
from seqconv.vision.mixers.continuous.flexconv import FlexConvNd

RTOL, ATOL = 1e-8, 1e-9
CASES = ("flexconv_2d", "flexconv_2d_siren", "ccnn_flexconv_2d", "ccnn_ckconv_2d")


def parameters(case):
    """What the gradients of the case belong to: the parameters after the first forward."""
    return case.group("param") | case.group("param_after")


def channels_last(x):
    return x.movedim(1, -1)


@pytest.mark.parametrize("name", CASES)
def test_outputs_kernels_and_gradients_of_the_original(name):
    case = load_case(f"vision/{name}")
    imported = Imported(case.meta["original"], parameters(case), case.hyper)
    x = case.tensors["in.x"].clone().requires_grad_()
    y = imported(channels_last(x)).movedim(-1, 1)
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, "y")
    (y * case.tensors["cot.y"]).sum().backward()
    wanted = case.group("grad")
    assert_close(x.grad, wanted.pop("in.x"), RTOL, ATOL, "gradient of the input")
    check_gradients(imported, wanted, RTOL, ATOL)
    layer = from_original(case.meta["original"], parameters(case), **case.hyper)
    want = case.tensors["out.k"].flatten(0, 1).flip(1, 2)
    kept = [slice((9 - n) // 2, (9 + n) // 2) if n > 5 or 9 in want.shape else slice(None) for n in want.shape[1:]]
    taps = layer.taps(torch.zeros(1, 9, 9, x.shape[1], dtype=torch.float64))[0].movedim(-1, 0)
    assert_close(taps[:, kept[0], kept[1]], want, RTOL, ATOL, "kernel")
    taps[:, kept[0], kept[1]] = 0
    assert (taps == 0).all()


@pytest.mark.parametrize("name", CASES[2:])
def test_the_first_forward_of_the_original_scales_its_last_layer(name):
    case = load_case(f"vision/{name}")
    layer = from_original(case.meta["original"], case.group("param"), **case.hyper)
    assert_close(layer(channels_last(case.tensors["in.x"])).movedim(-1, 1), case.tensors["out.y"], RTOL, ATOL)


def test_ccnn_is_the_original_block_without_its_norm_and_residual():
    case = load_case("vision/ccnn_flexconv_2d")
    conv = from_original(case.meta["original"], parameters(case), **case.hyper)
    options = {"hidden": 4, "layers": 2, "learn_mean": True, "l_max": 5}
    mixer = create_mixer_2d("ccnn", 3, **options).double().eval()
    mixer.conv.load_state_dict(conv.state_dict())
    mixer.out_proj.weight.data.copy_(case.tensors["block.linear1.weight"][..., 0, 0])
    mixer.out_proj.bias.data.copy_(case.tensors["block.linear1.bias"])
    y = mixer(channels_last(case.tensors["in.x"])).movedim(-1, 1)
    assert_close(y, case.tensors["out.block"], RTOL, ATOL)


def test_mixing_of_channels_is_torchs_convolution():
    torch.manual_seed(0)
    u, taps = torch.randn(2, 4, 5, 3, dtype=torch.float64), torch.randn(2, 3, 3, 5, dtype=torch.float64)
    want = channels_last(F.conv2d(u.movedim(-1, 1), taps.flip(2, 3), padding=(1, 2)))
    assert_close(mix_grid(u, taps.flatten(0, 1).movedim(0, -1)[None]), want, 1e-12, 1e-12)


def test_kernels_have_the_learned_size_and_never_more_than_l_max_lags():
    torch.manual_seed(0)
    conv = FlexConvNd(2, 2, axes=2, separable=True, l_max=[5, 3], mask_width=0.2, threshold=0.1).double()
    conv.filter.mask.width.data.copy_(torch.tensor([0.3, 1.0]))
    conv.filter.network.phase.data.uniform_(-3, 3)  # from phases of zero, the tap of lag zero begins at zero
    kept = conv.taps(torch.zeros(1, 9, 9, 2, dtype=torch.float64))[0].abs().sum(-1) > 0
    reach = 0.3 * math.sqrt(-2 * math.log(0.1)) * 4  # in lags: 2.57
    assert kept.shape == (9, 5)
    assert kept[:, 2].nonzero().flatten().tolist() == [4 + lag for lag in range(-4, 5) if abs(lag) < reach]
    assert kept[4].all()
    x = torch.randn(1, 9, 12, 2, dtype=torch.float64)
    moved = torch.zeros_like(x)
    moved[:, 2:, 1:] = x[:, :-2, :-1]
    assert_close(conv(moved)[:, 6, 5:9], conv(x)[:, 4, 4:8], 1e-9, 1e-12)


SMOOTH = {
    "ckconv": {"l_max": 41, "omega_0": 0.3, "hidden": 8, "window": "shared_gaussian", "mask_width": 0.25},
    "flexconv": {"l_max": 41, "omega_0": 0.1, "hidden": 8, "mask_width": 0.25},
    "ccnn": {"l_max": 41, "omega_0": 0.1, "hidden": 8, "mask_width": 0.25},
}


def smooth_images(side, d_model):
    """Without frequencies near the coarser grid's Nyquist frequency, zero at the rim."""
    t = torch.arange(side).double() / side
    waves = [torch.sin(2 * math.pi * (k + 1) * t + 0.4 * k) for k in range(d_model)]
    rim = torch.sin(math.pi * t).square()
    return torch.stack([(wave * rim)[:, None] * (wave.flip(0) * rim) for wave in waves], dim=-1)[None]


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("rate", [2.0, 0.5])
def test_a_trained_mixer_gives_the_same_function_at_another_resolution(name, rate):
    torch.manual_seed(0)
    mixer = create_mixer_2d(name, 3, **SMOOTH[name], threshold=0.0).double().eval()
    if name == "ckconv":
        mixer.conv.D.data.zero_()
    other = mixer.at_rate(rate)
    fine = smooth_images(80, 3)
    here, there = (fine, fine[:, ::2, ::2]) if rate > 1 else (fine[:, ::2, ::2], fine)
    want, got, unchanged = mixer(here), other(there), mixer(there)
    want, got, unchanged = (want[:, ::2, ::2], got, unchanged) if rate > 1 else (
        want, got[:, ::2, ::2], unchanged[:, ::2, ::2]
    )  # fmt: skip
    assert (unchanged - want).std() > 0.2 * want.std()
    assert (got - want).std() < 0.02 * want.std()
    assert [id(p) for p in other.parameters()] == [id(p) for p in mixer.parameters()]
    assert_close(other.at_rate(1 / rate)(here), mixer(here), 1e-9, 1e-10)


def test_initial_values_are_the_published_ones():
    torch.manual_seed(0)
    network = FlexConvNd(3, 5, axes=2, l_max=8, hidden=64, mask_width=0.2, omega_0=2.0).filter.network
    assert 0.3 < network.mu.abs().max() <= 1.667 * 0.2
    assert network.mu.min() < -0.3
    assert (network.linears[0].bias == 1).all()
    assert abs(network.gamma[0].mean() - 6) < 1
    ratio = (network.frequency / (4 * math.pi * network.gamma)).abs().max()
    assert 0.95 * 0.5**0.5 < ratio <= 0.5**0.5 + 1e-6
    bound = math.sqrt(3 / 64) / math.sqrt(3 * 15 * 15)
    assert 0.9 * bound < network.output.weight.abs().max() <= bound


def test_errors_say_what_to_do(unannotated):
    flex, ccnn = load_case("vision/flexconv_2d"), load_case("vision/ccnn_ckconv_2d")
    cases = {
        r"axes=2, l_max=\[3\].*every axis": lambda: create_mixer_2d("flexconv", 4, l_max=[3]),
        r"mask_width=-1.0.*positive width": lambda: create_mixer_2d("ccnn", 4, mask_width=-1.0),
        r"threshold=1.0.*in \[0, 1\)": lambda: create_mixer_2d("flexconv", 4, threshold=1.0),
        r"network 'siren'.*sine": lambda: create_mixer_2d("flexconv", 4, network="siren"),
        r"bias=False of 'magnet'.*bias=True": lambda: create_mixer_2d("ckconv", 4, network="magnet", bias=False),
        r"condition_dim=2 of 'magnet'": lambda: GridFilter(4, l_max=[4, 4], condition_dim=2, network="magnet"),
        r"x of shape \(1, 3, 4\).*2 axes": lambda: FlexConvNd(4, 4, axes=2)(torch.zeros(1, 3, 4)),
        r"rate=-1.0.*positive factor": lambda: create_mixer_2d("ccnn", 4).at_rate(-1.0),
        r"ss2d.at_rate.*functions of the position.*resize": lambda: create_mixer_2d("ss2d", 4).at_rate(2.0),
        r"8 taps along each axis.*odd": lambda: from_original(
            flex.meta["original"], parameters(flex) | {"train_length": torch.tensor([8])}, **flex.hyper
        ),
        r"kernel_dim_linear=3.*kernel_dim_linear=1": lambda: from_original(
            flex.meta["original"], parameters(flex), **flex.hyper | {"kernel_dim_linear": 3}
        ),
        r"conv.causal=True.*causal=False over images": lambda: from_original(
            ccnn.meta["original"], parameters(ccnn), **ccnn.hyper | {"conv": ccnn.hyper["conv"] | {"causal": True}}
        ),
        r"a SIREN of 2 layers.*at least 3": lambda: from_original(
            ccnn.meta["original"], parameters(ccnn), **ccnn.hyper | {"kernel": ccnn.hyper["kernel"] | {"no_layers": 2}}
        ),
    }  # fmt: skip
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
