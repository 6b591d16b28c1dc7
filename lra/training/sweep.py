"""Sweeps: every combination of some values of a recipe, several seeds each, every training a run folder of its own.

A sweep may be killed at any time and started again by the same command. A training that fails, for example because it
diverges, is named and does not end the others.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from seqconv_kernels._core.errors import argument_error

from ..data.parallel import in_order
from ..options import convert
from ..recipes.recipe import Recipe
from ..tasks import create_task
from .grid import end_with_parent, finish_or_record

SEEDS = "seeds"
"""The name among a sweep's settings that says how many seeds every combination trains from."""


@dataclass(frozen=True)
class Trial:
    """One training of a sweep.

    Attributes:
        setting: values by name that the sweep varies, without the seed.
        recipe: what is trained.
        folder: its run folder, inside the sweep's.
    """

    setting: Mapping[str, str]
    recipe: Recipe
    folder: str


def trials(recipe: Recipe, settings: Mapping[str, str]) -> list[Trial]:
    """All trainings of a sweep, seed by seed.

    Args:
        recipe: of the task and mixer.
        settings: by override, values between commas; ``seeds`` says how many seeds, from the recipe's on.

    Raises:
        ValueError: unknown names or values of another type, before anything runs; the same training twice.
    """
    given = dict(settings)
    seeds = convert("sweep", SEEDS, given.pop(SEEDS, "1"), int)
    if seeds < 1:
        raise argument_error("sweep", f"seeds={seeds}", "at least 1", "correct the number")
    axes = {name: split_values(name, text) for name, text in given.items()}
    settings_of = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    found = [
        Trial(setting, changed, _folder(setting, changed.seed))
        for seed in range(recipe.seed, recipe.seed + seeds)
        for setting in settings_of
        for changed in (recipe.override({"seed": seed, **setting}),)
    ]
    for number, trial in enumerate(found):
        twin = next((t for t in found[:number] if t.recipe == trial.recipe or t.folder == trial.folder), None)
        if twin is not None:
            got = f"the same training, or the folder {trial.folder}, for {dict(twin.setting)} and {dict(trial.setting)}"
            remedy = "write each value once; give either seed or seeds"
            raise argument_error("sweep", got, "trainings that differ", remedy)
    return found


def split_values(name: str, text: str) -> list[str]:
    """``"0.1,0.2"`` as a list; JSON lists and dictionaries are one value.

    Raises:
        ValueError: an empty value, or one that is given twice.
    """
    values = [text] if text.startswith(("[", "{")) else text.split(",")
    if "" in values or len(set(values)) < len(values):
        raise argument_error("sweep", f"{name}={text}", "different values between commas", "correct the values")
    return values


def run_trials(
    chosen: Sequence[Trial], folder: Path, *, data_root: Path | None = None, jobs: int = 1, quiet: bool = False
) -> Iterator[tuple[Trial, str | None]]:
    """Run what is not finished yet, ``jobs`` at a time; each trial with its error, if it ended with one.

    Raises:
        ValueError: the data cannot be prepared.
    """
    tasks = {str(trial.recipe.task_options): trial.recipe for trial in chosen}
    for recipe in tasks.values():
        create_task(recipe.task, recipe.task_options).prepare(data_root, workers=jobs, quiet=quiet)
    yield from in_order(_run_trial, ((trial, folder, data_root) for trial in chosen), jobs)


def _run_trial(trial: Trial, folder: Path, data_root: Path | None) -> tuple[Trial, str | None]:
    end_with_parent()
    return trial, finish_or_record(trial.recipe, folder / trial.folder, data_root)


def _folder(setting: Mapping[str, Any], seed: int) -> str:
    parts = (re.sub(r"[^\w.=-]+", "-", f"{name}={value}") for name, value in setting.items())
    return f"{','.join(parts) or 'recipe'}/seed-{seed}"
