"""Many runs by several processes: one thread each, every training a run folder of its own.

A finished run is not repeated, and one that was interrupted continues from its last checkpoint: the whole grid may be
killed at any time and started again by the same command.
"""

import os
import threading
import traceback
from contextlib import redirect_stdout
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path

import torch
import transformers

from ..data.store import atomic_write
from ..recipes.recipe import Recipe
from .run import check_folder, run

_WATCHER = "end with parent"
FAILURE = "failure.txt"
"""What a run ended with, in its folder, until it is finished by another try."""


def finish_run(recipe: Recipe, folder: Path, data_root: Path | None) -> None:
    """Start or resume a run on one thread and without output, unless it is finished.

    Raises:
        ValueError: the folder holds the run of another recipe, finished or not; otherwise as
            :func:`~lra.training.run.run`.
    """
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    if (folder / "result.json").exists():
        check_folder(recipe, folder, resume=True)
    else:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            run(recipe, folder, data_root=data_root, resume=(folder / "run.json").exists(), quiet=True)


def finish_or_record(recipe: Recipe, folder: Path, data_root: Path | None) -> str | None:
    """As :func:`finish_run`; an error is returned and kept in the folder, so that the rest of a grid continues."""
    try:
        finish_run(recipe, folder, data_root)
    except Exception as error:  # whatever it is, other runs do not depend on it
        told = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        atomic_write(folder / FAILURE, f"{told}\n\n{''.join(traceback.format_exception(error))}")
        return told
    (folder / FAILURE).unlink(missing_ok=True)
    return None


def end_with_parent() -> None:
    """End this worker process when the process that started it dies, even by SIGKILL."""
    parent = parent_process()
    if parent is None or any(thread.name == _WATCHER for thread in threading.enumerate()):
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name=_WATCHER, daemon=True).start()
