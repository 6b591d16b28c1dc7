"""The demonstration: from nothing to a trained, saved, reloaded and reported model on small ListOps.

It ends with an error if the S4-type model does not pass ``THRESHOLD``: guessing from the root operator reaches about
25 %, and so does a model that mixes nothing.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import Dataset
from transformers import AutoModelForSequenceClassification

from seqconv_kernels.errors import refusal

from .recipes import create_recipe
from .report import read_run, write_report
from .run import Result, run
from .tasks import Row, TaskData, create_task

TASK = "listops-small"
MIXERS = ("s4d", "hyena")
THRESHOLD = 0.33


def run_demo(folder: Path, data_root: Path | None = None, *, steps: int | None = None, quiet: bool = False) -> None:
    """Generate, train two mixers, reload, compare, report.

    Args:
        folder: for everything; what an earlier demonstration left there is replaced.
        data_root: of the prepared data.
        steps: of each training, instead of the recipe's.
        quiet: no progress bars.

    Raises:
        ValueError: a reloaded model answers otherwise, or the S4-type model does not pass the threshold.
    """
    torch.set_num_threads(1)  # a second thread costs these small models more than it brings
    results = {}
    for mixer in MIXERS:
        recipe = create_recipe(TASK, mixer)
        if steps is not None:
            recipe = recipe.override({"steps": steps, "warmup_steps": steps // 6, "eval_every": max(1, steps // 2)})
        shutil.rmtree(folder / mixer, ignore_errors=True)
        results[mixer] = run(recipe, folder / mixer, data_root=data_root, quiet=quiet)
        check_reload(results[mixer], create_task(TASK).load(data_root))
        print(f"{mixer}: {folder / mixer / 'best'} reloaded, same logits")
    Console().print(accuracy_table(results))
    notes = ["20,000 expressions of 17 to 95 tokens; each model is a few minutes' work on two processor cores."]
    page = write_report([read_run(result.folder) for result in results.values()], folder, "Small ListOps", notes)
    print(f"report: {page}")
    judge(results[MIXERS[0]].accuracy["val"])


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
        raise refusal("reload", f"logits that differ by {difference:.2e}", "the same logits", remedy)


def accuracy_table(results: Mapping[str, Result]) -> Table:
    """Accuracies of the guessers, then of the models."""
    table = Table("", "validation", "test", title=f"{TASK}: accuracy")
    baselines = next(iter(results.values())).baselines
    rows = {name: [baselines[split][name] for split in ("val", "test")] for name in baselines["val"]}
    rows |= {mixer: [result.accuracy[split] for split in ("val", "test")] for mixer, result in results.items()}
    for name, values in rows.items():
        table.add_row(name, *(f"{100 * value:.1f} %" for value in values))
    return table


def judge(accuracy: float) -> None:
    """Refuse an accuracy that a model without working convolutions reaches too.

    Raises:
        ValueError: at or below the threshold.
    """
    if accuracy <= THRESHOLD:
        wanted = f"more than {100 * THRESHOLD:.0f} %"
        remedy = "run the tests: the convolution, its kernel or the optimiser groups are broken"
        raise refusal(f"demo with {MIXERS[0]}", f"{100 * accuracy:.1f} % on validation", wanted, remedy)
