"""The cost of the data of a training step next to the step: rows drawn or read, tokenised, padded, against one pass.

A step is forward, backward and AdamW of the task's S4D recipe: whole for companions and small ListOps, otherwise cut to
one layer and a few sequences (which makes it cheaper than it is: the recipes have six to eight layers). Public texts
and pictures are replaced by random ones of their usual lengths; synthetic tasks have all their rows. Nothing of a row
is kept between batches. Times are CPU seconds, so that a busy machine disturbs them little.
"""

import pickle
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from lra.models.build import build_model, parameter_groups
from lra.recipes.catalog import create_recipe
from lra.tasks import TASKS, TaskData, create_task
from lra.tasks.retrieval import FILES
from lra.tasks.synthetic.base import Online

ROWS = 64
"""Rows of each split."""
BATCHES = {"pathfinder64": 2, "pathx": 1, "retrieval": 2}
"""Sequences of a step where it is cut; otherwise 4."""


def measure(seconds: float) -> list[dict[str, object]]:
    """One row per task but Path-256: CPU milliseconds of loading a batch and of a training step on it."""
    with TemporaryDirectory() as folder:
        return [compare(task, Path(folder), seconds) for task in TASKS if task != "path256"]


def compare(task: str, folder: Path, seconds: float) -> dict[str, Any]:
    """The row of a task: what was trained, and milliseconds of loading a batch and of a training step."""
    data = prepare(task, folder)
    recipe = create_recipe(task, "s4d")
    whole = isinstance(create_task(task), Online) or task.endswith("-small")
    if not whole:
        recipe = recipe.override({"n_layers": 1, "batch_size": BATCHES.get(task, 4)})
    torch.manual_seed(0)
    model = build_model(recipe, data).train()
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe), lr=recipe.lr)
    order = np.random.default_rng(0)
    rows: Any = data.splits["train"]

    def load() -> dict[str, torch.Tensor]:
        return data.collate([rows[int(index)] for index in order.integers(0, len(rows), recipe.batch_size)])

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(**inputs).loss.backward()
        optimizer.step()

    inputs = load()
    step()
    ms = {"seqconv": cpu_ms(load, max(seconds / 4, 0.05)), "training step": cpu_ms(step, seconds)}
    layers = f"{recipe.n_layers} layer{'s' * (recipe.n_layers > 1)} of {recipe.d_model}"
    shape = f"{recipe.batch_size} × {data.max_length} at most, {layers}"
    return {"shape": shape, "direction": task, "ms": ms}


def cpu_ms(work: Callable[[], object], seconds: float) -> float:
    """Median CPU time of as many calls as take ``seconds`` together, in milliseconds."""
    times: list[float] = []
    while not times or sum(times) < seconds:
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return 1000 * median(times)


def prepare(task: str, folder: Path) -> TaskData:
    """A little data of the task."""
    options: dict[str, Any] = {}
    make = {"text": make_texts, "retrieval": make_pairs, "image": make_pictures}.get(task)
    if make is not None:
        make(folder / "source" / task)
        options["source"] = str(folder / "source" / task)
    elif task.startswith("path"):
        options |= {"images": ROWS - ROWS % 10, "difficulty": "curv_baseline"}
    elif not isinstance(create_task(task), Online):
        options |= {"train": ROWS, "val": ROWS, "test": ROWS}
    made = create_task(task, options)
    made.prepare(folder, workers=1, quiet=True)
    return made.load(folder)


def text(stream: random.Random, length: int) -> str:
    """Words of random letters."""
    return "".join(stream.choices("etaoinshrdlucmfw ,.", k=length))


def make_texts(folder: Path) -> None:
    """Reviews of 200 to 6,000 characters."""
    stream = random.Random(0)
    for split in ("train", "test"):
        for index in range(ROWS):
            path = folder / split / ("neg", "pos")[index % 2] / f"{index}_7.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text(stream, stream.randint(200, 6000)))


def make_pairs(folder: Path) -> None:
    """Papers of 4,000 characters and more."""
    folder.mkdir(parents=True)
    stream = random.Random(0)
    for name in FILES.values():
        lines = (f"{i % 2}.0\ta\tb\t{text(stream, 5000)}\t{text(stream, 5000)}\n" for i in range(ROWS))
        (folder / name).write_text("".join(lines))


def make_pictures(folder: Path) -> None:
    """Batches of random pictures in the original pickles."""
    folder.mkdir(parents=True)
    colours = np.random.default_rng(0).integers(0, 256, (ROWS, 3072)).astype(np.uint8)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        content = {b"data": colours, b"labels": [index % 10 for index in range(ROWS)]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
