"""LongConv: the numbers of the original, and its regularised taps."""

import pytest
import torch
import torch.nn.functional as F

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv import create_mixer
from seqconv.filters.explicit.longconv import LongConvFilter
from seqconv.interop import from_original

RTOL, ATOL = 1e-9, 1e-10
CASES = ["longconv", "longconv_smooth_bidirectional", "longconv_smooth_freq"]
ORIGINAL = "HazyResearch/safari:LongConv"


@pytest.mark.parametrize("name", CASES)
def test_outputs_kernels_and_gradients_of_the_original(name):
    case = load_case(name)
    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    u = case.tensors["in.u"].clone().requires_grad_()
    y = imported(u.transpose(1, 2)).transpose(1, 2)
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, "y")
    (y * case.tensors["cot.y"]).sum().backward()
    wanted = case.group("grad")
    assert_close(u.grad, wanted.pop("in.u"), RTOL, ATOL, "gradient of the input")
    check_gradients(imported, wanted, RTOL, ATOL)
    mixer = from_original(ORIGINAL, case.group("param"), **case.hyper)
    taps = mixer.convolution.filter(case.hyper["l_max"])
    assert_close(taps, case.tensors["out.k"].flatten(0, 1), RTOL, ATOL, "taps")


def test_short_inputs_cut_the_taps_instead_of_wrapping_around():
    case = load_case("longconv_short_input")
    mixer = from_original(case.meta["original"], case.group("param"), **case.hyper)
    u = case.tensors["in.u"].transpose(1, 2)
    assert_close(mixer(u).transpose(1, 2), case.tensors["out.y_causal_cut"], RTOL, ATOL, "y")
    steps, state = [], mixer.init_state(u.shape[0], max_length=u.shape[1])
    for t in range(u.shape[1]):
        y, state = mixer.step(u[:, t], state)
        steps.append(y)
    assert_close(torch.stack(steps, dim=2), case.tensors["out.y_causal_cut"], RTOL, ATOL, "steps")


def test_the_taps_are_their_definition():
    torch.manual_seed(0)
    k = torch.randn(3, 11, dtype=torch.float64)
    filter = LongConvFilter(3, l_max=11, threshold=0.3, smoothing="average", smoothing_width=3).double()
    filter.kernel.data.copy_(k)
    smooth = torch.stack([F.pad(k, (1, 1))[:, t : t + 3].mean(1) for t in range(11)], dim=1)
    assert_close(filter(11), smooth.sign() * (smooth.abs() - 0.3).clamp_min(0), RTOL, ATOL)
    assert (filter(15)[:, 11:] == 0).all()


@pytest.mark.parametrize("width", [4, 5])
def test_the_spectrum_is_smoothed_within_its_half(width):
    torch.manual_seed(0)
    k = torch.randn(2, 9, dtype=torch.float64)
    filter = LongConvFilter(2, l_max=9, threshold=0.0, smoothing="frequency", smoothing_width=width).double()
    filter.kernel.data.copy_(k)
    spectrum, centre = torch.fft.rfft(k), width // 2
    smooth = torch.zeros_like(spectrum)
    left = (width - 1) // 2
    for f in range(5):
        for i in range(width):
            if 0 <= f - left + i < 5:
                smooth[:, f] += spectrum[:, f - left + i] * torch.exp(torch.tensor(-0.5 * (i - centre) ** 2))
    assert filter.max_length == 8
    assert_close(filter(8), torch.fft.irfft(smooth), 1e-7, 1e-8)


def test_initial_taps_are_the_published_ones():
    torch.manual_seed(0)
    filter = LongConvFilter(64, l_max=512, heads=2, threshold=0.0)
    energy = filter.kernel.unflatten(0, (2, 64)).square().mean(0).sqrt()
    late = torch.exp(-(torch.arange(512) / 512) * 32.0 ** (torch.arange(64)[:, None] / 64))
    assert abs((energy / late)[:, :64].mean().item() / 0.02 - 0.89) < 0.02  # mean of |(a, b)| / sqrt 2 of normal a, b
    plain = LongConvFilter(64, l_max=512, init="random")
    assert abs(plain.kernel.std().item() / 0.002 - 1) < 0.02
    assert plain.kernel._optim == {"lr": 1e-3, "weight_decay": 0.0}


def test_errors_say_what_to_do():
    hyper = {"d_model": 4, "l_max": 8}
    cases = {
        r"smoothing 'averge'.*did you mean 'average'": lambda: create_mixer("longconv", 4, smoothing="averge"),
        r"smoothing_width=4.*odd window.*Remedy": lambda: create_mixer(
            "longconv", 4, smoothing="average", smoothing_width=4
        ),
        r"threshold=-1.0.*threshold >= 0": lambda: create_mixer("longconv", 4, threshold=-1.0),
        r"init 'randn'.*random": lambda: create_mixer("longconv", 4, init="randn"),
        r"block_fft_conv=True.*not causal.*Remedy": lambda: from_original(ORIGINAL, {}, **hyper, block_fft_conv=True),
        r"causal=False.*l_max taps.*bidirectional": lambda: from_original(ORIGINAL, {}, **hyper, causal=False),
        r"activation='glu'.*keeps the width": lambda: from_original(ORIGINAL, {}, **hyper, activation="glu"),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
