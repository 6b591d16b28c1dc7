"""seqconv.integrations.flashfftconv: golden numbers of the original, sums over lags, torch's own convolution."""

import pytest
import torch
from scan_cases import assert_same, values_and_gradients

from golden_cases import assert_close, load_case
from seqconv.integrations.flashfftconv import FlashDepthWiseConv1d, FlashFFTConv
from tolerances import assert_near


@pytest.mark.parametrize(("period", "name"), [(66, "y64_causal"), (33, "y_circular_n_L")])
def test_golden_numbers(period, name):
    case = load_case("flashfftconv_reference")
    y = FlashFFTConv(period)(case.tensors["in.u"], case.tensors["in.k"])
    tolerance = 1e-10 if name == "y64_causal" else 1e-5  # the original computes the other in float32
    assert_close(y, case.tensors[f"out.{name}"], tolerance, tolerance, name)


def around(u, k, period):
    """(batch, channels, length): every output by its own sum over the lags, which come around."""
    y = torch.zeros(u.shape, dtype=torch.float64)
    for t in range(u.shape[-1]):
        for lag in range(min(k.shape[-1], period)):
            source = (t - lag) % period
            if source < u.shape[-1]:
                y[..., t] += k[:, lag] * u[..., source]
    return y


@pytest.mark.parametrize("period", [12, 17, 20])
@pytest.mark.parametrize("taps", [1, 8, 12, 25])
@pytest.mark.parametrize("gated", [False, True])
def test_values_and_gradients_of_any_period(period, taps, gated):
    generator = torch.Generator().manual_seed(taps)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    inputs = {"u": draw(2, 3, 12), "k": draw(3, taps), "before": draw(2, 3, 12), "after": draw(2, 3, 12)}
    conv = FlashFFTConv(period, dtype=torch.bfloat16)

    def shim(u, k, before, after):
        return (conv(u, k, before, after) if gated else conv(u, k),)

    def plain(u, k, before, after):
        return (around(u * before, k, period) * after if gated else around(u, k, period),)

    assert_same(values_and_gradients(shim, inputs), values_and_gradients(plain, inputs))


def test_half_precision_and_one_gate():
    u, k, gate = torch.randn(1, 2, 8, dtype=torch.bfloat16), torch.randn(2, 8), torch.randn(1, 2, 8).bfloat16()
    y = FlashFFTConv(16)(u, k, pregate=gate)
    assert y.dtype == torch.bfloat16
    assert_near(y, around(u.double() * gate.double(), k.double(), 16), dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"u of length 8.*at most seqlen = 7"):
        FlashFFTConv(7)(u, k)
    with pytest.raises(ValueError, match="seqlen=0"):
        FlashFFTConv(0)


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize(("taps", "padding"), [(3, 1), (5, 2), (7, 3), (4, 0), (3, 4)])
def test_centred_convolution(channels_first, taps, padding):
    """As torch's, with gradients under the original's names of the parameters."""
    torch.manual_seed(taps)
    torchs = torch.nn.Conv1d(6, 6, taps, padding=padding, groups=6, dtype=torch.float64)
    shim = FlashDepthWiseConv1d(6, taps, padding, torchs.weight, torchs.bias, is_bhl=channels_first)
    x = torch.randn(2, 6, 9, dtype=torch.float64)
    want = torchs(x)
    got = shim(x if channels_first else x.mT)
    got = got if channels_first else got.mT
    assert_near(got, want)
    weight = torch.randn_like(want)
    (want * weight).sum().backward()
    (got * weight).sum().backward()
    gradient = shim.weights.grad if channels_first else shim.weights.grad.mT
    assert_near(gradient, torchs.weight.grad[:, 0])
    assert_near(shim.bias.grad, torchs.bias.grad)
    assert set(shim.state_dict()) == {"weights", "bias"}


@pytest.mark.slow
def test_compiled(unannotated):
    conv, u, k = FlashFFTConv(9), torch.randn(1, 2, 9), torch.randn(2, 9)
    short = FlashDepthWiseConv1d(2, 3, 1, torch.randn(2, 1, 3), torch.zeros(2))
    call = lambda u: (conv(u, k), short(u))  # noqa: E731
    for got, want in zip(torch.compile(call)(u), call(u), strict=True):
        assert_near(got, want)
