"""Continuous convolutions: the numbers of their originals, other sampling rates, irregular times."""

import math

import pytest
import torch
import torch.nn.functional as F

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv import create_mixer
from seqconv.filters.implicit.continuous import ContinuousFilter, PointFilter
from seqconv.interop import from_original

RTOL, ATOL = 1e-8, 1e-9
CCNN_CASES = ["ccnn_ckconv_magnet", "ccnn_ckconv_siren", "flexconv_ccnn"]


def parameters(case):
    """What the gradients of the case belong to: the parameters after the first forward, without those of other tags."""
    own = {k: v for k, v in case.group("param").items() if not k.startswith("k2d.")}
    return own | case.group("param_after")


@pytest.mark.parametrize("name", ["ckconv_siren", "ckconv_relu", "ckconv_rff", "flexconv", "smpconv", *CCNN_CASES])
def test_outputs_kernels_and_gradients_of_the_original(name):
    case = load_case(name)
    imported = Imported(case.meta["original"], parameters(case), case.hyper)
    x = case.tensors["in.x"].clone().requires_grad_()
    y = imported(x.transpose(1, 2)).transpose(1, 2)
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, "y")
    (y * case.tensors["cot.y"]).sum().backward()
    wanted = {k: v for k, v in case.group("grad").items() if "k2d" not in k}
    assert_close(x.grad, wanted.pop("in.x"), RTOL, ATOL, "gradient of the input")
    check_gradients(imported, wanted, RTOL, ATOL)
    layer = from_original(case.meta["original"], parameters(case), **case.hyper)
    k = case.tensors["out.k"].flatten(0, 1)
    taps = layer.filter(x.shape[2])
    assert_close(taps[:, : k.shape[1]].flip(-1), k, RTOL, ATOL, "kernel")
    assert (taps[:, k.shape[1] :] == 0).all()


@pytest.mark.parametrize("name", CCNN_CASES)
def test_the_first_forward_of_the_original_scales_its_last_layer(name):
    case = load_case(name)
    layer = from_original(case.meta["original"], case.group("param"), **case.hyper)
    assert_close(layer(case.tensors["in.x"].transpose(1, 2)).transpose(1, 2), case.tensors["out.y"], RTOL, ATOL)


@pytest.mark.parametrize("name", ["ccnn_ckconv_magnet", "flexconv_ccnn"])
def test_windows_around_the_token(name):
    """ckconv/nn/functional/causal_conv.py of ccnn: a correlation with half the kernel of zeros on both sides."""
    case = load_case(name)
    kernel = case.hyper["kernel"] | {"size": "11"}
    hyper = case.hyper | {"kernel": kernel, "conv": case.hyper["conv"] | {"causal": False}}
    layer = from_original(case.meta["original"], parameters(case) | {"train_length": torch.zeros(1)}, **hyper)
    x = torch.randn(2, 40, 4, dtype=torch.float64)
    p = torch.linspace(-1, 1, 11, dtype=torch.float64)
    taps = layer.filter.network(p).T
    if "mask" in name or "flex" in name:
        layer.filter.mask_mean.zero_()
        width = layer.filter.mask_width
        mask = torch.exp(-0.5 * p.square() / (width.square() + 1e-8))
        taps = taps * mask * (p.abs() < width * math.sqrt(-2 * math.log(0.1)))
    y = F.conv1d(x.transpose(1, 2), taps[:, None], layer.bias, padding=5, groups=4).transpose(1, 2)
    assert_close(layer(x), layer.channel_mixer(y), RTOL, ATOL)
    for use in (lambda: layer(x, layer.convolution.init_state(2)), lambda: layer.at_times(x, torch.zeros(2, 40))):
        with pytest.raises(ValueError, match=r"5 taps in the future.*whole sequence"):
            use()


@pytest.mark.parametrize("name", ["ckconv_siren", "ckconv_rff"])
def test_kernel_networks_without_biases(name):
    case = load_case(name)
    first = "Kernel.kernel_net.0.bias" if name == "ckconv_rff" else ""
    params = case.group("param")
    zeroed = {k: torch.zeros_like(v) if k.endswith("bias") and k != first else v for k, v in params.items()}
    bare = {k: v for k, v in params.items() if not k.endswith("bias") or k == first}
    x = case.tensors["in.x"].transpose(1, 2)
    want = from_original(case.meta["original"], zeroed, **case.hyper)(x)
    assert_close(from_original(case.meta["original"], bare, **(case.hyper | {"bias": False}))(x), want, RTOL, ATOL)


def test_an_odd_padded_length_is_convolved_and_not_distorted():
    case = load_case("ckconv_odd_length")
    layer = from_original(case.meta["original"], case.group("param"), **case.hyper)
    y = layer(case.tensors["in.x"].transpose(1, 2)).transpose(1, 2)
    assert_close(y, case.tensors["out.y_spatial"], RTOL, ATOL, "y")
    assert_close(layer.filter(33).flip(-1), case.tensors["out.k"].flatten(0, 1), RTOL, ATOL, "kernel")


@pytest.mark.parametrize("name", ["ckconv_siren", "ckconv_relu", "ckconv_rff", "ckconv_odd_length"])
def test_kernels_of_the_original_at_other_rates(name):
    """Twice as coarse the original multiplies by 2; twice as fine by 1/2, and blurs all but the ends by a Gaussian."""
    case = load_case(name)
    layer = from_original(case.meta["original"], case.group("param"), **case.hyper)
    for rate, tag in ((2.0, "half"), (0.5, "double")):
        p = case.tensors[f"out.rel_positions_{tag}"].flatten()
        got = layer.filter.kernel_at(p)
        if rate < 1:
            n = torch.arange(-2, 3).double()
            blur = torch.exp(-2 * n.square()) * math.sqrt(2 / math.pi)
            blurred = F.conv1d(got[:, None], blur[None, None])[:, 0]
            got = torch.cat([got[:, :2], blurred, got[:, -2:]], dim=1)
        assert_close(rate * got, case.tensors[f"out.k_{tag}"].flatten(0, 1), 1e-6, 1e-7, tag)


@pytest.mark.parametrize("name", ["ckconv_siren", "flexconv", "smpconv", "flexconv_ccnn"])
def test_prefill_and_steps_are_the_parallel_form(name):
    case = load_case(name)
    layer = from_original(case.meta["original"], parameters(case), **case.hyper)
    x = case.tensors["in.x"].transpose(1, 2)
    want, state = layer(x), layer.convolution.init_state(x.shape[0])
    prompt, state = layer(x[:, :11], state)
    ys = [prompt]
    for t in range(11, x.shape[1]):
        y, state = layer(x[:, t], state)
        ys.append(y[:, None])
    assert_close(torch.cat(ys, dim=1), want, RTOL, ATOL)


SMOOTH = {
    "s5": {"d_state": 8, "dt_min": 0.0005, "dt_max": 0.005, "gate": "none"},
    "lmu": {"d_state": 6, "window": 300},
    "s4d": {"d_state": 8, "dt_min": 0.0005, "dt_max": 0.005},
    "s4": {"d_state": 8, "dt_min": 0.0005, "dt_max": 0.005},
    "ckconv": {"l_max": 1025, "omega_0": 2.0, "hidden": 16},
    "flexconv": {"l_max": 1025, "omega_0": 0.5, "hidden": 16, "mask_width": 0.3, "threshold": 0.0},
    "ccnn": {"l_max": 1025, "omega_0": 0.5, "hidden": 16, "mask_width": 0.3, "threshold": 0.0},
    "smpconv": {"l_max": 1025, "radius": 0.3, "points": 8, "spread": 0.5},
}


def smooth_signal(length, width):
    """Without frequencies above 1/160 of the sampling rate, and from zero on."""
    t = torch.arange(length).double()
    waves = [torch.sin(2 * math.pi * t / period + phase) for period, phase in ((160, 0.3), (243, 1.1), (390, 2.0))]
    return torch.stack([waves[i % 3] * (1 + 0.1 * i) for i in range(width)], dim=1)[None] * torch.tanh(t / 120)[:, None]


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("rate", [2.0, 0.5])
def test_a_trained_mixer_gives_the_same_function_at_another_rate(name, rate):
    torch.manual_seed(0)
    fine, coarse = smooth_signal(1200, 4), smooth_signal(1200, 4)[:, ::2]
    mixer = create_mixer(name, 4, **SMOOTH[name]).double()
    if hasattr(mixer, "D"):
        mixer.D.data.zero_()
    other = mixer.at_rate(rate)
    here, there = (fine, coarse) if rate > 1 else (coarse, fine)
    want, got = mixer(here), other(there)
    want, got = (want[:, ::2], got) if rate > 1 else (want, got[:, ::2])
    scale = want.std()
    unchanged = mixer(there) if rate > 1 else mixer(there)[:, ::2]
    assert (unchanged - want).std() > 0.2 * scale
    assert (got - want).abs().max() < 0.03 * want.abs().max()
    assert (got - want).std() < 0.02 * scale
    assert [id(p) for p in other.parameters()] == [id(p) for p in mixer.parameters()]
    steps = other.prefill(there)[0]
    assert_close(steps, other(there), 1e-8, 1e-8, "prefill at the other rate")


def test_rates_multiply_and_come_back():
    torch.manual_seed(0)
    x = smooth_signal(60, 4)
    for name, options in SMOOTH.items():
        mixer = create_mixer(name, 4, **options).double()
        back = mixer.at_rate(2.0).at_rate(0.5)
        if name == "lmu":  # the matrices of the first were rounded to float32 when it was built
            mixer, back = back, back.at_rate(4.0).at_rate(0.25)
        assert_close(back(x), mixer(x), 1e-9, 1e-10, name)
    both = create_mixer("ckconv", 4, l_max=33, bidirectional=True).double()
    assert (both.at_rate(2.0)(x) - both(x)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["ckconv", "flexconv", "ccnn", "smpconv"])
def test_regular_times_are_the_convolution_and_missing_samples_are_left_out(name):
    torch.manual_seed(0)
    mixer = create_mixer(name, 4, **{**SMOOTH[name], "l_max": 50}).double()
    x = torch.randn(2, 83, 4, dtype=torch.float64)
    times = torch.arange(83).double().expand(2, -1)
    assert_close(mixer.at_times(x, times), mixer(x), 1e-8, 1e-9)
    kept = torch.randperm(83)[:51].sort().values
    zeroed = torch.zeros_like(x)
    zeroed[:, kept] = x[:, kept]
    assert_close(mixer.at_times(x[:, kept], times[:, kept]), mixer(zeroed)[:, kept], 1e-8, 1e-9)
    shifted = times[:, kept] + 1e4
    assert_close(mixer.at_times(x[:, kept], shifted), mixer(zeroed)[:, kept], 1e-7, 1e-8)


@pytest.mark.parametrize("name", ["ckconv", "flexconv", "smpconv"])
def test_inputs_longer_than_the_kernel_are_mixed_within_its_window(name):
    torch.manual_seed(0)
    mixer = create_mixer(name, 4, **{**SMOOTH[name], "l_max": 20}).double()
    x = torch.randn(1, 70, 4, dtype=torch.float64)
    assert_close(mixer(x)[:, 45:], mixer(x[:, 26:])[:, 19:], 1e-9, 1e-10)


def test_the_networks_are_their_equations():
    torch.manual_seed(0)
    p = torch.linspace(-1, 1, 7, dtype=torch.float64)
    magnet = ContinuousFilter(3, l_max=7, network="magnet", hidden=5, layers=2, omega_0=1.5).double()
    net = magnet.network
    g = [torch.exp(-0.5 * (net.gamma[i] * (p[:, None] - net.mu[i])) ** 2) * torch.sin(net.frequency[i] * p[:, None] +
    net.phase[i])
         for i in range(3)]  # fmt: skip
    h = g[2] * ((g[1] * (g[0] @ net.linears[0].weight.T + 1)) @ net.linears[1].weight.T + 1)
    assert_close(magnet.kernel_at(p), (h @ net.output.weight.T).T, RTOL, ATOL)
    assert_close(magnet(7), magnet.kernel_at(p).flip(-1), RTOL, ATOL)


def test_a_centred_mask_leaves_out_as_many_taps_at_both_ends_wherever_its_mean_is():
    """As far out as the farther of the two places at which the mask meets the threshold."""
    options = {"mask_width": 0.2, "threshold": 0.1, "learn_mean": True, "centred": True}
    torch.manual_seed(0)
    filter = ContinuousFilter(2, l_max=41, **options).double()
    filter.mask_mean.data.fill_(0.25)
    kept = (filter(41) != 0).any(0)
    distance = torch.linspace(-1, 1, 41, dtype=torch.float64).abs()
    assert torch.equal(kept, distance < 0.25 + 0.2 * math.sqrt(-2 * math.log(0.1)))


def test_initial_values_are_the_published_ones():
    torch.manual_seed(0)
    sines = ContinuousFilter(40, l_max=64, hidden=64, omega_0=20.0, weight_norm=True).network
    assert sines.hidden[0].weight_v.abs().max() <= 1
    bound = math.sqrt(6 / 64) / 20
    assert 0.9 * bound < sines.hidden[1].weight_v.abs().max() <= bound
    assert sines.hidden[1].bias.abs().max() > 0.8
    masked = ContinuousFilter(40, l_max=64, hidden=64, network="magnet", mask_width=0.2, fan_in=5)
    assert masked.network.mu.min() >= 1 - 1.667 * 0.2
    assert (masked.network.linears[0].bias == 1).all()
    assert abs(masked.network.gamma[0].mean() - 6) < 1
    bound = math.sqrt(3 / 64) / math.sqrt(5 * 64)
    assert 0.9 * bound < masked.network.output.weight.abs().max() <= bound
    points = PointFilter(30, 4, l_max=65, points=40, spread=0.1)
    assert (points.position <= 1).all()
    assert abs((1 - points.position).square().mean().sqrt() - 0.2) < 0.02
    assert (points.radius == 2 / 64).all()
    points.radius.data.fill_(3.0)
    points.clip_radii()
    assert (points.radius == 1).all()


def test_errors_say_what_to_do():
    ck, flex, ccnn = "dwromero/ckconv:CKConv", "rjbruin/flexconv:FlexConv", "david-knigge/ccnn:CKConv"
    small = {"in_channels": 2, "out_channels": 2}
    mlp = small | {"hidden": 4, "omega_0": 1.0, "L": 8}
    case = load_case("flexconv_ccnn")
    twoway = case.hyper | {"conv": case.hyper["conv"] | {"causal": False}}
    mixer = create_mixer("ckconv", 4, l_max=8)
    cases = {
        r"network 'siren'.*sine": lambda: create_mixer("ckconv", 4, network="siren"),
        r"l_max=1.*at least two taps": lambda: create_mixer("flexconv", 4, l_max=1),
        r"hidden=5.*even number for 'fourier'": lambda: create_mixer(
            "ckconv", 4, hidden=5, network="fourier", weight_norm=False
        ),
        r"weight_norm for 'magnet'.*set weight_norm=False": lambda: create_mixer("ckconv", 4, network="magnet"),
        r"mask_width=-1.0.*positive width": lambda: create_mixer("ccnn", 4, mask_width=-1.0),
        r"points=0.*at least one point": lambda: create_mixer("smpconv", 4, points=0),
        r"activation 'Sin'.*did you mean 'Sine'": lambda: from_original(ck, {"train_length": torch.zeros(1)}, **mlp,
        activation="Sin"), r"norm='BatchNorm'.*norm=''": lambda: from_original(
            ck, {"train_length": torch.zeros(1)}, **mlp, activation="ReLU", norm="BatchNorm"
        ),
        r"kernel_type 'Gabor'.*MAGNet": lambda: from_original(
            flex, {"train_length": torch.zeros(1)}, **small, horizon="same", kernel_type="Gabor"
        ),
        r"train_length of 0.*pass L": lambda: from_original(
            flex, {"train_length": torch.zeros(1)}, **small, horizon="same"
        ),
        r"40 taps with causal=False.*one token too many": lambda: from_original(ccnn, case.group("param"), **twoway),
        r"kernel_learn_omega_0=True.*drop": lambda: from_original(
            flex, {"train_length": torch.zeros(1)}, **small, horizon="same", kernel_learn_omega_0=True
        ),
        r"at_rate: received rate=-1.0.*positive factor": lambda: mixer.at_rate(-1.0),
        r"mamba.at_rate.*functions of time.*resample": lambda: create_mixer("mamba", 4).at_rate(2.0),
        r"LongConvFilter.change_rate.*function of time": lambda: create_mixer("longconv", 4, l_max=8).at_rate(2.0),
        r"disc='dss'.*sum over its taps": lambda: create_mixer("s4d", 4, disc="dss").at_rate(2.0),
        r"that decrease.*sort the inputs": lambda: mixer.at_times(torch.zeros(1, 2, 4), torch.tensor([[1.0, 0.0]])),
    }  # fmt: skip
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
