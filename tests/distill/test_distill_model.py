"""Distilling mixers and models: what is replaced, what is kept, what raises."""

import copy

import pytest
import torch

from seqconv import SeqConvConfig, SeqConvForCausalLM, create_mixer
from seqconv.convolution.replacement import (
    decode_smoothly,
    long_convolutions,
    modal_sizes,
    place_modal_filters,
    replace_filter,
)
from seqconv.distill import distill, distill_filter
from seqconv.distill.certificates.budget import Choice, spend
from seqconv.distill.fitting.second_order import coloured
from seqconv.distill.fitting.sensitivity import sensitivities
from seqconv.filters.base import Filter
from seqconv.filters.mixed import MixedFilter
from seqconv.filters.state_space.modal import ModalFilter


class Taps(Filter):
    """Given taps."""

    def __init__(self, taps: torch.Tensor) -> None:
        super().__init__(len(taps), max_length=taps.shape[1])
        self.taps = torch.nn.Parameter(taps)

    def _taps(self, length: int) -> torch.Tensor:
        return self.taps[:, :length]

    def _recurrence(self) -> None:
        return None


def mixer(name: str = "sgconv", **options):
    torch.manual_seed(0)
    return create_mixer(name, 4, **options).double().eval()


def inputs(length: int = 64) -> torch.Tensor:
    return torch.randn(2, length, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_distilled_mixer_keeps_everything_but_its_filter():
    original = mixer(l_max=64)
    before = copy.deepcopy(original.state_dict())
    original.prefill(inputs())
    distilled = distill(original, 32)
    assert original.state_kind == "growing"
    assert distilled.model.state_kind == "constant"
    assert all(torch.equal(before[k], v) for k, v in original.state_dict().items())
    error = (distilled.model(inputs()) - original(inputs())).abs().max()
    assert 0 < error < 1
    _, state = distilled.model.prefill(inputs(40))
    last, _ = distilled.model.step(inputs(41)[:, 40], state)
    assert last.shape == (2, 4)
    (certificate,) = distilled.certificates.values()
    assert str(certificate) in str(distilled)


def test_more_order_or_a_longer_exact_head_means_less_error():
    original = mixer(l_max=64)

    def error(order: int, head: int) -> float:
        model = distill(original, order, fir_head=head, method="balanced").model
        return float((model(inputs()) - original(inputs())).norm().detach())

    assert error(4, 1) > error(16, 1) > error(16, 32) > 0
    assert error(4, 1) > error(4, 32)


def test_a_convolution_that_misses_the_tolerance_in_every_channel_keeps_its_filter():
    original = mixer(l_max=256)
    distilled = distill(original, tolerance=1e-6, method="kung-varpro")
    assert distilled.kept == tuple(distilled.certificates)
    assert distilled.channels == (0, 4)
    assert distilled.convolutions == (0, 1)
    assert "kept exact" in str(distilled)
    torch.testing.assert_close(distilled.model(inputs()), original(inputs()), rtol=0, atol=0)


def test_channels_that_miss_the_tolerance_keep_their_response_next_to_the_distilled_ones():
    t = torch.arange(200, dtype=torch.float64)
    smooth = 0.8**t * torch.cos(torch.arange(4)[:, None] * t / 3)
    rough = torch.randn(4, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = torch.tensor([True, False, True, False])
    original = mixer("sgconv", l_max=200)
    replace_filter(original, "convolution", Taps(torch.where(rows[:, None], smooth, rough)))
    distilled = distill(original, tolerance=1e-3, fir_head=1, method="kung-varpro")
    assert (distilled.kept, distilled.channels, distilled.convolutions) == ((), (2, 4), (0, 1))
    (certificate,) = distilled.certificates.values()
    assert certificate.met.tolist() == rows.tolist()
    assert distilled.states == int(certificate.order[rows].sum()) <= 12
    assert "2 of 4 channels distilled, the others kept exact" in str(distilled)
    model = distilled.model
    filter, taps = model.convolution.filter(300).detach(), original.convolution.filter(200)
    assert torch.equal(filter[~rows, :200], taps[~rows])
    error = torch.fft.rfft(filter - torch.nn.functional.pad(taps, (0, 100)), n=1024).abs().amax(1)
    assert (error <= torch.where(rows, certificate.hinf_bound, 0.0) + 1e-12).all()
    assert model.state_kind == "growing"
    x = inputs(41)
    first, state = model.prefill(x[:, :40])
    last, _ = model.step(x[:, 40], state)
    torch.testing.assert_close(torch.cat([first, last[:, None]], 1), model(x))


def partly_distilled(modal_rows: list[int], order: int):
    """An SGConv of rough and smooth channels in turn, in which some are a recurrence already."""
    t = torch.arange(200, dtype=torch.float64)
    noise = torch.randn(2, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    taps = torch.stack([noise[0], 0.8**t, noise[1], 0.9**t * torch.cos(t)])
    modal = distill_filter(taps[modal_rows], order, method="kung-varpro", dtype=torch.float64).filter
    partly = mixer("sgconv", l_max=200)
    exact = [c for c in range(4) if c not in modal_rows]
    replace_filter(partly, "convolution", MixedFilter(Taps(taps), modal, exact))
    return partly


@pytest.mark.parametrize("options", [{"order": 4}, {"tolerance": 1e-3}])
def test_a_partly_distilled_model_is_distilled_again_with_bounds_of_all_lengths(options):
    partly = partly_distilled([1, 3], 2)
    again = distill(partly, **options, length=120, fir_head=1, method="kung-varpro")
    (certificate,) = again.certificates.values()
    before, after = (m.convolution.filter for m in (partly, again.model))
    error = torch.fft.rfft((before(1000) - after(1000)).detach(), n=8192).abs().amax(1)
    assert (error[certificate.met] <= certificate.hinf_bound[certificate.met]).all()
    assert certificate.hinf_bound[[1, 3]].max() < 0.1
    assert not isinstance(after, MixedFilter) or isinstance(after.exact, Taps)


def test_a_recurrence_that_misses_a_second_tolerance_cannot_stay_next_to_new_ones():
    with pytest.raises(ValueError, match=r"channels \[0, 2\] that were distilled before.*distil the exact model"):
        distill(partly_distilled([0, 2], 80), tolerance=1e-3, length=200, fir_head=1, method="kung-varpro")


@pytest.mark.parametrize("case", ["s4", "s4d", "multihyena", "mega"])
def test_mixed_channels_in_mixers_with_recurrences_heads_and_stages(case):
    torch.manual_seed(0)
    original = create_mixer(case, 8).double().eval()
    loose = distill(original, 4, length=33, recurrent=True, method="kung-varpro", fir_head=4)
    (name,) = loose.certificates
    relative = loose.certificates[name].hinf_bound / loose.certificates[name].norm_hinf
    exact = relative.argsort(descending=True)[: len(relative) // 3].sort().values.tolist()
    before, modal = (long_convolutions(m)[name].filter for m in (original, loose.model))
    rest = torch.tensor([c for c in range(len(relative)) if c not in exact])
    replace_filter(original, name, MixedFilter(before, modal.select(rest), exact))
    x = torch.randn(2, 33, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    want = original(x)
    y, state = original.prefill(x[:, :20])
    outputs = [y]
    for t in range(20, 33):
        y_t, state = original.step(x[:, t], state)
        outputs.append(y_t[:, None])
    torch.testing.assert_close(torch.cat(outputs, 1), want, rtol=1e-7, atol=1e-7)


def test_a_place_is_made_for_a_checkpoint_of_modal_filters():
    distilled = distill(mixer(l_max=64), 6).model
    fresh = mixer(l_max=64)
    place_modal_filters(fresh, modal_sizes(distilled))
    fresh = fresh.double()
    fresh.load_state_dict(distilled.state_dict())
    torch.testing.assert_close(fresh(inputs()), distilled(inputs()), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"modal filter at 'nowhere'.*Remedy"):
        place_modal_filters(fresh, {"nowhere": [2, 1]})


def test_filters_with_a_recurrence_are_left_alone_unless_asked_for():
    for name in ("s4d", "mamba"):
        with pytest.raises(ValueError, match=r"distill: received a model with.*recurrent=True"):
            distill(mixer(name), 4)
    reduced = distill(mixer("s4d"), 4, length=128, recurrent=True).model
    assert all(isinstance(c.filter, ModalFilter) for c in long_convolutions(reduced).values())
    with pytest.raises(ValueError, match=r"a filter without end.*pass length"):
        distill(mixer("s4d"), 4, recurrent=True)


def language_model() -> SeqConvForCausalLM:
    """A byte model whose filters matter: its weights are far from their initial values."""
    torch.manual_seed(0)
    config = SeqConvConfig(
        vocab_size=16, d_model=8, n_layers=2, mixer="hyena", mixer_options={"l_max": 64, "emb_dim": 5, "w": 4.0}
    )
    model = SeqConvForCausalLM(config).double().eval()
    with torch.no_grad():
        for parameter in model.lm_head.parameters():
            parameter.normal_()
    return model


def token_ids(rows: int = 6) -> torch.Tensor:
    return torch.randint(0, 16, (rows, 64), generator=torch.Generator().manual_seed(0))


def test_a_budget_is_spent_where_the_prediction_falls_most():
    steep, flat = [8.0, 1.0, 0.5], [0.1, 0.09, 0.08]
    choices = {"a": Choice((0, 2, 4), torch.tensor([flat, steep])), "b": Choice((0, 2, 4), torch.tensor([flat]))}
    assert {k: v.tolist() for k, v in spend(choices, 5).items()} == {"a": [0, 4], "b": [0]}
    assert sum(int(v.sum()) for v in spend(choices, 12).values()) == 12
    assert sum(int(v.sum()) for v in spend(choices, 1).values()) == 0
    concave = {"a": Choice((0, 2, 4), torch.tensor([[1.0, 0.99, 0.0]]))}
    assert spend(concave, 4)["a"].tolist() == [4], "a step that gains little is taken together with the next"
    rising = {"a": Choice((0, 2, 4), torch.tensor([[1.0, 2.0, 0.5]]))}
    assert spend(rising, 3)["a"].tolist() == [0], "an order that makes things worse is never taken"


@pytest.mark.parametrize("order", [2, 4])
def test_predicted_divergences_are_near_the_measured_and_a_budget_beats_equal_orders(order):
    model, ids = language_model(), token_ids(16)
    states = order * 2 * 8
    equal = distill(model, order, calibration=ids, method="kung-varpro")
    budgeted = distill(model, state_budget=states, calibration=ids, method="kung-varpro")
    for distilled in (equal, budgeted):
        assert 1e-9 < distilled.measured_kl < 0.02
        assert 1 / 1.5 < distilled.predicted_kl / distilled.measured_kl < 1.5
        assert f"measured {distilled.measured_kl:.3g}" in str(distilled)
    assert budgeted.measured_kl <= 0.8 * equal.measured_kl
    assert 0.75 * states <= sum(int(c.order.sum()) for c in budgeted.certificates.values()) <= states
    assert all(f"a budget of {states} real states" in c.notes[0] for c in budgeted.certificates.values())


def test_bad_calibration_and_conflicting_requests_raise(unannotated):
    model, ids = language_model(), token_ids()
    cases = [
        (r"10 calibration tokens.*at least 64.*longer", lambda: distill(model, 4, calibration=ids[:1, :10])),
        (r"0 calibration tokens.*at least 64", lambda: distill(model, 4, calibration=ids[:0])),
        (r".*dtype torch.float.*token ids \(batch, length\)", lambda: distill(model, 4, calibration=ids.float())),
        (r"state_budget=9 alone.*pass calibration", lambda: distill(model, state_budget=9)),
        (r"state_budget=0.*Remedy", lambda: distill(model, state_budget=0, calibration=ids)),
        (
            r"state_budget=9 with order=4.*one of the three",
            lambda: distill(model, 4, state_budget=9, calibration=ids),
        ),
    ]
    for pattern, use in cases:
        with pytest.raises(ValueError, match=f"distill: received {pattern}"):
            use()


def test_every_convolution_shows_what_passes_through_it():
    original = mixer("hyena", l_max=64, order=3)
    (conv,) = long_convolutions(original).values()
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    conv.observers = tuple(lambda u, y: seen.append((u, y)) for _ in range(conv.stages))
    original(inputs())
    assert len(seen) == conv.stages == 2
    for (u, y), kernel in zip(seen, conv.kernels(64), strict=True):
        want = torch.stack([(kernel.past[:, : t + 1].flip(1).T * u[:, : t + 1]).sum(1) for t in range(64)], dim=1)
        skipped = y - want
        torch.testing.assert_close(skipped / u, (skipped / u)[:, :1].expand_as(u).mean(0, keepdim=True).expand_as(u))


def test_the_two_predictions_and_the_measured_divergence_agree():
    """On inputs and gradients that are white the spectra say all; in the model they agree within a small factor."""
    model, ids = language_model(), token_ids(12)
    distilled = distill(model, 4, calibration=ids)
    convolutions = long_convolutions(model)
    found = sensitivities(model, ids, dict.fromkeys(convolutions, 64))
    assert all(c.observers == (None,) for c in convolutions.values())
    totals = [0.0, 0.0]
    for name, convolution in convolutions.items():
        error = (convolution.filter(64) - long_convolutions(distilled.model)[name].filter(64)).detach()
        totals[0] += float(found[name].from_taps(error).sum())
        totals[1] += float(found[name].from_spectrum(error).sum())
    assert totals[0] == pytest.approx(distilled.predicted_kl)
    assert 1 / 4 < totals[1] / distilled.measured_kl < 4


def test_a_spectrum_weighs_the_error_of_every_frequency():
    error = torch.randn(3, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spectrum = torch.rand(3, 21, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = torch.cat([spectrum, spectrum[:, 1:-1].flip(1)], dim=1)
    want = (torch.fft.fft(error, n=40).abs().square() * weights).mean(1)
    torch.testing.assert_close(coloured(error, spectrum).square().sum(1), want)


def test_residues_under_a_spectrum_lower_the_error_that_it_weighs():
    t = torch.arange(200, dtype=torch.float64)
    h = torch.stack([sum(0.97**t * torch.cos(0.3 * k * t + k) / k for k in range(1, 9))] * 2)
    low = 1e-3 + torch.exp(-torch.arange(201, dtype=torch.float64) / 8).expand(2, -1)
    plain, weighted = (distill_filter(h, 6, method="kung-varpro", weight=w, dtype=torch.float64) for w in (None, low))
    torch.testing.assert_close(weighted.filter.poles, plain.filter.poles)
    errors = [(h - d.filter(200)).detach() for d in (plain, weighted)]
    cost, lower = (coloured(error, low).square().sum(1) for error in errors)
    assert (lower < 0.9 * cost).all()
    assert (errors[1].norm(dim=1) >= errors[0].norm(dim=1)).all()


def test_calibration_weighs_the_residues_unless_a_tolerance_is_asked_for():
    model, ids = language_model(), token_ids()
    first = [next(iter(long_convolutions(distill(model, 4, **o).model).values())).filter.residues for o in (
        {}, {"calibration": ids, "weighted": False}, {"calibration": ids})]  # fmt: skip
    assert torch.equal(first[0], first[1])
    assert not torch.allclose(first[0], first[2])
    loose = [distill(model, tolerance=0.9, **o) for o in ({}, {"calibration": ids})]
    assert len({str(c) for d in loose for c in d.certificates.values()}) == len(loose[0].certificates)


def greedy(model, ids, count, **options):
    return model.generate(ids, **{"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, **options})


@pytest.mark.parametrize("count", [150, pytest.param(512, marks=pytest.mark.slow)])
def test_tokens_written_online_equal_those_recomputed_in_float64(count):
    model, prompt = language_model(), token_ids(1)[:, :24]
    assert model.model.backbone.state_kind == "growing"
    varied = {"no_repeat_ngram_size": 3}
    online = greedy(model, prompt, count, **varied)
    assert torch.equal(online, greedy(model, prompt, count, use_cache=False, **varied))
    decode_smoothly(model)
    assert torch.equal(online, greedy(model, prompt, count, **varied))
    assert len(set(online[0, 24:].tolist())) > 2, "a constant text proves little"


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("distilled", [False, True])
def test_generation_with_left_padding_and_beams_in_every_mode(beams, distilled):
    model = language_model()
    model = distill(model, 4).model if distilled else model
    ids, mask = token_ids(3)[:, :20].clone(), torch.ones(3, 20, dtype=torch.int64)
    mask[1, :7] = 0
    mask[2, :19] = 0
    options = {"num_beams": beams, "pad_token_id": 16}
    together = greedy(model, ids, 12, attention_mask=mask, **options)
    assert torch.equal(together, greedy(model, ids, 12, attention_mask=mask, use_cache=False, **options))
    for row, start in enumerate((0, 7, 19)):
        alone = greedy(model, ids[row : row + 1, start:], 12, **options)
        assert torch.equal(alone[0, 20 - start :], together[row, 20:])
