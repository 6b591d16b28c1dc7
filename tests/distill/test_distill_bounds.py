"""Certificates are true in every call: short fits of long filters, Hankel matrices of low rank, any gradient mode."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqconv import SeqConvConfig, SeqConvForCausalLM, create_mixer
from seqconv.convolution.replacement import long_convolutions
from seqconv.distill import distill, distill_filter
from seqconv.distill.certificates.hankel import hankel, leading_subspace
from seqconv.distill.certificates.tail import taps_beyond


@pytest.mark.parametrize("name", ["ema", "hyena", "s4", "s4d", "sgconv", "striped_hyena"])
def test_bounds_hold_beyond_the_fitted_length(name):
    torch.manual_seed(0)
    mixer = create_mixer(name, d_model=8).eval()
    done = distill(mixer, 4, recurrent=True, length=64)
    for place, certificate in done.certificates.items():
        filter, modal = (long_convolutions(m)[place].filter for m in (mixer, done.model))
        reach = max(16384, filter.max_length or 0)
        error = filter(reach).detach().double() - modal.in_float64().impulse_response(reach)
        measured = torch.fft.rfft(error, n=4 * reach).abs().amax(1)
        assert (measured <= certificate.hinf_bound).all()
        assert certificate.hinf_bound.isfinite().all()
        left_out = filter(reach).detach().double()[:, 64:].abs().sum(1)
        assert (left_out <= taps_beyond(filter, 64) * (1 + 1e-5)).all()


def test_a_tolerance_is_not_met_by_a_fit_that_leaves_too_much_out():
    torch.manual_seed(0)
    done = distill(create_mixer("s4d", d_model=8).eval(), tolerance=0.1, recurrent=True, length=16)
    assert done.kept == ("convolution",)


@settings(max_examples=25)
@given(length=st.integers(200, 600), share=st.floats(0.05, 0.95), echoes=st.integers(1, 3))
def test_singular_values_of_delays_are_those_of_the_dense_matrix(length, share, echoes):
    g = torch.zeros(1, length, dtype=torch.float64)
    g[0, [int(share * (length - 1)) // (k + 1) for k in range(echoes)]] = 1
    values = leading_subspace(g, 9).values[0]
    rows = (length + 1) // 2
    dense = torch.linalg.svdvals(hankel(g[:, : 2 * rows - 1], rows))[0, : len(values)]
    assert (values <= dense + 1e-9).all()
    assert values[0] >= 0.9 * dense[0]


@pytest.mark.parametrize(("length", "lag"), [(512, 257), (200, 101), (256, 64)])
def test_the_lower_bound_of_a_pure_delay_is_one(length, lag):
    h = torch.zeros(1, length, dtype=torch.float64)
    h[0, lag] = 1
    certificate = distill_filter(h, 8).certificate
    assert certificate.lower_bound.item() == pytest.approx(1, abs=1e-9)
    assert certificate.lower_bound.item() <= certificate.hinf_bound.item()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_fits_do_not_depend_on_the_gradient_mode_of_the_caller(mode):
    torch.manual_seed(0)
    options = {"l_max": 64, "filter_order": 8}
    config = SeqConvConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, mixer="hyena", mixer_options=options)
    model = SeqConvForCausalLM(config).eval()
    want = distill(model, 4, calibration=torch.arange(80).view(2, 40) % 16)
    with mode():
        ids = torch.arange(80).view(2, 40) % 16
        got = distill(model, 4, calibration=ids)
        taps = torch.randn(2, 40, generator=torch.Generator().manual_seed(0)).double()
        assert distill_filter(taps, 4, method="gradient").certificate.hinf_bound.isfinite().all()
    assert got.predicted_kl == want.predicted_kl
    got.model(torch.zeros(1, 5, dtype=torch.long)).logits.sum().backward()
