"""Training by transformers' Trainer, resuming it, and the optimizer's parameter groups."""

import inspect
from functools import wraps

import pytest
import torch
import transformers
from tiny import config, prompts, token_model
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed, trainer_pt_utils

from seqconv import SeqConvForCausalLM, SeqConvForSequenceClassification, create_mixer, list_mixers, parameter_groups
from seqconv.layers.norms import Norm

NEVER_DECAYED = (
    *("A_log", "dt_bias", "inv_dt", "A_real", "A_imag", "filter.B", "filter.P", "skip", "qk_scale", "qk_shift"),
    *("alpha", "beta", "delta", "gamma", "poles", "residues", "frequency", "positions", "norm.weight", "bias"),
)
"""Endings of names of time steps, decays, filter parameters, gains and norms."""


class Stop(TrainerCallback):
    """Stop after a number of steps, as an interruption would."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


def examples(count=24):
    """Sequences whose class is whether token 1 occurs more often than token 2."""
    ids = torch.randint(1, 3, (count, 9), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": int((row == 1).sum() > 4)} for row in ids]


def classifier():
    set_seed(0)
    return SeqConvForSequenceClassification(config(bidirectional=True, dropout=0.1, norm="batch"))


def trainer(folder, *callbacks, model=None, data=None, **options):
    made = classifier() if model is None else model
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        max_steps=5,
        save_steps=2,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    optimizer = torch.optim.AdamW(parameter_groups(made, lr=1e-2, weight_decay=0.05))
    return Trainer(
        made, arguments, train_dataset=data or examples(), callbacks=list(callbacks), optimizers=(optimizer, None)
    )


def test_training_and_resuming_give_the_same_model(tmp_path):
    straight = trainer(tmp_path / "straight")
    losses = [entry["loss"] for entry in straight.train() and straight.state.log_history if "loss" in entry]
    assert len(losses) == 5
    broken = trainer(tmp_path / "broken", Stop(2))
    broken.train()
    resumed = trainer(tmp_path / "broken")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 5
    want = straight.model.state_dict()
    for name, value in resumed.model.state_dict().items():
        torch.testing.assert_close(value, want[name], rtol=0, atol=0, msg=lambda m, name=name: f"{name}: {m}")
    read = SeqConvForSequenceClassification.from_pretrained(tmp_path / "broken" / "checkpoint-5")
    torch.testing.assert_close(read.state_dict(), want, rtol=0, atol=0)


def test_training_lowers_the_loss():
    model = SeqConvForSequenceClassification(config(norm="rms", mlp="gelu")).train()
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=1e-2))
    batch = examples(16)
    ids, labels = torch.stack([e["input_ids"] for e in batch]), torch.tensor([e["labels"] for e in batch])
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = model(ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_evaluation_prediction_and_checkpointing(tmp_path):
    data = [{"input_ids": row, "labels": row} for row in prompts(8, 9)]
    newer, older = "activation_checkpointing", "gradient_checkpointing"
    switch = {newer if newer in TrainingArguments.__dataclass_fields__ else older: True}
    run = trainer(tmp_path, model=SeqConvForCausalLM(config()), data=data, **switch)
    run.train()
    assert run.evaluate(data)["eval_loss"] < run.state.log_history[0]["loss"]
    want = run.model.eval()(prompts(8, 9)).logits.detach()
    for given in (data, [{"input_ids": row["input_ids"]} for row in data]):
        torch.testing.assert_close(torch.from_numpy(run.predict(given).predictions), want)


def test_language_models_train_with_accumulated_gradients(tmp_path):
    ids = prompts(8, 9)
    labels = ids.clone()
    labels[:4, :6] = -100
    model = SeqConvForCausalLM(config())
    want = float(model(ids, labels=labels).loss.detach())
    data = [{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)]
    run = trainer(tmp_path, model=model, data=data, gradient_accumulation_steps=2)
    run.train()
    assert run.state.log_history[0]["loss"] == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("mixer", list_mixers())
def test_groups_hold_every_parameter_once(mixer):
    model = token_model(mixer, mlp="gelu", norm="rms")
    groups = parameter_groups(model, lr=1e-2, weight_decay=0.1)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted({id(p) for p in model.parameters()})
    rate = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            mark = getattr(parameter, "_optim", {})
            plain = 0.0 if isinstance(module, Norm) or parameter.dim() < 2 or name == "bias" else 0.1
            assert rate[id(parameter)] == (min(1e-2, mark.get("lr", 1e-2)), mark.get("weight_decay", plain))
    assert rate[id(model.lm_head.weight)] == (1e-2, 0.1)


def decayed_names(model):
    """Parameters that the default Trainer decays."""
    names = {id(p): name for name, p in model.named_parameters()}
    arguments = TrainingArguments("unused", weight_decay=0.1, report_to=[], use_cpu=True)
    groups = Trainer(model, arguments).create_optimizer().param_groups
    return {names[id(p)] for group in groups if group["weight_decay"] > 0 for p in group["params"]}


@pytest.mark.parametrize("mixer", list_mixers())
def test_the_default_trainer_decays_the_weights_alone(mixer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = token_model(mixer, mlp="gelu", norm="rms", residual="affine")
    groups = parameter_groups(model, lr=1e-2, weight_decay=0.1)
    wanted = {id(p) for group in groups if group["weight_decay"] > 0 for p in group["params"]}
    assert decayed_names(model) == {name for name, p in model.named_parameters() if id(p) in wanted}
    assert not {name for name in decayed_names(nn.ModuleDict({"inside": model})) if name.endswith(NEVER_DECAYED)}


@pytest.mark.parametrize("mixer", list_mixers())
def test_a_mixer_in_another_model_tells_the_trainer_what_does_not_decay(mixer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Linear(3, 8), create_mixer(mixer, 8), nn.LayerNorm(8))
    decayed = decayed_names(model)
    assert "0.weight" in decayed
    assert not [name for name, p in model.named_parameters() if name in decayed and p.dim() < 2]
    assert not [name for name in decayed if name.endswith(NEVER_DECAYED)]


def test_a_trainer_that_was_imported_after_the_model_was_built_is_told_too(monkeypatch):
    model = SeqConvForCausalLM(config("mamba"))
    for module in (trainer_pt_utils, transformers.trainer):
        plain = module.get_parameter_names
        monkeypatch.setattr(module, "get_parameter_names", getattr(plain, "__wrapped__", plain))
    names = transformers.trainer.get_parameter_names(nn.ModuleDict({"inside": model}), [nn.LayerNorm], ["bias"])
    assert "inside.model.backbone.blocks.0.mixer.in_proj.weight" in names
    assert not [name for name in names if name.endswith(NEVER_DECAYED)]


def test_a_wrapper_of_another_library_does_not_hide_the_marks(monkeypatch):
    plain = inspect.unwrap(trainer_pt_utils.get_parameter_names)

    @wraps(plain)
    def traced(*args, **options):
        return plain(*args, **options)

    monkeypatch.setattr(trainer_pt_utils, "get_parameter_names", traced)
    model = SeqConvForCausalLM(config("mamba"))
    for _ in range(2):  # again wraps nothing more
        names = trainer_pt_utils.get_parameter_names(nn.ModuleDict({"inside": model}), [nn.LayerNorm], ["bias"])
        assert names
        assert not [name for name in names if name.endswith(NEVER_DECAYED)]
    assert trainer_pt_utils.get_parameter_names.__wrapped__ is traced


def test_marks_of_other_projects_are_left_alone():
    other = nn.Linear(2, 2)
    other.weight._no_weight_decay = True
    SeqConvForCausalLM(config("mamba"))
    assert trainer_pt_utils.get_parameter_names(other, [nn.LayerNorm], ["bias"]) == ["weight"]


def test_groups_leave_frozen_parameters_out():
    model = SeqConvForCausalLM(config())
    model.model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"a model with nothing to train"):
        parameter_groups(model, lr=1e-3)
    with pytest.raises(ValueError, match=r"lr=nan, weight_decay=0.0; wanted lr > 0"):
        parameter_groups(model, lr=float("nan"))
