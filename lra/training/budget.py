"""Scaling a recipe to a wall-clock budget: measure some steps, keep the share of warm-up and of evaluations."""

import re
import time
from dataclasses import replace
from pathlib import Path

from torch.utils.data import DataLoader

from seqconv_kernels._core.errors import argument_error

from ..models.build import build_model
from ..recipes.recipe import Recipe
from ..tasks import create_task
from .distributed import agree, join_process_group, processes

PROBE_STEPS = 5
SHARE = 0.9
"""Of the budget that training may take; evaluating takes the rest."""
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_budget(text: str, option: str = "--budget") -> float:
    """Seconds of ``90s``, ``10m`` or ``1.5h``, given for an option of the command line.

    Raises:
        ValueError: written otherwise, or no time at all.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None or float(match[1]) == 0:
        raise argument_error(option, repr(text), "a time such as 90s, 10m or 1.5h", "correct the time")
    return float(match[1]) * UNITS[match[2]]


def scaled(recipe: Recipe, seconds: float, data_root: Path | None, *, quiet: bool = False) -> Recipe:
    """The recipe fitted to a budget by timing some steps; the same in all processes.

    Raises:
        ValueError: as :func:`fit`.
    """
    joined = join_process_group()
    with joined.main_process_first():
        create_task(recipe.task, recipe.task_options).prepare(data_root, quiet=quiet)
    return fit(recipe, seconds, agree(seconds_per_step(recipe, data_root)))


def seconds_per_step(recipe: Recipe, data_root: Path | None) -> float:
    """Wall-clock time of the passes over this process's share of a batch, the first step left out."""
    task = create_task(recipe.task, recipe.task_options)
    task.prepare(data_root, quiet=True)
    data = task.load(data_root)
    model = build_model(recipe, data)
    rows = max(1, recipe.batch_size // (recipe.accumulate * processes()))
    batches = iter(DataLoader(data.splits["train"], rows, collate_fn=data.collate))
    times = []
    for _, batch in zip(range(PROBE_STEPS + 1), batches, strict=False):
        started = time.monotonic()
        model(**batch).loss.backward()
        times.append(time.monotonic() - started)
    return recipe.accumulate * sum(times[1:] or times) / len(times[1:] or times)


def fit(recipe: Recipe, seconds: float, per_step: float) -> Recipe:
    """The recipe with as many steps as fit, at most its own; it counts as reduced, and its source says so.

    Args:
        recipe: the full one.
        seconds: the budget.
        per_step: measured time of a step, in seconds.

    Raises:
        ValueError: not even two steps fit.
    """
    steps = min(recipe.steps, int(SHARE * seconds / per_step))
    if steps < 2:
        got = f"{seconds:.0f} s for steps of {per_step:.1f} s"
        raise argument_error("--budget", got, "time for two steps at least", "give more time, or a smaller batch_size")
    if steps == recipe.steps:
        return recipe
    scale = steps / recipe.steps
    return replace(
        recipe,
        steps=steps,
        warmup_steps=max(1, round(recipe.warmup_steps * scale)),
        eval_every=max(1, min(recipe.eval_every, steps // 4)),
        reduced=True,
        source=f"{recipe.source}; {recipe.steps:,} steps cut to {steps:,} by a budget of {seconds:.0f} s",
    )
