"""The tables of a report over runs: accuracy, published results, cost, provenance."""

from collections.abc import Sequence

from ..recipes.catalog import create_recipe, differences
from .markup import Table
from .published_results import ROWS, TASKS, published_for
from .runs import Run, task_baselines, unique_names
from .statistics import LEVEL, Group, groups


def accuracy_table(runs: Sequence[Run]) -> Table:
    """Baselines, then one row per model and setting: several seeds as mean ± standard deviation (number)."""
    table = [["model", "validation", "test", f"{100 * LEVEL:.0f} % interval of test", "kind"]]
    for name in task_baselines(runs):
        values = (task_baselines(runs, split).get(name) for split in ("val", "test"))
        table.append([name, *map(percent, values), "", "baseline"])
    for group in groups(runs):
        unfinished = len(group.runs) - len(group.finished)
        kind = f"{group.first.kind}; {unfinished} unfinished" if unfinished else group.first.kind
        kind += f"; {group.repeated} more of the same seeds left out" if group.repeated else ""
        bounds = group.interval()
        interval = "-" if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f} %"
        table.append([group.first.model, spread(group, "val"), spread(group, "test"), interval, kind])
    return table


def language_table(runs: Sequence[Run]) -> Table:
    """Bits of a token and its perplexity, of the language models among the runs: seeds as in the accuracy table."""
    table = [["model", "validation bits", "test bits", "validation perplexity", "test perplexity", "kind"]]
    for group in groups(runs):
        if group.mean("test", "bits") is not None:
            forms, splits = {"bits": ".4f", "perplexity": ".4g"}, ("val", "test")
            cells = [_measured(group, split, metric, form) for metric, form in forms.items() for split in splits]
            table.append([group.first.model, *cells, group.first.kind])
    return table


def _measured(group: Group, split: str, metric: str, form: str) -> str:
    mean, deviation = group.mean(split, metric), group.deviation(split, metric)
    if deviation is None:
        return f"{mean:{form}}"
    return f"{mean:{form}} ± {deviation:{form}} ({len(group.values(split, metric))})"


def six_task_table(runs: Sequence[Run]) -> Table:
    """Test accuracies on the six tasks and their average, as papers print them; published rows of the same mixers last.

    The average is that of all six tasks; a published failure counts as 50 %, as the S4 paper counts it.
    """
    table = [["model", *TASKS, "average", "kind"]]
    models: dict[tuple[str, str], dict[str, Group]] = {}
    more: dict[tuple[str, str], list[str]] = {}
    for group in groups([run for run in runs if run.recipe["task"] in TASKS]):
        size, task = group.first.kind.partition(" ")[0].rstrip(","), group.first.recipe["task"]
        found = models.setdefault((group.first.model, size), {})
        if task in found:
            more.setdefault((group.first.model, size), []).append(task)
        found.setdefault(task, group)
    for (model, size), found in models.items():
        means = [found[task].mean() if task in found else None for task in TASKS]
        known = [mean for mean in means if mean is not None]
        average = percent(sum(known) / len(TASKS)) if len(known) == len(TASKS) else "-"
        others = ", ".join(dict.fromkeys(more.get((model, size), ())))
        kind = f"{size}; the first of several settings of {others}" if others else size
        table.append([model, *(spread(found[t], "test") if t in found else "-" for t in TASKS), average, kind])
    mixers = {run.recipe["mixer"] for run in runs if run.recipe["task"] in TASKS}
    for row in ROWS if len(table) > 1 else ():
        if mixers & set(row.mixers):
            values = [50.0 if value is None else value for value in row.accuracies]
            cells = ["-" if value is None else f"{value:.2f} %" for value in row.accuracies]
            table.append([row.model, *cells, f"{sum(values) / len(values):.2f} %", f"published: {row.source}"])
    return table


def run_table(runs: Sequence[Run]) -> Table:
    """One row per run, with numbers as they are, for other programs."""
    costs = ("steps", "wall_s", "cpu_s", "peak_mb")
    language = [(metric, split) for metric in ("bits", "perplexity") for split in ("val", "test")]
    names = [f"{metric}_{split}" for metric, split in language]
    table = [
        ["folder", "task", "model", "seed", "kind", "val", "test", "parameters", *costs, "sequences_per_s", *names]
    ]
    for run in runs:
        result = run.result or {"accuracy": {}, "spent": {}}
        accuracy, spent = (result[key] for key in ("accuracy", "spent"))
        row = [run.folder.name, run.recipe["task"], run.model, run.recipe["seed"], run.kind]
        row += [accuracy.get("val", ""), accuracy.get("test", ""), run.about["parameters"]["all"]]
        row += [*(spent.get(key, "") for key in costs), result.get("sequences_per_s", "")]
        row += [result.get(metric, {}).get(split, "") for metric, split in language]
        table.append([str(cell) for cell in row])
    return table


def spread(group: Group, split: str) -> str:
    """The mean accuracy, with standard deviation and number where there are several seeds."""
    mean, deviation = group.mean(split), group.deviation(split)
    if mean is None or deviation is None:
        return percent(mean)
    return f"{100 * mean:.1f} ± {100 * deviation:.1f} % ({len(group.values(split))})"


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
    known = [run for run in runs if "recipe" not in run.overrides()]
    for task, mixer in dict.fromkeys((run.recipe["task"], run.recipe["mixer"]) for run in known):
        table += [[f"{task}/{mixer}", name, reason] for name, reason in differences(create_recipe(task, mixer)).items()]
    return table


def cost_table(runs: Sequence[Run]) -> Table:
    """Size, steps and time of every finished run."""
    table = [["model", "parameters", "steps", "wall-clock s", "CPU s", "sequences per s", "peak memory, MB"]]
    for name, run in zip(unique_names(runs), runs, strict=True):
        if run.result is not None:
            spent = run.result["spent"]
            seconds = [f"{spent[key]:.0f}" for key in ("wall_s", "cpu_s")]
            size = f"{run.about['parameters']['all']:,}"
            peak = f"{spent['peak_mb']:.0f}" if "peak_mb" in spent else "-"
            rate = f"{run.result['sequences_per_s']:.1f}"
            table.append([name, size, str(spent["steps"]), *seconds, rate, peak])
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
