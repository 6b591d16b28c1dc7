"""M2-BERT, gⁿConv, FMLP, FNO and the cosine resampling: the numbers of their originals."""

import math

import pytest
import torch
import torch.nn.functional as F

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv import create_mixer
from seqconv.interop import from_original
from seqconv.layers.dct import SpectralResampling, dct, idct

RTOL, ATOL = 1e-8, 1e-9
M2 = "HazyResearch/m2:MonarchMixerSequenceMixing"
FNO, FMLP = "neuraloperator/neuraloperator:SpectralConv", "RUCAIBox/FMLP-Rec:FilterLayer"


@pytest.mark.parametrize("name", ["m2_bert_mixer", "fmlp_filter_layer", "fno_spectral_conv_1d"])
def test_outputs_and_gradients_of_the_original(name):
    case = load_case(name)
    channels_first = name.startswith("fno")
    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    key = "in.u" if "in.u" in case.tensors else "in.x"
    x = case.tensors[key].clone().requires_grad_()
    y = imported(x.transpose(1, 2)).transpose(1, 2) if channels_first else imported(x)
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, "y")
    (y * case.tensors["cot.y"]).sum().backward()
    wanted = case.group("grad")
    assert_close(x.grad, wanted.pop(key), RTOL, ATOL, "gradient of the input")
    check_gradients(imported, wanted, RTOL, ATOL)


def test_filters_of_m2_bert():
    case = load_case("m2_bert_mixer")
    mixer = from_original(M2, case.group("param"), **case.hyper)
    past, future = mixer.convolution.filter(14).chunk(2)
    assert_close(past.T, case.tensors["out.k_fwd"][0], RTOL, ATOL)
    assert_close(future.T, case.tensors["out.k_rev"][0], RTOL, ATOL)


def test_the_gates_of_hornet_follow_its_convolution():
    """The original's 7 x 7 convolution, then our gates and projections on its weights."""
    case = load_case("hornet_gnconv")
    p = case.group("param")
    mixer = create_mixer("gnconv", 8, order=3, scale=case.hyper["scale"]).double()
    names = {"in_proj": "proj_in", "out_proj": "proj_out", "gate_projs.0": "pws.0", "gate_projs.1": "pws.1"}
    state = {f"{name}.weight": p[f"{original}.weight"][..., 0, 0] for name, original in names.items()}
    state |= {f"{name}.bias": p[f"{original}.bias"] for name, original in names.items()}
    mixer.load_state_dict(state, strict=False)
    x = case.tensors["in.x"].permute(0, 2, 3, 1)
    first, q = mixer.in_proj(x).split([2, 14], dim=-1)
    mixed = F.conv2d(q.permute(0, 3, 1, 2), p["dwconv.weight"], p["dwconv.bias"], padding=3, groups=14)
    y = mixer.combine(first, mixed.permute(0, 2, 3, 1))
    assert_close(y.permute(0, 3, 1, 2), case.tensors["out.y"], RTOL, ATOL)


def test_gnconv_is_its_equation():
    torch.manual_seed(0)
    mixer = create_mixer("gnconv", 8, order=2, d_conv=3).double()
    x = torch.randn(1, 9, 8, dtype=torch.float64)
    p, q = mixer.in_proj(x).split([4, 12], dim=-1)
    taps = mixer.short_conv.weight
    conv = sum(taps[:, 2 - s] * F.pad(q, (0, 0, s, 0))[:, :9] for s in range(3)) + mixer.short_conv.bias
    q0, q1 = (conv / 3).split([4, 8], dim=-1)
    assert_close(mixer(x), mixer.out_proj(mixer.gate_projs[0](p * q0) * q1), RTOL, ATOL)


def test_fmlp_is_a_circular_convolution():
    torch.manual_seed(0)
    mixer = create_mixer("fmlp", 3, l_max=8).double()
    taps = torch.fft.irfft(torch.view_as_complex(mixer.weight), n=8, dim=0)
    x = torch.randn(1, 6, 3, dtype=torch.float64)
    want = torch.stack([sum(taps[(t - s) % 8] * x[0, s] for s in range(6)) for t in range(6)])
    assert_close(mixer(x)[0], mixer.norm(want + x[0]), 1e-7, 1e-8)


@pytest.mark.parametrize("separable", [False, True])
def test_fno_is_the_same_function_on_a_finer_grid(separable):
    torch.manual_seed(0)
    mixer = create_mixer("fno", 4, n_modes=6, separable=separable).double()

    def signal(n):
        t = torch.arange(n).double() / n * 2 * math.pi
        return torch.stack([t.sin(), (2 * t).cos(), (3 * t + 1).sin(), 1 + 0 * t], dim=1)[None]

    assert_close(mixer(signal(64))[:, ::4], mixer(signal(16)), RTOL, ATOL)


def test_resampling_of_the_fourier_transformer():
    case = load_case("fourier_transformer_dct")
    x = case.tensors["in.x"].clone().requires_grad_()
    coefficients = dct(x)
    assert_close(coefficients, case.tensors["out.dct"], RTOL, ATOL, "coefficients")
    y = from_original(case.meta["original"], {}, **case.hyper)(x)
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, "y")
    (y * case.tensors["cot.y"]).sum().backward(retain_graph=True)
    if "cot.dct" in case.tensors:
        (coefficients * case.tensors["cot.dct"]).sum().backward()
    assert_close(x.grad, case.tensors["grad.in.x"], RTOL, ATOL, "gradient")


@pytest.mark.parametrize("length", [1, 7, 8])
def test_the_cosine_transform_is_orthonormal_and_resampling_keeps_low_frequencies(length):
    x = torch.randn(2, length, 3, dtype=torch.float64)
    assert_close(idct(dct(x)), x, RTOL, ATOL)
    assert_close(dct(x).square().sum(), x.square().sum(), RTOL, ATOL)
    constant = torch.full((1, length, 2), 3.0, dtype=torch.float64)
    assert_close(SpectralResampling(0.5)(constant)[:, 0], constant[:, 0], RTOL, ATOL)
    up = SpectralResampling(2.0)
    assert_close(SpectralResampling(0.5)(up(x), length), x, RTOL, ATOL)


def test_errors_say_what_to_do():
    fmlp = create_mixer("fmlp", 4, l_max=8)
    hyper = load_case("fno_spectral_conv_1d").hyper
    cases = {
        r"order=5.*lower the order": lambda: create_mixer("gnconv", 8, order=5),
        r"9 tokens.*at most l_max=8.*Remedy": lambda: fmlp(torch.zeros(1, 9, 4)),
        r"fft_norm 'forwrd'.*did you mean 'forward'": lambda: create_mixer("fno", 4, fft_norm="forwrd"),
        r"n_modes=0.*at least one frequency": lambda: create_mixer("fno", 4, n_modes=0),
        r"ratio=0.0.*positive number": lambda: SpectralResampling(0.0),
        r"one or two dimensions": lambda: from_original(FNO, {}, **(hyper | {"n_modes": [4, 4, 4]})),
        r"hyena_training_additions=True": lambda: from_original(M2, {}, d_model=4, hyena_training_additions=True),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
