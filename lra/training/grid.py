"""Many runs by several processes: one thread each, every training a run folder of its own.

A finished run is not repeated, and one that was interrupted continues from its last checkpoint: the whole grid may be
killed at any time and started again by the same command.
"""

import os
import threading
from contextlib import redirect_stdout
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path

import torch
import transformers

from ..recipes.recipe import Recipe
from .run import run

_WATCHER = "end with parent"


def finish_run(recipe: Recipe, folder: Path, data_root: Path | None) -> None:
    """Start or resume a run on one thread and without output, unless it is finished.

    Raises:
        ValueError: the folder holds the run of another recipe; otherwise as :func:`~lra.training.run.run`.
    """
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    if not (folder / "result.json").exists():
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            run(recipe, folder, data_root=data_root, resume=(folder / "run.json").exists(), quiet=True)


def end_with_parent() -> None:
    """End this worker process when the process that started it dies, even by SIGKILL."""
    parent = parent_process()
    if parent is None or any(thread.name == _WATCHER for thread in threading.enumerate()):
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name=_WATCHER, daemon=True).start()
