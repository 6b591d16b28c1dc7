"""``python -m lra``: list, show, prepare, run, sweep, resume, evaluate, report, demo, small."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from seqconv_kernels._core.errors import argument_error

from .options import split_overrides
from .tasks import TASKS, create_task

if TYPE_CHECKING:
    from .training.run import Paused, Result


def _silence(quiet: bool) -> bool:
    """Switch off transformers' own progress bars (of files and batches) too."""
    if quiet:
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
    return quiet


app = typer.Typer(no_args_is_help=True, add_completion=False, help="Long Range Arena: data, training, reports.")
Data = Annotated[Path | None, typer.Option("--data", help="Folder of prepared data (default: $LRA_DATA or the cache).")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder to write to.")]
Quiet = Annotated[bool, typer.Option("--quiet", callback=_silence, help="No progress bars.")]
Pause = Annotated[str | None, typer.Option(help="Stop at a checkpoint after a time such as 8h, to be resumed.")]
Track = Annotated[list[str] | None, typer.Option(help="Tracker of transformers, such as tensorboard.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="name=value, mixer.<option>=value, task.<option>=value")]


@app.command("list")
def list_command() -> None:
    """Show the tasks and the recipes of each."""
    from .recipes.catalog import list_recipes

    tasks = Table("task", "content")
    for name in TASKS:
        tasks.add_row(name, create_task(name).summary)
    Console().print(tasks)
    table = Table("task", "mixer", "depth × width", "steps", "source")
    for recipe in list_recipes():
        size = f"{recipe.n_layers} × {recipe.d_model}"
        table.add_row(recipe.task, recipe.mixer, size, f"{recipe.steps:,}", recipe.source)
    Console().print(table)


@app.command()
def show(task: str, mixer: str, overrides: Overrides = None) -> None:
    """Show a recipe: every value that can be overridden, and its type."""
    from .recipes.catalog import create_recipe, differences

    recipe = create_recipe(task, mixer).override(split_overrides(overrides or []))
    table = Table("override", "value", "type", title=f"{recipe.name}: {recipe.source}")
    for name, (value, kind) in recipe.overridable().items():
        table.add_row(name, escape(str(value)), escape(kind))
    Console().print(table)
    for name, reason in differences(create_recipe(task, mixer)).items():
        Console().print(f"differs from its source: {escape(name)}: {escape(reason)}", highlight=False)


@app.command()
def prepare(
    task: Annotated[str, typer.Argument(help=f"One of {', '.join(TASKS)}.")],
    options: Annotated[list[str] | None, typer.Argument(help="Options of the task, name=value.")] = None,
    data: Data = None,
    workers: Annotated[int | None, typer.Option(help="Processes (default: the cores at hand).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Make the data again, also where it is damaged.")] = False,
    quiet: Quiet = False,
) -> None:
    """Make a task's data, or verify the data that exists."""
    made = create_task(task, split_overrides(options or []))
    manifest = made.prepare(data, workers=workers, force=force, quiet=quiet)
    sizes = ", ".join(f"{split} {size:,}" for split, size in manifest.sizes.items())
    print(f"{made.folder(data)}: {sizes}; fingerprint {manifest.fingerprint}")


@app.command("run")
def run_command(
    task: str,
    mixer: str,
    overrides: Overrides = None,
    data: Data = None,
    out: Out = None,
    budget: Annotated[str | None, typer.Option(help="Scale the steps to a time such as 10m.")] = None,
    pause: Pause = None,
    track: Track = None,
    quiet: Quiet = False,
) -> None:
    """Prepare the data, train, evaluate, and write everything into one folder."""
    from .recipes.catalog import create_recipe
    from .training.budget import parse_budget, scaled
    from .training.distributed import is_first
    from .training.run import run_for

    recipe = create_recipe(task, mixer).override(split_overrides(overrides or []))
    if budget is not None:
        recipe = scaled(recipe, parse_budget(budget), data, quiet=quiet)
        if is_first():
            print(f"{recipe.steps:,} steps: {recipe.source}")
    folder = out or Path("runs") / f"{task}-{mixer}-{recipe.seed}"
    _print_result(run_for(recipe, folder, _seconds(pause), data_root=data, quiet=quiet, track=track or ()))


@app.command()
def resume(folder: Path, data: Data = None, pause: Pause = None, track: Track = None, quiet: Quiet = False) -> None:
    """Continue an unfinished run from its last checkpoint."""
    from .training.run import read_recipe, run_for

    recipe = read_recipe(folder)
    _print_result(run_for(recipe, folder, _seconds(pause), data_root=data, resume=True, quiet=quiet, track=track or ()))


@app.command()
def evaluate(
    folder: Path,
    split: Annotated[str, typer.Option(help="val or test")] = "test",
    checkpoint: Annotated[str, typer.Option(help="best or last")] = "best",
    override: Annotated[list[str] | None, typer.Option(help="Other data: task.<option>=value, such as length.")] = None,
    data: Data = None,
    quiet: Quiet = False,
) -> None:
    """Measure a run's checkpoint again, on the whole split; with --override on other data, such as longer rows."""
    from .training.evaluation import evaluate_metrics

    changes = split_overrides(override or [])
    found = evaluate_metrics(folder, split, checkpoint, overrides=changes, data_root=data, quiet=quiet)
    print(f"{split}: {100 * found['accuracy']:.2f} %{_language(found)}")


@app.command()
def sweep(
    task: str,
    mixer: str,
    settings: Annotated[list[str] | None, typer.Argument(help="name=value,value ... and seeds=N")] = None,
    jobs: Annotated[int, typer.Option(help="Processes, one thread each.")] = 1,
    out: Out = None,
    data: Data = None,
    quiet: Quiet = False,
) -> None:
    """Train every combination of values, from several seeds; resumes where it stopped, and reports all runs."""
    from .recipes.catalog import create_recipe
    from .report.page import write_report
    from .report.runs import find_runs
    from .report.tables import accuracy_table
    from .training.sweep import run_trials, trials

    chosen = trials(create_recipe(task, mixer), split_overrides(settings or []))
    folder, failed = out or Path("runs") / f"sweep-{task}-{mixer}", 0
    for number, (trial, error) in enumerate(run_trials(chosen, folder, data_root=data, jobs=jobs, quiet=quiet), 1):
        failed += error is not None
        print(f"{number} of {len(chosen)}: {trial.folder}{f': {error}' if error else ''}", flush=True)
    if failed == len(chosen):
        raise argument_error("sweep", "no training that finished", "at least one", "see the errors above")
    runs = find_runs(folder)
    table = Table(*accuracy_table(runs)[0])
    for row in accuracy_table(runs)[1:]:
        table.add_row(*map(escape, row))
    Console().print(table)
    print(write_report(runs, folder))


@app.command()
def report(
    runs: Annotated[Path, typer.Argument(help="Folder with runs below it.")] = Path("runs"), out: Out = None
) -> None:
    """Write report.html and report.md over all runs below a folder."""
    from .report.page import write_report
    from .report.runs import find_runs

    print(write_report(find_runs(runs), out or runs))


@app.command()
def demo(out: Out = None, data: Data = None, quiet: Quiet = False) -> None:
    """Small ListOps from nothing to a report: two mixers, a few minutes on two cores."""
    from .demo import run_demo

    run_demo(out or Path("runs") / "demo", data, quiet=quiet)


@app.command()
def small(
    out: Out = None,
    data: Data = None,
    workers: Annotated[int, typer.Option(help="Processes, one thread each.")] = 2,
    seeds: Annotated[int, typer.Option(help="Trainings of every model.")] = 1,
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be repeated.")] = None,
    mixer: Annotated[list[str] | None, typer.Option(help="Only this mixer; may be repeated.")] = None,
    results: Annotated[Path | None, typer.Option(help="Folder for the results (default: that of the runs).")] = None,
    page: Annotated[Path | None, typer.Option(help="Page with the marks that the tables go between.")] = None,
    collect: Annotated[bool, typer.Option("--collect", help="Run nothing; collect the finished runs.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Two steps of tiny models: does everything work?")] = False,
    quiet: Quiet = False,
) -> None:
    """The reduced protocol: fourteen mixers on five tasks, and negative controls; resumes where it stopped."""
    from .controls.cells import MIXERS, cells
    from .controls.cells import TASKS as SMALL_TASKS
    from .controls.results import write_results
    from .controls.runner import run_cells

    chosen, folder = cells(task or tuple(SMALL_TASKS), mixer or MIXERS, seeds), out or Path("runs") / "small"
    if not collect:
        ended = run_cells(chosen, folder, data_root=data, workers=workers, quick=quick, quiet=quiet)
        for number, (cell, error) in enumerate(ended, 1):
            print(f"{number} of {len(chosen)}: {cell.folder}{f': {error}' if error else ''}", flush=True)
    print(write_results(chosen, folder, results or folder, page, data))


def _seconds(pause: str | None) -> float | None:
    from .training.budget import parse_budget

    return None if pause is None else parse_budget(pause, "--pause")


def _print_result(done: "Result | Paused") -> None:
    from .training.distributed import is_first
    from .training.run import Paused

    if not is_first():
        return
    if isinstance(done, Paused):
        print(f"paused at step {done.step:,} of {done.steps:,}; continue with 'python -m lra resume {done.folder}'")
        return
    for split, accuracy in done.accuracy.items():
        baselines = ", ".join(f"{name} {100 * value:.1f} %" for name, value in done.baselines.get(split, {}).items())
        language = _language({name: by_split[split] for name, by_split in done.language.items()})
        print(f"{split}: {100 * accuracy:.2f} %{language}  ({baselines})")
    print(done.folder)


def _language(found: Mapping[str, float]) -> str:
    """Bits and perplexity of a language model, after the share of right tokens."""
    return f", {found['bits']:.4f} bits a token, perplexity {found['perplexity']:.4g}" if "bits" in found else ""


def main() -> None:
    """Entry point; errors in the input are printed without a traceback."""
    try:
        app()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit:
        if "WORLD_SIZE" in os.environ:
            from .training.distributed import leave_process_group

            leave_process_group()
        raise
