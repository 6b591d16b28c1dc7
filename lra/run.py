"""A run: data, model and training by transformers' Trainer, everything written into one folder.

===================  =====================================================================================
``run.json``         recipe, versions, hardware, seeds, fingerprint and origin of the data, parameter counts
``metrics.jsonl``    one line per log: step, seconds, loss, learning rate, accuracies
``checkpoints/``     what a resumed run starts from
``best/``, ``last/`` models for ``AutoModelForSequenceClassification``
``result.json``      accuracies on every split beside the baselines, throughput; written at the end
===================  =====================================================================================
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EvalPrediction, PreTrainedModel, Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from seqconv.doctor import machine, versions
from seqconv_kernels.errors import refusal, unknown_name

from .metrics import JSONLines, StopAtNaN
from .model import MODELS, build_model, parameter_groups
from .recipe import SCHEDULES, Recipe
from .store import atomic_write
from .tasks import TaskData, create_task
from .tasks.signals import explained


@dataclass(frozen=True)
class Result:
    """What a finished run found.

    Attributes:
        folder: where everything about it lies.
        model: the best checkpoint, as it was in memory.
        accuracy: of the best checkpoint, by split.
        baselines: accuracies of guessers, by split.
    """

    folder: Path
    model: PreTrainedModel
    accuracy: Mapping[str, float]
    baselines: Mapping[str, Mapping[str, float]]


def run(
    recipe: Recipe,
    folder: Path,
    *,
    data_root: Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    track: Sequence[str] = (),
) -> Result:
    """Prepare the data, train, evaluate, and write the run's folder.

    Args:
        recipe: what to run.
        folder: of the run; must be new, or hold this recipe's unfinished run with ``resume``.
        data_root: of the prepared data.
        resume: go on from the last checkpoint.
        quiet: no progress bars.
        track: trackers of transformers that also get the metrics, such as ``tensorboard``.

    Raises:
        ValueError: the folder holds a run and ``resume`` is off; it holds another recipe's; the loss is not finite.
    """
    check_folder(recipe, folder, resume)
    task = create_task(recipe.task, recipe.task_options)
    task.prepare(data_root, quiet=quiet)
    data = task.load(data_root)
    set_seed(recipe.seed)
    model = build_model(recipe, data)
    trainer = make_trainer(recipe, model, data, folder, quiet, track)
    atomic_write(folder / "run.json", json.dumps(describe(recipe, model, data), indent=2) + "\n")
    started = (time.monotonic(), time.process_time())
    trained = trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder / "checkpoints")) if resume else None)
    spent = {"wall_s": time.monotonic() - started[0], "cpu_s": time.process_time() - started[1]}
    return finish(recipe, trainer, data, folder, {**spent, "steps": trained.global_step})


def read_recipe(folder: Path) -> Recipe:
    """The recipe that a run's folder was made with.

    Raises:
        ValueError: it holds no run.
    """
    noted = folder / "run.json"
    if not noted.is_file():
        remedy = "start it with 'python -m lra run'"
        raise refusal("resume", f"no run.json in {folder}", "the folder of a run", remedy)
    return Recipe(**json.loads(noted.read_text())["recipe"])


def check_folder(recipe: Recipe, folder: Path, resume: bool) -> None:
    """Refuse a folder that this recipe cannot start in, or resume in."""
    if not resume:
        if (folder / "run.json").exists():
            remedy = "resume it with 'python -m lra resume', or name another folder with --out"
            raise refusal("run", f"a run in {folder}", "a new folder", remedy)
        return
    before, now = read_recipe(folder).as_dict(), recipe.as_dict()
    changed = sorted(name for name in now if before[name] != now[name])
    if changed:
        got = ", ".join(f"{name}={now[name]!r} (was {before[name]!r})" for name in changed)
        raise refusal("resume", f"a changed recipe: {got}", "the recipe of the run", "start a new run with --out")


def make_trainer(
    recipe: Recipe, model: nn.Module, data: TaskData, folder: Path, quiet: bool, track: Sequence[str] = ()
) -> Trainer:
    """The Trainer of a recipe, with its optimiser."""
    groups = parameter_groups(model, recipe)
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2))
    trainer = Trainer(
        model=model,
        args=training_arguments(recipe, folder, quiet, track),
        data_collator=data.collate,
        train_dataset=data.splits["train"],
        eval_dataset=data.splits["val"],
        compute_metrics=accuracy,
        preprocess_logits_for_metrics=_decide,
        optimizers=(optimizer, None),
        callbacks=[StopAtNaN(), JSONLines(folder / "metrics.jsonl")],
    )
    return trainer


def training_arguments(recipe: Recipe, folder: Path, quiet: bool, track: Sequence[str] = ()) -> TrainingArguments:
    """The recipe in the words of transformers."""
    every = min(recipe.eval_every, recipe.steps)
    return TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        per_device_train_batch_size=recipe.batch_size // recipe.accumulate,
        per_device_eval_batch_size=4 * recipe.batch_size // recipe.accumulate,
        gradient_accumulation_steps=recipe.accumulate,
        max_steps=recipe.steps,
        learning_rate=recipe.lr,
        lr_scheduler_type=SCHEDULES[recipe.schedule],
        warmup_steps=recipe.warmup_steps,
        max_grad_norm=recipe.max_grad_norm,
        bf16=recipe.precision == "bfloat16",
        fp16=recipe.precision == "float16",
        torch_compile=recipe.compile,
        eval_strategy="steps",
        save_strategy="steps",
        logging_strategy="steps",
        eval_steps=every,
        save_steps=every,
        logging_steps=max(1, every // 5),
        logging_nan_inf_filter=False,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=list(track),
        disable_tqdm=quiet,
        seed=recipe.seed,
        data_seed=recipe.seed,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of right decisions among the labels that are asked (not -100); of signals, the explained variance."""
    labels = np.asarray(prediction.label_ids)
    if labels.dtype.kind == "f":
        return {"accuracy": explained(labels, np.asarray(prediction.predictions))}
    asked = labels != -100
    return {"accuracy": float(np.mean(np.asarray(prediction.predictions)[asked] == labels[asked]))}


def _decide(logits: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
    answers = logits[0] if isinstance(logits, tuple) else logits
    return answers if labels.is_floating_point() else answers.argmax(-1)


def evaluate(
    folder: Path, split: str = "test", checkpoint: str = "best", *, data_root: Path | None = None, quiet: bool = False
) -> float:
    """Accuracy of a run's checkpoint, read back from its folder, on the whole of a split.

    Raises:
        ValueError: no run there, or an unknown split or checkpoint.
    """
    recipe = read_recipe(folder)
    data = create_task(recipe.task, recipe.task_options).load(data_root)
    for name, value, known in (("split", split, list(data.splits)), ("checkpoint", checkpoint, ["best", "last"])):
        if value not in known:
            raise unknown_name("evaluate", name, value, known)
    model = MODELS[data.kind].from_pretrained(folder / checkpoint)
    with TemporaryDirectory() as scratch:
        trainer = make_trainer(recipe, model, data, Path(scratch), quiet)
        return float((trainer.predict(data.splits[split]).metrics or {})["test_accuracy"])


def finish(recipe: Recipe, trainer: Trainer, data: TaskData, folder: Path, spent: Mapping[str, float]) -> Result:
    """Save the best and the last model, evaluate the best on every split, write ``result.json``."""
    model = cast(PreTrainedModel, trainer.model)
    trainer.save_model(str(folder / "best"))
    last = get_last_checkpoint(str(folder / "checkpoints"))
    if last is not None:
        type(model).from_pretrained(last).save_pretrained(str(folder / "last"))
    found, table = {}, []
    for split in [split for split in ("val", "test") if split in data.splits]:
        predicted = trainer.predict(data.splits[split])
        found[split] = (predicted.metrics or {})["test_accuracy"]
        table = (
            _confusion(predicted.predictions, predicted.label_ids, data.classes)
            if data.score == "accuracy" and data.classes <= 10
            else []
        )
    throughput = {"sequences_per_s": recipe.batch_size * spent["steps"] / spent["wall_s"]}
    result = {"accuracy": found, "baselines": data.baselines, "spent": dict(spent), **throughput}
    if table:
        result["confusion"] = table
    result["selected_by"] = f"best val accuracy, seen {trainer.state.best_metric}"
    atomic_write(folder / "result.json", json.dumps(result, indent=2) + "\n")
    return Result(folder, model, found, data.baselines)


def _confusion(answers: Any, labels: Any, classes: int) -> list[list[int]]:
    """Counts by label (row) and answer (column), over the labels that are asked."""
    asked = np.asarray(labels) != -100
    cells = np.asarray(labels)[asked] * classes + np.asarray(answers)[asked]
    counts: list[list[int]] = np.bincount(cells, minlength=classes**2).reshape(classes, classes).tolist()
    return counts


def describe(recipe: Recipe, model: nn.Module, data: TaskData) -> dict[str, Any]:
    """What a reader needs to repeat the run."""
    special = sum(p.numel() for p in model.parameters() if hasattr(p, "_optim"))
    return {
        "recipe": recipe.as_dict(),
        "data": {"origin": data.origin, "fingerprint": data.fingerprint, "sizes": _sizes(data)},
        "parameters": {"all": sum(p.numel() for p in model.parameters()), "with own learning rate": special},
        "versions": versions(),
        "hardware": machine(),
    }


def _sizes(data: TaskData) -> dict[str, int]:
    return {split: len(dataset) for split, dataset in data.splits.items()}  # type: ignore[arg-type]
