"""The penalty of :mod:`~seqconv.distill.regularizer` in transformers' Trainer, its weight ramped up over training.

Before optimiser step s of S the gradients of ``w(s) regularizer(model, order)`` are added to those of the loss::

    w(s) = weight min(1, (s + 1) / (ramp S))

once per step, however many batches are accumulated and whatever the Trainer computes its loss from.
"""

from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from seqconv_kernels._core.errors import argument_error

from .regularizer import regularizer


class RegularizerCallback(TrainerCallback):
    """Train for distillability: the penalty next to the loss, in one process or data-parallel ones.

    Its gradient is added after clipping; processes add the same one, as their probes are the same. A run that is
    resumed continues with the same probes.

    Attributes:
        penalty: value of the penalty, without its weight, before the latest step.

    Args:
        order: real order that the filters will be distilled to.
        weight: of the penalty at the end of the ramp. On a byte model 1 was enough for order 8; less costs less of what
            the filters do beyond that order.
        ramp: share of the steps over which the weight rises.
        **options: ``length``, ``fir_head`` and ``iterations`` of :func:`~seqconv.distill.regularizer`.

    Raises:
        ValueError: a weight below 0, a ramp outside (0, 1]. When training begins: float16 with a loss scaler, a model
            that :func:`~seqconv.distill.regularizer` rejects.
    """

    def __init__(self, order: int = 8, *, weight: float = 1.0, ramp: float = 0.5, **options: int) -> None:
        if weight < 0 or not 0 < ramp <= 1:
            got, wanted = f"weight={weight}, ramp={ramp}", "a weight of at least 0 and a ramp in (0, 1]"
            raise argument_error("RegularizerCallback", got, wanted, "correct the schedule")
        self.order, self.weight, self.ramp = order, weight, ramp
        self.options: dict[str, Any] = dict(options)
        self.penalty = float("nan")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **context: Any
    ) -> None:
        """Raise before the first step what every step would raise."""
        if args.fp16:
            remedy = "train in bfloat16 or float32"
            raise argument_error("RegularizerCallback", "fp16=True", "gradients that are not scaled", remedy)
        with torch.no_grad():
            self.penalty = float(regularizer(context["model"], self.order, **self.options))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **context: Any
    ) -> None:
        """Add the gradient of the weighted penalty."""
        model: nn.Module = context["model"]
        share = min(1.0, (state.global_step + 1) / (self.ramp * state.max_steps))
        probes = torch.Generator().manual_seed(args.seed + state.global_step)
        penalty = regularizer(model, self.order, generator=probes, **self.options)
        self.penalty = float(penalty.detach())
        if self.weight:
            (share * self.weight * penalty).backward()
