"""The tables of a report over runs: accuracy, published results, cost, provenance."""

from collections.abc import Sequence

from ..recipes.catalog import create_recipe, differences
from .markup import Table
from .published_results import published_for
from .runs import Run, task_baselines, unique_names


def accuracy_table(runs: Sequence[Run]) -> Table:
    """Baselines, then one row per run, with what it may be compared with."""
    table = [["model", "validation", "test", "kind"]]
    for name in task_baselines(runs):
        values = (task_baselines(runs, split).get(name) for split in ("val", "test"))
        table.append([name, *map(percent, values), "baseline"])
    for name, run in zip(unique_names(runs), runs, strict=True):
        found = run.result["accuracy"] if run.result is not None else {}
        kind = run.kind if run.result is not None else f"{run.kind}; unfinished"
        table.append([name, percent(found.get("val")), percent(found.get("test")), kind])
    return table


def published_table(task: str, runs: Sequence[Run]) -> Table:
    """What papers report for the mixers of the runs."""
    rows = [row for run in runs for row in published_for(run.recipe["mixer"], task)]
    return [
        ["model", "test", "source"],
        *([model, f"{value:.2f} %", source] for model, value, source in dict.fromkeys(rows)),
    ]


def differences_table(runs: Sequence[Run]) -> Table:
    """In what the recipes of the runs depart from the sources that they name, and why."""
    table = [["recipe", "what", "difference"]]
    for task, mixer in dict.fromkeys((run.recipe["task"], run.recipe["mixer"]) for run in runs):
        table += [[f"{task}/{mixer}", name, reason] for name, reason in differences(create_recipe(task, mixer)).items()]
    return table


def cost_table(runs: Sequence[Run]) -> Table:
    """Size, steps and time of every finished run."""
    table = [["model", "parameters", "steps", "wall-clock s", "CPU s", "sequences per s"]]
    for name, run in zip(unique_names(runs), runs, strict=True):
        if run.result is not None:
            spent = run.result["spent"]
            seconds = [f"{spent[key]:.0f}" for key in ("wall_s", "cpu_s")]
            size = f"{run.about['parameters']['all']:,}"
            rate = f"{run.result['sequences_per_s']:.1f}"
            table.append([name, size, str(spent["steps"]), *seconds, rate])
    return table


def provenance_table(runs: Sequence[Run]) -> Table:
    """One column per run: source of the recipe, seed, data, hardware, versions."""
    columns = []
    for run in runs:
        data, hardware = run.about["data"], run.about["hardware"]
        versions = {name: version for name, version in run.about["versions"].items() if version[:1].isdigit()}
        columns.append(
            {
                "task, mixer": f"{run.recipe['task']}, {run.recipe['mixer']}",
                "recipe": run.recipe["source"],
                "seed": str(run.recipe["seed"]),
                "data": f"{data['origin']}; {data['fingerprint'][:12]}",
                **{name: hardware[name] for name in ("python", "CPU", "threads", "accelerator") if name in hardware},
                "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
            }
        )
    names = dict.fromkeys(name for column in columns for name in column)
    return [["", *(run.folder.name for run in runs)], *([n, *(c.get(n, "-") for c in columns)] for n in names)]


def percent(value: float | None) -> str:
    """An accuracy in [0, 1] with one decimal."""
    return "-" if value is None else f"{100 * value:.1f} %"
