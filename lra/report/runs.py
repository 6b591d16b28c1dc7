"""Run folders read back: recipe, metrics, result, and what a run's numbers may be compared with."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqconv_kernels._core.errors import argument_error

from ..data.store import read_json
from ..recipes.catalog import create_recipe
from ..recipes.recipe import GROUPS
from ..training.metrics import read_lines

_IDENTITY = frozenset(("name", "task", "mixer", *(f"{g}_options" for g in GROUPS), "seed", "source", "reduced"))
"""Fields that are no override of a training setting; the options are compared one by one."""
_SAME_DATA = frozenset(("seed", "source"))
"""Options of a task that choose among equivalent data sets; original and generated data are told apart elsewhere."""


@dataclass(frozen=True)
class Run:
    """A run's folder, read.

    Attributes:
        about: ``run.json``.
        lines: ``metrics.jsonl``.
        result: ``result.json``; ``None`` while unfinished.
    """

    folder: Path
    about: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    result: Mapping[str, Any] | None

    @property
    def recipe(self) -> Mapping[str, Any]:
        """Fields of the recipe."""
        return self.about["recipe"]  # type: ignore[no-any-return]

    @property
    def model(self) -> str:
        """The mixer, and the negative control if there is one: the recipe's name after its task."""
        return str(self.recipe["name"].partition("/")[2])

    @property
    def kind(self) -> str:
        """What it may be compared with: ``full``, ``changed (name=value, ...)`` or ``reduced``, and the data."""
        changed = ", ".join(f"{name}={value}" for name, value in self.overrides().items())
        size = "reduced" if self.recipe["reduced"] else "changed" if changed else "full"
        values = f" ({changed})" if changed else ""
        data = "regenerated data" if "generated" in self.about["data"]["origin"] else "original data"
        return f"{size}{values}, {data}"

    def overrides(self) -> dict[str, Any]:
        """Every value that differs from the recipe of this name, but for the seed: no run that has one is full."""
        used = self.recipe
        try:
            own = create_recipe(used["task"], used["mixer"]).as_dict()
        except ValueError:
            return {"recipe": "unknown to this version"}
        unknown = {name: used[name] for name in used if name not in own}
        found = unknown | {
            name: used[name] for name in own if name not in _IDENTITY and used.get(name, own[name]) != own[name]
        }
        for prefix in GROUPS:
            options, now = own[f"{prefix}_options"], used.get(f"{prefix}_options", {})
            ignored = _SAME_DATA if prefix == "task" else frozenset[str]()
            for name in sorted((options.keys() | now.keys()) - ignored):
                if options.get(name) != now.get(name):
                    found[f"{prefix}.{name}"] = now.get(name, "default")
        return found


def read_run(folder: Path) -> Run:
    """Read a run's folder.

    Raises:
        ValueError: it holds no run, or a damaged file.
    """
    about = read_json("report", folder / "run.json", "start one with 'python -m lra run'")
    lines = read_lines(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
    path, remedy = folder / "result.json", "evaluate the run again with 'python -m lra resume'"
    return Run(folder, about, lines, read_json("report", path, remedy) if path.exists() else None)


def find_runs(root: Path) -> list[Run]:
    """All runs below a folder, in the order of their names.

    Raises:
        ValueError: none there.
    """
    runs = [read_run(path.parent) for path in sorted(root.glob("**/run.json"))]
    if not runs:
        raise argument_error("report", f"no run below {root}", "at least one", "start one with 'python -m lra run'")
    return runs


def unique_names(runs: Sequence[Run]) -> list[str]:
    """The models, with seed and folder where needed to distinguish them, so that no figure replaces another."""
    seeded = [f"{run.model}, seed {run.recipe['seed']}" for run in runs]
    models, alike = Counter(run.model for run in runs), Counter(seeded)
    return [
        run.model if models[run.model] == 1 else name if alike[name] == 1 else f"{name}, {run.folder.name}"
        for name, run in zip(seeded, runs, strict=True)
    ]


def task_baselines(runs: Sequence[Run], split: str = "val") -> Mapping[str, float]:
    """Accuracies of the baselines on a split, from the first finished run."""
    finished = [run.result for run in runs if run.result is not None]
    return finished[0]["baselines"].get(split, {}) if finished else {}
