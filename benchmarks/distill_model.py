"""Divergence of a distilled language model, predicted and measured: part of ``python -m benchmarks.distill``.

The byte-level Hyena of ``examples/hyena_distillation.py``, trained briefly on the Python standard library, at equal
orders and at budgets of as many states in all; the divergence is also measured on text that was not used to calibrate.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from seqconv.distill import distill
from seqconv.distill.fitting.sensitivity import measured_divergence

WIDTH, LAYERS, LENGTH, STEPS, BATCH = 64, 3, 512, 120, 8
BELOW = 0.02
"""Nats per token; above, a prediction to second order is not held to anything."""


def trained() -> tuple[Any, Tensor]:
    """The model, and rows of text that it was not trained on."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    try:
        from hyena_distillation import build, train  # type: ignore[import-not-found]
        from train_causal_lm import standard_library  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    from seqconv.hf.tokenizer import byte_tokenizer

    torch.manual_seed(0)
    tokens = torch.tensor(byte_tokenizer()(standard_library(1_000_000))["input_ids"])
    rows = tokens[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH)
    model = build(WIDTH, LAYERS, LENGTH)
    with TemporaryDirectory() as folder:
        train(model, rows[:-24], STEPS, BATCH, Path(folder))
    return model, rows[-24:]


def divergences(orders: list[int]) -> list[dict[str, object]]:
    """One row per order: equal orders, and a budget of as many states."""
    model, held_out = trained()
    calibration, other = held_out[:16], held_out[16:]
    rows: list[dict[str, object]] = []
    for order in orders:
        equal = distill(model, order, calibration=calibration)
        budgeted = distill(model, state_budget=order * WIDTH * LAYERS, calibration=calibration)
        assert equal.measured_kl
        assert budgeted.measured_kl
        row: dict[str, object] = {"what": "divergence, nats per token", "order": order, "channels": WIDTH * LAYERS}
        for name, made in (("equal", equal), ("budget", budgeted)):
            row[f"{name}: predicted"], row[f"{name}: measured"] = made.predicted_kl, made.measured_kl
            row[f"{name}: measured on other text"] = measured_divergence(model, made.model, other)
        row["budget lower by"] = 1 - budgeted.measured_kl / equal.measured_kl
        rows.append(row)
    return rows
