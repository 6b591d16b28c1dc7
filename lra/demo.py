"""The demonstration: from nothing to a trained, saved, reloaded and reported model on small ListOps.

It ends with an error if the S4-type model does not pass ``THRESHOLD``: a guess from the root operator alone reaches
about 25 %, and so does a model without sequence mixing.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from torch.utils.data import Dataset
from transformers import AutoModelForSequenceClassification
from transformers.utils.logging import disable_progress_bar

from seqconv_kernels._core.errors import argument_error

from .data.parallel import in_order
from .recipes.catalog import create_recipe
from .report.page import write_report
from .report.runs import read_run
from .tasks import Row, TaskData, create_task
from .training.run import Result, run

TASK = "listops-small"
MIXERS = ("s4d", "hyena")
THRESHOLD = 0.33


@dataclass(frozen=True)
class Trained:
    """A model of the demonstration.

    Attributes:
        folder: of its run.
        accuracy, baselines: as :class:`~lra.training.run.Result`.
    """

    folder: Path
    accuracy: Mapping[str, float]
    baselines: Mapping[str, Mapping[str, float]]


def run_demo(folder: Path, data_root: Path | None = None, *, steps: int | None = None, quiet: bool = False) -> None:
    """Generate, train two mixers, reload, compare, report.

    Args:
        folder: for everything; files of an earlier demonstration are replaced.
        data_root: of the prepared data.
        steps: of each training, instead of the recipe's.
        quiet: no progress bars.

    Raises:
        ValueError: a reloaded model gives other logits, or the S4-type model does not pass the threshold.
    """
    create_task(TASK).prepare(data_root, quiet=quiet)
    for mixer in MIXERS:
        shutil.rmtree(folder / mixer, ignore_errors=True)
    # A second thread hardly helps models this small; a second core trains the second model.
    workers = min(len(MIXERS), len(os.sched_getaffinity(0)))
    tasks = [(mixer, folder / mixer, data_root, steps, quiet or workers > 1) for mixer in MIXERS]
    with progress_of([folder / mixer for mixer in MIXERS], disable=quiet or workers == 1):
        results = dict(zip(MIXERS, in_order(train, tasks, workers), strict=True))
    for mixer, result in results.items():
        print(f"{mixer}: {result.folder / 'best'} reloaded, same logits")
    Console().print(accuracy_table(results))
    notes = ["20,000 expressions of 17 to 95 tokens; each model is a few minutes' work on one processor core."]
    page = write_report([read_run(result.folder) for result in results.values()], folder, "Small ListOps", notes)
    print(f"report: {page}")
    check_accuracy(results[MIXERS[0]].accuracy["val"])


def train(mixer: str, folder: Path, data_root: Path | None, steps: int | None, quiet: bool) -> Trained:
    """Train one mixer on one thread, and check that its checkpoint reloads to the same model.

    Raises:
        ValueError: a reloaded model gives other logits.
    """
    torch.set_num_threads(1)
    if quiet:
        disable_progress_bar()
    recipe = create_recipe(TASK, mixer)
    if steps is not None:
        recipe = recipe.override({"steps": steps, "warmup_steps": steps // 6, "eval_every": max(1, steps // 2)})
    result = run(recipe, folder, data_root=data_root, quiet=quiet)
    check_reload(result, create_task(TASK).load(data_root))
    return Trained(folder, result.accuracy, result.baselines)


@contextmanager
def progress_of(folders: Sequence[Path], *, disable: bool) -> Iterator[None]:
    """Progress bars of the runs in some folders, read from their logs while the block runs."""
    done = Event()
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[status]}"), disable=disable
    ) as bars:
        rows = [bars.add_task(folder.name, status="starting", total=None) for folder in folders]

        def watch() -> None:
            while not done.wait(1.0):
                for row, folder in zip(rows, folders, strict=True):
                    if (folder / "metrics.jsonl").exists():
                        seen = read_run(folder)
                        step, steps = max([0, *(line["step"] for line in seen.lines)]), seen.recipe["steps"]
                        bars.update(row, completed=step, total=steps, status=f"step {step} of {steps}")

        watcher = Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def check_reload(result: Result, data: TaskData) -> None:
    """Load the best checkpoint through ``AutoModelForSequenceClassification`` and compare its logits with the model's.

    Raises:
        ValueError: they differ.
    """
    rows: Dataset[Row] = data.splits["val"]
    batch = data.collate([rows[index] for index in range(64)])
    model = result.model.eval()
    reloaded = AutoModelForSequenceClassification.from_pretrained(result.folder / "best").to(model.device).eval()
    inputs = {name: value.to(model.device) for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        difference = (model(**inputs).logits - reloaded(**inputs).logits).abs().max().item()
    if difference != 0.0:
        remedy = "the checkpoint does not hold the whole model; report this"
        raise argument_error("reload", f"logits that differ by {difference:.2e}", "the same logits", remedy)


def accuracy_table(results: Mapping[str, Trained]) -> Table:
    """Accuracies of the baselines, then of the models."""
    table = Table("", "validation", "test", title=f"{TASK}: accuracy")
    baselines = next(iter(results.values())).baselines
    rows = {name: [baselines[split][name] for split in ("val", "test")] for name in baselines["val"]}
    rows |= {mixer: [result.accuracy[split] for split in ("val", "test")] for mixer, result in results.items()}
    for name, values in rows.items():
        table.add_row(name, *(f"{100 * value:.1f} %" for value in values))
    return table


def check_accuracy(accuracy: float) -> None:
    """Reject an accuracy that a model without working convolutions also reaches.

    Raises:
        ValueError: at or below the threshold.
    """
    if accuracy <= THRESHOLD:
        wanted = f"more than {100 * THRESHOLD:.0f} %"
        remedy = "run the tests: the convolution, its kernel or the optimiser groups are broken"
        raise argument_error(f"demo with {MIXERS[0]}", f"{100 * accuracy:.1f} % on validation", wanted, remedy)
