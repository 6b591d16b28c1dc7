"""Convolutions on grids: the numbers of the original, the definition summed out, sizes, errors."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv import from_original
from seqconv.convolution.grids import convolve_grid
from seqconv.vision.mixers.continuous.ckconv_nd import CKConvNd
from seqconv.vision.mixers.hyena_nd import HyenaNd

CKCONV, HYENA = "NVIDIA-BioNeMo/nvSubquadratic:CKConvND", "NVIDIA-BioNeMo/nvSubquadratic:Hyena"
CASES = (
    "ckconv1d_causal", "ckconv1d_circular", "ckconv2d_circular", "ckconv2d_film", "ckconv2d_mixed", "ckconv2d_zero",
    "ckconv3d_mixed", "hyena1d", "hyena2d", "hyena3d",
)  # fmt: skip


def check(got, want, rtol, what):
    assert_close(got, want.to(got.dtype), rtol, rtol * want.abs().max().item(), what)


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_of_the_original(name):
    case = load_case(f"vision/nvsubq_{name}")
    imported = Imported(CKCONV if name.startswith("ckconv") else HYENA, case.group("param"), case.hyper)
    x = case.tensors["in.x"].double().requires_grad_()
    condition = case.tensors["in.cond"].double().requires_grad_() if "in.cond" in case.tensors else None
    y = imported(x) if condition is None else imported(x, condition)
    check(y, case.tensors["out.y"], 1e-9, "output")
    loss = (y * case.tensors["cot.y"]).sum()
    if "cot.y_channels_first" in case.tensors:
        loss = loss + (y.movedim(-1, 1) * case.tensors["cot.y_channels_first"]).sum()
    if "out.kernel" in case.tensors:
        taps = torch.func.functional_call(
            Taps(imported.module), {f"conv.{k}": v for k, v in imported.weights.items()}, x
        )
        check(taps, case.tensors["out.kernel"], 1e-9, "taps")
        loss = loss + (taps * case.tensors["cot.kernel"]).sum()
    check(loss, case.tensors["out.loss"], 1e-9, "loss")
    loss.backward()
    gradients = case.group("grad")
    check(x.grad, gradients.pop("in.x"), 1e-6, "gradient of the input")
    if condition is not None:
        check(condition.grad, gradients.pop("in.cond"), 1e-6, "gradient of the condition")
    check_gradients(imported, {k: v.double() for k, v in gradients.items()}, 1e-6, 1e-9)


class Taps(torch.nn.Module):
    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return self.conv.taps(x)


@pytest.mark.parametrize("periodic", [(False, False), (True, False), (False, True), (True, True)])
def test_convolution_is_its_definition(periodic):
    torch.manual_seed(0)
    u, taps = torch.randn(2, 4, 5, 3, dtype=torch.float64), torch.randn(2, 3, 5, 3, dtype=torch.float64)
    want = torch.zeros_like(u)
    for i in range(4):
        for j in range(5):
            for a in range(-1, 2):
                for b in range(-2, 3):
                    row, column = i - a, j - b
                    if (periodic[0] or 0 <= row < 4) and (periodic[1] or 0 <= column < 5):
                        want[:, i, j] += taps[:, a + 1, b + 2] * u[:, row % 4, column % 5]
    assert_close(convolve_grid(u, taps, periodic), want, 1e-12, 1e-12)


def test_periodic_maps_may_be_turned_and_causal_ones_see_no_future():
    torch.manual_seed(0)
    conv = CKConvNd(3, axes=3, l_max=[4, 5, 3], padding="circular", omega_0=1.0).double()
    x = torch.randn(1, 4, 5, 3, 3, dtype=torch.float64)
    assert_close(conv(x.roll((1, 2, 1), (1, 2, 3))), conv(x).roll((1, 2, 1), (1, 2, 3)), 1e-9, 1e-12)
    causal, x = CKConvNd(3, axes=1, causal=True, l_max=9).double(), torch.randn(1, 9, 3, dtype=torch.float64)
    assert_close(causal(x)[:, :5], causal(x[:, :5]), 1e-9, 1e-12)


def test_a_causal_convolution_of_half_reach_is_its_definition():
    torch.manual_seed(0)
    for length in (1, 4, 7):
        conv = CKConvNd(2, axes=1, causal=True, half_reach=True, l_max=6, omega_0=1.0).double()
        x = torch.randn(1, length, 2, dtype=torch.float64)
        reach = (length + 1) // 2
        taps, want = conv.taps(x)[0, reach - 1 :], conv.D * x
        for lag in range(reach):
            want[:, lag:] += taps[lag] * x[:, : length - lag]
        assert_close(conv(x), want, 1e-12, 1e-12)


def test_layers_that_do_not_decay():
    """Those of sine networks; of Fourier networks the frequencies alone."""
    for network, count in (("sine", 3), ("fourier", 1)):
        conv = CKConvNd(2, axes=1, network=network, l_max=6)
        kept = [name for name, p in conv.named_parameters() if getattr(p, "_no_weight_decay", False)]
        assert sum(name.endswith("weight") for name in kept) == count, kept


def test_words_of_the_original():
    """Its paddings in any case, all of its activations that exist here; norms of another kind are unsupported."""
    zero, hyena = load_case("vision/nvsubq_ckconv2d_zero"), load_case("vision/nvsubq_hyena2d")
    assert (
        from_original(CKCONV, zero.group("param"), **zero.hyper | {"pad": [" ZERO", "Zero"]}).periodic == (False,) * 2
    )
    for name, value in (("px", "LayerNorm"), ("gate", None), ("gate2", "SELU")):
        hyper = hyena.hyper | {"options": hyena.hyper["options"] | {name: value}}
        with pytest.raises(ValueError, match=rf"received {name}.*{value}.*Remedy"):
            from_original(HYENA, hyena.group("param"), **hyper)


def test_widths_out_of_range_are_read_as_the_bound():
    conv = CKConvNd(2, axes=1, l_max=6, window="gaussian").double()
    x = torch.randn(1, 6, 2, dtype=torch.float64)
    with torch.no_grad():
        conv.filter.window.fill_(conv.filter._narrowest())
        want = conv(x)
        conv.filter.window.fill_(1e-6)
    assert_close(conv(x), want, 1e-12, 1e-14)
    conv(x).square().sum().backward()
    assert conv.filter.window.grad.abs().min() > 0


def test_errors_say_what_to_do(unannotated):
    conv = CKConvNd(4, axes=2, l_max=4)
    cases = {
        r"padding 'wrap'.*one of": lambda: CKConvNd(4, axes=2, padding="wrap"),
        r"axes=2, l_max=\[3\].*every axis": lambda: CKConvNd(4, axes=2, l_max=[3]),
        r"causal=True.*one zero-padded axis": lambda: CKConvNd(4, axes=2, causal=True),
        r"l_max=\(1, 1\).*at least 2": lambda: CKConvNd(4, axes=2, l_max=2, padding="circular"),
        r"x of shape \(1, 3, 4\).*2 axes": lambda: conv(torch.zeros(1, 3, 4)),
        r"a condition.*condition_dim": lambda: conv(torch.zeros(1, 3, 3, 4), torch.zeros(1, 2)),
        r"window 'gauss'.*did you mean 'gaussian'": lambda: CKConvNd(4, axes=1, window="gauss"),
        r"condition_dim=3 of 'fourier'": lambda: CKConvNd(4, axes=1, network="fourier", condition_dim=3),
        r"d_conv=4.*odd": lambda: HyenaNd(4, axes=2, d_conv=4),
        r"\(3,\) taps for \(2,\) cells": lambda: convolve_grid(torch.zeros(1, 2, 1), torch.zeros(1, 3, 1), (True,)),
        r"kind 'sirn'.*did you mean 'siren'": lambda: from_original(
            CKCONV, load_case("vision/nvsubq_ckconv2d_zero").group("param"), spatial=[5, 7], kind="sirn"
        ),
        r"pass dim and L": lambda: from_original(CKCONV, load_case("vision/nvsubq_ckconv2d_zero").group("param")),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
