"""Time steps and poles keep float32 and their gradients under DDP, accelerate and the Trainer in bfloat16."""

import subprocess
import sys
from pathlib import Path

import ddp_worker
import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

pytestmark = [
    pytest.mark.usefixtures("unannotated"),
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning"),
]
KEPT = ("inv_dt", "A_real", "A_imag")
CLOSE = 0.05
"""Relative error that activations in bfloat16 leave in a gradient; one of a rounded time step is off by about 1."""


def gradients():
    model, ids = ddp_worker.model(), ddp_worker.batch()
    model(ids, labels=ids).loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}


def assert_close_to_float32(found):
    kept = {name: g for name, g in gradients().items() if name.endswith(KEPT)}
    assert len(kept) == len(KEPT)
    for name, want in kept.items():
        assert found[name].dtype == torch.float32
        assert (found[name] - want).norm() < CLOSE * want.norm(), name


def test_ddp(tmp_path):
    command = [sys.executable, ddp_worker.__file__]
    workers = [subprocess.Popen([*command, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [worker.wait(200) for worker in workers] == [0, 0]
    assert_close_to_float32(torch.load(tmp_path / "gradients.pt", weights_only=True))


def test_accelerate():
    import accelerate

    # accelerate keeps one state per process, which a Trainer of an earlier test may have set to float32
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator, ids = accelerate.Accelerator(mixed_precision="bf16", cpu=True), ddp_worker.batch()
    try:
        model = accelerator.prepare(ddp_worker.model())
        accelerator.backward(model(ids, labels=ids).loss)
        assert_close_to_float32({name: p.grad for name, p in model.named_parameters()})
    finally:
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def test_trainer(tmp_path):
    ids, found = ddp_worker.batch(), {}
    options = {"bf16": True, "use_cpu": True, "max_steps": 1, "per_device_train_batch_size": 2, "max_grad_norm": 0}
    arguments = TrainingArguments(tmp_path, report_to=[], disable_tqdm=True, learning_rate=0.0, save_steps=1, **options)
    trainer = Trainer(ddp_worker.model(), arguments, train_dataset=[{"input_ids": row, "labels": row} for row in ids])
    for name, parameter in trainer.model.named_parameters():
        parameter.register_hook(lambda gradient, name=name: found.__setitem__(name, gradient.clone()))
    trainer.train()
    assert_close_to_float32(found)
    saved = load_file(Path(tmp_path) / "checkpoint-1" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
