"""The Trainer of a recipe: its optimiser, its arguments in the words of transformers, its metric."""

import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from seqconv import SeqConvForCausalLM
from seqconv_kernels._core.errors import argument_error, unknown_name

from ..models.build import parameter_groups
from ..recipes.recipe import SCHEDULES, Recipe
from ..tasks import TaskData
from .checkpoints import ListFiles, MoveBest, NeedSpace
from .distributed import TIMEOUT_S, processes
from .metrics import JSONLines, StopAtNaN
from .scores import ASKED, IGNORED, NATS, keep, measure, sums_in_parts

PACKAGES = {"azure_ml": "azureml", "comet_ml": "comet_ml", "clearml": "clearml", "dagshub": "dagshub"}
"""Packages of trackers whose names differ; TensorBoard and Weights & Biases are called as their packages."""


LOGITS = 2**26
"""Logits that an evaluation of a language model holds at a time: a quarter of a gigabyte in float32."""


def make_trainer(
    recipe: Recipe,
    model: nn.Module,
    data: TaskData,
    folder: Path,
    *,
    quiet: bool = False,
    track: Sequence[str] = (),
    callbacks: Sequence[TrainerCallback] = (),
) -> Trainer:
    """The Trainer of a recipe; its optimiser is built by the Trainer, as FSDP asks for."""
    groups = parameter_groups(model, recipe)
    trainer = RecipeTrainer(
        recipe,
        model=model,
        args=training_arguments(recipe, folder, quiet, track, best="bits" if data.kind == "language" else "accuracy"),
        data_collator=data.collate,
        train_dataset=data.splits["train"],
        eval_dataset=data.splits["val"],
        compute_metrics=measure(data.score),
        preprocess_logits_for_metrics=keep(data.kind, data.score),
        optimizer_cls_and_kwargs=(
            torch.optim.AdamW,
            {"params": groups, "lr": recipe.lr, "betas": (recipe.beta1, recipe.beta2), "eps": recipe.eps},
        ),
        callbacks=[StopAtNaN(), NeedSpace(), ListFiles(), MoveBest(), JSONLines(folder / "metrics.jsonl"), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)  # what it prints where there are no bars is in metrics.jsonl
    return trainer


class RecipeTrainer(Trainer):
    """A Trainer whose learning rate may rise with a power of the step, and that takes no step beyond the last.

    It measures language models without holding the logits of a whole batch, but under FSDP, whose parameters are
    gathered for the whole model alone.

    transformers' own takes one where it resumes from the checkpoint of the last step, as after a run was killed while
    it evaluated its test split.
    """

    def __init__(self, recipe: Recipe, **options: Any) -> None:
        super().__init__(**options)
        self.recipe = recipe

    def _run_epoch(self, *arguments: Any, **options: Any) -> Any:
        if self.state.global_step >= self.state.max_steps:
            return None
        return super()._run_epoch(*arguments, **options)

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None
    ) -> Any:
        inner = self.accelerator.unwrap_model(model)
        if not isinstance(inner, SeqConvForCausalLM) or self.recipe.parallel == "fsdp":
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.accelerator.autocast():
            sums = sums_in_parts(inner, inputs["input_ids"], inputs["labels"], LOGITS)
        loss = (sums[:, NATS].sum() / sums[:, ASKED].sum()).float()
        return (loss, None, None) if prediction_loss_only else (loss, sums, inputs["labels"])

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LambdaLR:
        scheduler = cast(LambdaLR, super().create_scheduler(num_training_steps, optimizer))
        warmup, power = self.recipe.warmup_steps, self.recipe.warmup_power
        if power != 1:
            factors = scheduler.lr_lambdas
            scheduler.lr_lambdas = [partial(_powered_warmup, factor, warmup, power) for factor in factors]
        return scheduler


def _powered_warmup(factor: Callable[[int], float], warmup: int, power: int, step: int) -> float:
    return (step / warmup) ** power if step < warmup else factor(step)


def check_trackers(track: Sequence[str]) -> None:
    """Raise for trackers that transformers does not know or whose package is missing, before anything runs.

    Raises:
        ValueError: unknown (the nearest are named), or not installed.
    """
    for name in track:
        if name not in INTEGRATION_TO_CALLBACK:
            raise unknown_name("run", "tracker", name, tuple(INTEGRATION_TO_CALLBACK))
        if importlib.util.find_spec(PACKAGES.get(name, name)) is None:
            remedy = f"install it with 'pip install {PACKAGES.get(name, name)}', or leave out --track"
            raise argument_error("run", f"--track {name}", "an installed package", remedy)


def training_arguments(
    recipe: Recipe, folder: Path, quiet: bool, track: Sequence[str] = (), best: str = "accuracy"
) -> TrainingArguments:
    """The recipe in the words of transformers; a batch is divided among the processes, ``best`` chooses checkpoints."""
    every = min(recipe.eval_every, recipe.steps)
    rows = recipe.batch_size // (recipe.accumulate * processes())
    return TrainingArguments(
        output_dir=str(folder.absolute() / "checkpoints"),
        per_device_train_batch_size=rows,
        per_device_eval_batch_size=4 * rows,
        gradient_accumulation_steps=recipe.accumulate,
        max_steps=recipe.steps,
        learning_rate=recipe.lr,
        lr_scheduler_type=SCHEDULES[recipe.schedule],
        warmup_steps=recipe.warmup_steps,
        max_grad_norm=recipe.max_grad_norm,
        bf16=recipe.precision == "bfloat16",
        fp16=recipe.precision == "float16",
        torch_compile=recipe.compile,
        fsdp=True if recipe.parallel == "fsdp" else None,  # type: ignore[arg-type]  # annotated as str
        ddp_find_unused_parameters=False,
        ddp_timeout=TIMEOUT_S,
        eval_strategy="steps",
        save_strategy="steps",
        logging_strategy="steps",
        eval_steps=every,
        save_steps=every,
        logging_steps=max(1, every // 5),
        logging_nan_inf_filter=False,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=best,
        greater_is_better=best == "accuracy",
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=list(track),
        disable_tqdm=quiet,
        seed=recipe.seed,
        data_seed=recipe.seed,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def confusion(answers: np.ndarray, labels: np.ndarray, classes: int) -> list[list[int]]:
    """Counts by label (row) and answer (column), over the labels that are asked."""
    asked = labels != IGNORED
    cells = labels[asked] * classes + answers[asked]
    counts: list[list[int]] = np.bincount(cells, minlength=classes**2).reshape(classes, classes).tolist()
    return counts
