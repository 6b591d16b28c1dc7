"""A run: data, model and training by transformers' Trainer, everything written into one folder.

====================  =======================================================================================
``run.json``          recipe, versions, hardware, seeds, fingerprint and origin of the data, parameter counts
``metrics.jsonl``     one line per log: step, seconds, loss, learning rate, accuracies
``checkpoints/``      what a resumed run starts from
``best/``, ``last/``  models for ``AutoModelForSequenceClassification``
``artifacts.npz``     learned kernels and test images with the model's answers, for reports
``result.json``       accuracies on every split and of the baselines, throughput; written at the end
====================  =======================================================================================

Under ``torchrun`` every process calls the same functions; the first one makes the data and writes the files.
"""

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedModel, Trainer, set_seed

from seqconv.cli.doctor import machine, versions
from seqconv_kernels._core.errors import argument_error

from ..data.store import atomic_write, exclusive, read_json
from ..models.build import MODELS, build_model
from ..recipes.recipe import Recipe
from ..tasks import TaskData, create_task
from .artifacts import write_artifacts
from .checkpoints import (
    PauseAfter,
    checkpoints,
    explained,
    last_checkpoint,
    list_files,
    resumable_checkpoint,
)
from .distributed import agree, check_processes, is_first, join_process_group, processes
from .metrics import metrics_of, peak_memory, read_lines
from .trainer import check_trackers, confusion, make_trainer


@dataclass(frozen=True)
class Result:
    """What a finished run found.

    Attributes:
        folder: of everything that belongs to the run.
        model: the best checkpoint, as it was in memory.
        accuracy: of the best checkpoint, by split.
        baselines: accuracies of the baselines, by split.
        language: of language models ``bits`` and ``perplexity`` of a token, by split; else nothing.
    """

    folder: Path
    model: PreTrainedModel
    accuracy: Mapping[str, float]
    baselines: Mapping[str, Mapping[str, float]]
    language: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Paused:
    """A run that stopped at a checkpoint because its time limit was reached.

    Attributes:
        folder: of the run, to be resumed.
        step, steps: optimiser steps done, and in all.
    """

    folder: Path
    step: int
    steps: int


def run(recipe: Recipe, folder: Path, **options: Any) -> Result:
    """Prepare the data, train to the end, evaluate, and write the run's folder.

    Args:
        recipe, folder, options: as :func:`run_for`.

    Raises:
        ValueError: as :func:`run_for`.
    """
    done = run_for(recipe, folder, None, **options)
    assert isinstance(done, Result)
    return done


def run_for(
    recipe: Recipe,
    folder: Path,
    seconds: float | None,
    *,
    data_root: Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    track: Sequence[str] = (),
) -> Result | Paused:
    """Prepare the data and train until the end or until the time is up, whichever comes first.

    Args:
        recipe: what to run.
        folder: of the run; must be new, or hold this recipe's unfinished run with ``resume``.
        seconds: of training, then the run stops at a checkpoint of its own; ``None``: no limit.
        data_root: of the prepared data.
        resume: continue from the last checkpoint.
        quiet: no progress bars.
        track: trackers of transformers that also get the metrics, such as ``tensorboard``.

    Raises:
        ValueError: the folder holds a run and ``resume`` is off; it holds another recipe's; another process trains in
            it; its checkpoints are all damaged; the recipe cannot run on these processes; the loss is not finite; the
            disk is full.
    """
    with _locked(folder), explained(folder):
        check_folder(recipe, folder, resume)
        check_processes(recipe)
        check_trackers(track)
        data = _prepared(recipe, data_root, quiet)
        set_seed(recipe.seed)
        model = build_model(recipe, data)
        pause = [] if seconds is None else [PauseAfter(seconds)]
        trainer = make_trainer(recipe, model, data, folder, quiet=quiet, track=track, callbacks=pause)
        last = agree(resumable_checkpoint(folder) if resume and is_first() else None)
        if is_first():
            atomic_write(folder / "run.json", json.dumps(describe(recipe, model, data), indent=2) + "\n")
        trainer.accelerator.wait_for_everyone()
        step = trainer.train(resume_from_checkpoint=None if last is None else str(last)).global_step
        return Paused(folder, step, recipe.steps) if step < recipe.steps else finish(recipe, trainer, data, folder)


def _prepared(recipe: Recipe, data_root: Path | None, quiet: bool) -> TaskData:
    """The data of a recipe, made by the first process if they are not there."""
    task = create_task(recipe.task, recipe.task_options)
    with join_process_group().main_process_first():
        task.prepare(data_root, quiet=quiet)
    return task.load(data_root)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second run out of the folder; under ``torchrun`` the first process holds the lock for all."""
    if not is_first():
        yield
        return
    with ExitStack() as stack:
        try:
            if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK)):
                raise PermissionError(errno.EACCES, "no folder, or read-only")
            stack.enter_context(exclusive(folder, wait=False))
        except BlockingIOError as error:
            got, remedy = f"{folder}, which another process trains in", "wait until it ends, or end it"
            raise argument_error("run", got, "a folder that no process uses", remedy) from error
        except OSError as error:
            got, remedy = f"{folder} ({error.strerror})", "name another folder with --out"
            raise argument_error("run", got, "a folder that can be written to", remedy) from error
        yield


def read_recipe(folder: Path) -> Recipe:
    """The recipe that a run's folder was made with.

    Raises:
        ValueError: it holds no run, or its ``run.json`` is damaged or of another version.
    """
    path, remedy = folder / "run.json", "start it with 'python -m lra run'"
    recipe = read_json("resume", path, remedy).get("recipe")
    try:
        return Recipe(**recipe)  # type: ignore[arg-type]  # what it holds is checked here
    except TypeError as error:
        remedy = "restore the file, or start the run again into another folder with --out"
        raise argument_error(
            "resume", f"{path} without a recipe ({error})", "the fields of a recipe", remedy
        ) from error


def check_folder(recipe: Recipe, folder: Path, resume: bool) -> None:
    """Raise for a folder that this recipe cannot start in, or resume in."""
    if not resume:
        if (folder / "run.json").exists() or checkpoints(folder):
            remedy = "resume it with 'python -m lra resume', or name another folder with --out"
            raise argument_error("run", f"a run in {folder}", "a new folder", remedy)
        return
    before, now = read_recipe(folder).as_dict(), recipe.as_dict()
    changed = sorted(name for name in now if before[name] != now[name] and name not in ("name", "source"))
    if changed:
        got = ", ".join(f"{name}={now[name]!r} (was {before[name]!r})" for name in changed)
        raise argument_error(
            "resume", f"a changed recipe: {got}", "the recipe of the run", "start a new run with --out"
        )


def finish(recipe: Recipe, trainer: Trainer, data: TaskData, folder: Path) -> Result:
    """Save the best and the last model, evaluate the best on every split, write ``result.json``."""
    trainer.save_model(str(folder / "best"))
    last = last_checkpoint(folder)
    if is_first() and last is not None:
        MODELS[data.kind].from_pretrained(last).save_pretrained(folder / "last")
        for name in ("best", "last"):
            list_files(folder / name)
    trainer.accelerator.wait_for_everyone()
    found: dict[str, dict[str, Any]] = {"accuracy": {}, "decisions": {}}
    table: list[list[int]] = []
    for split in ("val", "test"):
        predicted = trainer.predict(data.splits[split])
        for name, value in metrics_of(predicted.metrics).items():
            found.setdefault(name, {})[split] = value
        answers, labels = np.asarray(predicted.predictions), np.asarray(predicted.label_ids)
        if data.score == "accuracy":
            found["decisions"][split] = int(np.sum(labels != -100))
            table = confusion(answers, labels, data.classes) if data.classes <= 10 else []
    model = trainer.model if recipe.parallel == "ddp" else MODELS[data.kind].from_pretrained(folder / "best")
    assert isinstance(model, PreTrainedModel)
    if is_first():
        write_artifacts(folder, model, data.max_length, data.splits[split], answers)
        _write_result(recipe, folder, found, data, table, trainer.state.best_metric)
    language: dict[str, Mapping[str, float]] = {
        name: by_split for name, by_split in found.items() if name in ("bits", "perplexity")
    }
    return Result(folder, model, found["accuracy"], data.baselines, language)


def _write_result(
    recipe: Recipe,
    folder: Path,
    found: Mapping[str, Mapping[str, Any]],
    data: TaskData,
    table: list[list[int]],
    best: float | None,
) -> None:
    """Write ``result.json``; its times are those of training with its evaluations, summed over its interruptions."""
    end = read_lines(folder / "metrics.jsonl")[-1]
    spent = {"wall_s": end["wall_s"], "cpu_s": end["cpu_s"], "steps": recipe.steps, "processes": processes()}
    spent["peak_mb"] = peak_memory() / 1e6
    rate = recipe.batch_size * recipe.steps / max(end["wall_s"], 0.01)
    result = {**found, "baselines": data.baselines, "spent": spent, "sequences_per_s": rate}
    if table:
        result["confusion"] = table
    result["selected_by"] = f"best val {'bits' if 'bits' in found else 'accuracy'}, seen {best}"
    atomic_write(folder / "result.json", json.dumps(result, indent=2) + "\n")


def describe(recipe: Recipe, model: nn.Module, data: TaskData) -> dict[str, Any]:
    """What a reader needs to repeat the run."""
    special = sum(p.numel() for p in model.parameters() if hasattr(p, "_optim"))
    return {
        "recipe": recipe.as_dict(),
        "data": {"origin": data.origin, "fingerprint": data.fingerprint, "sizes": _sizes(data), "score": data.score},
        "parameters": {"all": sum(p.numel() for p in model.parameters()), "with own learning rate": special},
        "versions": versions(),
        "hardware": machine() | {"processes": str(processes())},
    }


def _sizes(data: TaskData) -> dict[str, int]:
    return {split: len(dataset) for split, dataset in data.splits.items()}  # type: ignore[arg-type]
