"""Training for distillability: the penalty on what low orders leave out, and modal filters trained on after the fit."""

import pytest
import torch
from torch import Tensor
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from seqconv import SeqConvConfig, SeqConvForCausalLM, create_mixer
from seqconv.convolution.replacement import long_convolutions
from seqconv.distill import distill, fine_tune, regularizer
from seqconv.distill.callback import RegularizerCallback
from seqconv.distill.certificates.hankel import hankel
from seqconv.distill.fitting.sensitivity import measured_divergence
from seqconv.distill.regularizer import hankel_tail


def dense_tail(g: Tensor, order: int) -> Tensor:
    """The same share by a dense decomposition, differentiable."""
    energy = torch.linalg.svdvals(hankel(torch.nn.functional.pad(g, (0, g.shape[1] - 1)), g.shape[1])).square()
    return energy[:, order:].sum(1) / energy.sum(1)


def filters(length: int = 48) -> Tensor:
    t = torch.arange(length, dtype=torch.float64)
    noise = torch.randn(2, length, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    smooth = torch.stack([0.9**t, 0.9**t * torch.cos(t) + 0.1 / (1 + t)])
    return torch.cat([noise, noise * 0.9**t, smooth])


@pytest.mark.parametrize("order", [1, 4])
def test_the_penalty_bounds_the_share_of_the_small_singular_values_from_above(order):
    g, want = filters(), dense_tail(filters(), order)
    for iterations in (0, 1, 8):
        got = hankel_tail(g, order, iterations=iterations, generator=torch.Generator().manual_seed(1))
        assert (got >= want - 1e-12).all()
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-9)
    scaled = hankel_tail(1e6 * g, order, iterations=8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(scaled, got)
    assert hankel_tail(torch.zeros(1, 48), order).tolist() == [0]


def test_its_gradient_is_that_of_the_singular_values():
    g = filters().requires_grad_()
    (want,) = torch.autograd.grad(dense_tail(g, 3).sum(), g)
    (got,) = torch.autograd.grad(hankel_tail(g, 3, iterations=60).sum(), g)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-7)


def test_training_under_the_penalty_makes_filters_that_can_be_distilled():
    torch.manual_seed(0)
    mixer = create_mixer("hyena", 4, l_max=64, emb_dim=5, w=4.0).double()
    before = distill(mixer, 4, method="kung-varpro")
    optimizer = torch.optim.Adam(mixer.parameters(), lr=1e-3)
    shares = []
    for _ in range(60):
        loss = regularizer(mixer, 4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        shares.append(float(loss.detach()))
    assert shares[-1] < 0.5 * shares[0]
    after = distill(mixer, 4, method="kung-varpro")
    relative = [(c.hinf_bound / c.norm_hinf).mean() for d in (before, after) for c in d.certificates.values()]
    assert relative[1] < 0.8 * relative[0]


def language_model() -> SeqConvForCausalLM:
    torch.manual_seed(0)
    config = SeqConvConfig(
        vocab_size=16, d_model=8, n_layers=2, mixer="hyena", mixer_options={"l_max": 64, "emb_dim": 5, "w": 4.0}
    )
    model = SeqConvForCausalLM(config).double().eval()
    with torch.no_grad():
        for parameter in model.lm_head.parameters():
            parameter.normal_()
    return model


def token_ids(rows: int, seed: int) -> Tensor:
    return torch.randint(0, 16, (rows, 64), generator=torch.Generator().manual_seed(seed))


def test_modal_filters_trained_on_come_closer_to_the_exact_model_on_other_text():
    model = language_model()
    distilled = distill(model, 2, method="kung-varpro")
    seen: list[float] = []
    tuned = fine_tune(distilled, model, token_ids(240, 1).split(8), lr=5e-2, watch=lambda _, loss: seen.append(loss))
    assert len(seen) == 30
    other = token_ids(12, 2)
    kl = [measured_divergence(model, d.model, other) for d in (distilled, tuned)]
    assert kl[1] < 0.85 * kl[0]
    assert distilled.certificates.keys() == tuned.certificates.keys()
    for name, certificate in tuned.certificates.items():
        before, after = (long_convolutions(m)[name].filter for m in (model, tuned.model))
        error = (before(64) - after(64)).detach()
        torch.testing.assert_close(certificate.l2, error.norm(dim=1))
        assert (torch.fft.rfft(error, n=512).abs().amax(1) <= certificate.hinf_bound).all()
        assert (certificate.lower_bound <= certificate.hinf_bound).all()
        assert (after.poles.abs() < 1).all()
        assert "trained on after the fit" in certificate.notes[-1]
    changed = {n for n, p in tuned.model.named_parameters() if not torch.equal(p, distilled.model.get_parameter(n))}
    assert changed
    assert all(".convolution.filter." in name for name in changed), "everything else stays as it was"


def test_the_callback_adds_the_gradient_of_a_penalty_that_is_ramped_up(tmp_path):
    model, arguments = language_model(), TrainingArguments(str(tmp_path), seed=3)
    callback = RegularizerCallback(4, weight=2.0, ramp=0.5, iterations=2)
    filter = long_convolutions(model)["model.backbone.blocks.0.mixer.convolution"].filter
    added = []
    for step in (1, 7):
        probes = torch.Generator().manual_seed(3 + step)
        penalty = regularizer(model, 4, iterations=2, generator=probes)
        (want,) = torch.autograd.grad(penalty, [filter.frequency])
        filter.frequency.grad = torch.ones_like(want)
        state = TrainerState(global_step=step, max_steps=16)
        callback.on_pre_optimizer_step(arguments, state, TrainerControl(), model=model)
        assert callback.penalty == float(penalty.detach())
        added.append((filter.frequency.grad - 1) / want)
    for share, factor in zip((0.25, 1.0), added, strict=True):
        torch.testing.assert_close(factor, torch.full_like(factor, 2 * share))


def test_training_with_the_callback_leaves_a_lower_penalty_than_without(tmp_path):
    rows = [{"input_ids": ids, "labels": ids} for ids in token_ids(4, 0)]
    arguments = TrainingArguments(
        str(tmp_path), max_steps=12, learning_rate=2e-3, per_device_train_batch_size=2, gradient_accumulation_steps=2,
        save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    callbacks = [RegularizerCallback(4, weight=weight) for weight in (0.0, 1.0)]
    for callback in callbacks:
        Trainer(language_model(), arguments, train_dataset=rows, callbacks=[callback]).train()
    assert callbacks[1].penalty < 0.5 * callbacks[0].penalty


def test_only_modal_channels_of_a_mixed_model_are_trained():
    model = language_model()
    tight = distill(model, 16, fir_head=1, method="kung-varpro")
    worst = torch.cat([c.hinf_bound / c.norm_hinf for c in tight.certificates.values()])
    mixed = distill(model, tolerance=float(worst.median()), fir_head=1, method="kung-varpro")
    assert 0 < mixed.channels[0] < mixed.channels[1]
    tuned = fine_tune(mixed, model, token_ids(8, 1).split(4), target="labels")
    assert tuned.channels == mixed.channels
    for name, before in mixed.certificates.items():
        after = tuned.certificates[name]
        assert torch.equal(after.hinf_bound[~before.met], before.hinf_bound[~before.met])
        got, want = (long_convolutions(m)[name].filter(64) for m in (tuned.model, model))
        assert torch.equal(got[~before.met], want[~before.met])
        assert not torch.equal(got[before.met], long_convolutions(mixed.model)[name].filter(64)[before.met])


def test_requests_that_make_no_sense_raise(unannotated):
    model, hyena = language_model(), create_mixer("hyena", 4, l_max=16)
    cases = [
        (r"regularizer: received .*Mamba.*long convolutions", lambda: regularizer(create_mixer("mamba", 4))),
        (r"regularizer: .*order=20", lambda: regularizer(hyena, 20)),
        (r"regularizer: .*fir_head=0", lambda: regularizer(hyena, 4, fir_head=0)),
        (r"fine_tune: .*'logit'.*logits", lambda: fine_tune(distill(model, 2), model, [], target="logit")),
        (r"fine_tune: .*distil it first", lambda: fine_tune(distill(model, tolerance=1e-9, fir_head=1), model, [])),
    ]
    endless = SeqConvForCausalLM(SeqConvConfig(vocab_size=16, d_model=4, n_layers=1, mixer="s4d"))
    reduced = distill(endless, 2, recurrent=True, length=32, method="kung-varpro")
    cases.append((r"fine_tune: .*without end.*pass the length", lambda: fine_tune(reduced, endless, [])))
    state, control, half = TrainerState(), TrainerControl(), TrainingArguments(report_to="none")
    half.fp16 = True
    callback = RegularizerCallback(20)
    cases += [
        (r"RegularizerCallback: .*weight=-1", lambda: RegularizerCallback(weight=-1.0)),
        (r"RegularizerCallback: .*ramp=0", lambda: RegularizerCallback(ramp=0.0)),
        (r"RegularizerCallback: .*fp16", lambda: callback.on_train_begin(half, state, control, model=hyena)),
        (
            r"regularizer: .*order=20",
            lambda: callback.on_train_begin(TrainingArguments(report_to="none"), state, control, model=hyena),
        ),
    ]
    for pattern, use in cases:
        with pytest.raises(ValueError, match=pattern):
            use()
