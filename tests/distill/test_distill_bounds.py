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
from seqconv.distill.fitting.aaa import aaa
from seqconv.distill.fitting.second_order import from_poles
from seqconv.distill.fitting.varpro import refine


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


def filters(seed: int) -> torch.Tensor:
    """30 filters of ten kinds, some of low rank, with multiple singular values, with ends, or without any decay."""
    g = torch.Generator().manual_seed(seed)
    length = int(torch.randint(40, 220, (1,), generator=g))
    t = torch.arange(length, dtype=torch.float64)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    lags = torch.randint(1, length, (3, 3), generator=g)
    delays = torch.stack([torch.eye(length, dtype=torch.float64)[row].sum(0) for row in lags])
    radius, angle = torch.rand(3, 4, 1, generator=g).double(), 3 * torch.rand(3, 4, 1, generator=g).double()
    modes = (draw(3, 4, 1) * radius**t * torch.cos(angle * t)).sum(1)
    combs = torch.stack([(t % period == 0).double() for period in (2, 5, 9)])
    return torch.cat([
        draw(3, length), draw(3, length) * 0.9**t, delays, delays + 1e-9 * draw(3, length), modes, combs,
        combs * 0.99**t, t * modes, (t < 10) * draw(3, length), torch.ones(3, length).double() * draw(3, 1),
    ])  # fmt: skip


@pytest.mark.parametrize("seed", range(10))
def test_lower_bounds_and_minimum_orders_against_dense_matrices(seed):
    h = filters(seed) * 10.0 ** ((7 * seed) % 13 - 6)
    certificate = distill_filter(h, tolerance=0.2, fir_head=1, method="balanced", dtype=torch.float64).certificate
    rows = h.shape[1] // 2
    dense = torch.linalg.svdvals(hankel(h[:, 1 : 2 * rows], rows))
    dense = torch.nn.functional.pad(dense, (0, 65))
    at = dense.gather(1, certificate.order[:, None])[:, 0]
    assert (certificate.lower_bound <= at + 1e-9 * dense[:, 0]).all()
    assert (certificate.lower_bound <= certificate.hinf_bound * (1 + 1e-9)).all()
    needed = (dense > 0.2 * certificate.norm_hinf[:, None] * (1 + 1e-9)).sum(1)
    claimed = certificate.minimum_order >= 0
    assert (certificate.minimum_order[claimed] <= needed[claimed]).all()
    assert claimed.any()


@pytest.mark.parametrize("seed", range(2))
def test_the_best_method_is_no_worse_than_any_and_no_order_worse_than_one_below(seed):
    h = filters(seed)[::3, :80]
    before = torch.full((len(h),), torch.inf, dtype=torch.float64)
    for order in (2, 4, 8):
        best = distill_filter(h, order).certificate
        assert (best.hinf_bound <= before * (1 + 1e-9)).all()
        for method in ("kung-varpro", "balanced", "era", "aaa"):
            other = distill_filter(h, order, method=method).certificate
            assert (best.hinf_bound <= other.hinf_bound * (1 + 1e-2)).all(), method
        assert (best.order <= order).all()
        before = best.hinf_bound


@pytest.mark.parametrize("seed", range(2))
def test_no_order_is_worse_for_one_comb_among_others(seed):
    """Equal singular values leave the leading vectors to roundings, and those to which channels are fitted together."""
    g = torch.Generator().manual_seed(seed)
    t, rows = torch.arange(60, dtype=torch.float64), []
    for sign in (1.0, -1.0) * 12:
        lag, decay = int(torch.randint(2, 24, (1,), generator=g)), 0.5 + 0.5 * float(torch.rand(1, generator=g))
        rows.append((t % lag == 1) * (sign * decay) ** (t // lag))
    before = torch.full((len(rows),), torch.inf, dtype=torch.float64)
    for order in (2, 4, 8):
        now = distill_filter(torch.stack(rows), order).certificate.hinf_bound
        assert (now <= before * (1 + 1e-9)).all()
        before = now


def test_settled_channels_stay_whatever_the_others_do():
    g = torch.Generator().manual_seed(0)
    h = torch.randn(6, 64, generator=g, dtype=torch.float64) * 0.9 ** torch.arange(64)
    start = torch.stack([torch.tensor([[1.2, -0.5], [-0.3, -0.2]], dtype=torch.float64)] * 6)
    together = refine(start, h, 60)
    alone = torch.cat([refine(start[i : i + 1], h[i : i + 1], 60) for i in range(6)])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [1e39, 1e150])
def test_parameters_beyond_the_range_of_the_dtype_are_an_error(scale):
    t = torch.arange(64, dtype=torch.float64)
    h = scale * torch.stack([t * 0.95**t, 0.5**t])
    with pytest.raises(ValueError, match=r"overflow torch.float32, in channels \[0.*Remedy: pass dtype=torch.float64"):
        distill_filter(h, 4)
    assert distill_filter(h, 4, dtype=torch.float64).certificate.hinf_bound.isfinite().all()


def test_a_window_is_certified_without_what_comes_after_it():
    t = torch.arange(4096, dtype=torch.float64)
    h = torch.stack([0.9999**t * torch.cos(0.2 * t), 0.9995**t])
    options = {"tolerance": 1e-2, "method": "kung-varpro", "fir_head": 1}
    done = distill_filter(h, within=256, **options)
    assert done.certificate.met.all()
    assert not distill_filter(h[:, :256], beyond=h[:, 256:].abs().sum(1), **options).certificate.met.any()
    error = (h - done.filter.in_float64().impulse_response(4096))[:, :256]
    window = torch.fft.rfft(error, n=1 << 14).abs().amax(1)
    assert (window <= done.certificate.window_bound).all()
    whole = torch.fft.rfft(h - done.filter.in_float64().impulse_response(4096), n=1 << 15).abs().amax(1)
    assert (whole <= done.certificate.hinf_bound).all()
    with pytest.raises(ValueError, match=r"within=1 .*at least 2 taps.*Remedy: raise within"):
        distill_filter(h, 4, within=1)


@torch.no_grad()
@pytest.mark.parametrize("decay", [0.5, 0.99, 0.9999])
def test_rounding_of_a_decoding_state_stays_within_its_own_bound(decay):
    t = torch.arange(600, dtype=torch.float64)
    h = torch.stack([decay**t * torch.cos(0.3 * k * t) / (1 + k) for k in range(4)])
    done = distill_filter(h, 4, method="kung-varpro")
    stored, exact = done.filter.recurrence(), done.filter.in_float64()
    u = torch.rand(1, 4000, 4, generator=torch.Generator().manual_seed(0)).sign()
    state, wide = stored.init_state(1), exact.init_state(1)
    worst = torch.zeros(4, dtype=torch.float64)
    for u_t in u.unbind(1):
        y, state = stored.step(u_t, state)
        want, wide = exact.step(u_t.double(), wide)
        worst = torch.maximum(worst, (y.double() - want).abs()[0])
    assert (worst <= done.certificate.rounding).all()
    assert (worst > 0).any()


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


@pytest.mark.parametrize("options", [{"order": 4}, {"tolerance": 0.5}, {"state_budget": 40}], ids=str)
def test_a_window_serves_every_way_to_choose_the_orders_of_a_model(options):
    torch.manual_seed(0)
    small = {"l_max": 64, "filter_order": 8}
    config = SeqConvConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, mixer="hyena", mixer_options=small)
    ids = torch.arange(80).view(2, 40) % 16
    done = distill(SeqConvForCausalLM(config).eval(), within=32, calibration=ids, **options)
    (certificate,) = done.certificates.values()
    assert (certificate.window_bound < certificate.hinf_bound).any()
    assert certificate.hinf_bound.isfinite().all()
    if "tolerance" in options:
        assert torch.equal(certificate.met, certificate.window_bound <= 0.5 * certificate.norm_hinf)


@pytest.mark.parametrize("order", [15, 16, 20])
def test_rational_approximation_gives_whole_pairs(order):
    """Of delays most poles are zero but for rounding, which pairs them with the zero that is left out."""
    delays = torch.eye(47, dtype=torch.float64)[::3]
    assert from_poles(aaa(delays, order)).shape == (16, (order + 1) // 2, 2)
