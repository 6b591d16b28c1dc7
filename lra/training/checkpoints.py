"""Checkpoints of a run: which of them are whole, whether the disk has space for the next, the error when it has not.

A checkpoint is whole once :data:`WHOLE` lies in it, written after all its other files and by all processes: a run that
was killed while it wrote one goes on from the one before.
"""

import errno
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import SafetensorError
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from seqconv_kernels._core.errors import argument_error

from .distributed import agree

WHOLE = "whole"
"""Name of the empty file that marks a whole checkpoint."""
COPIES = 4
"""Of the parameters in a checkpoint: themselves, two moments of AdamW, and one to spare."""


class MarkWhole(TrainerCallback):
    """Mark a checkpoint when every process has written its part."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if dist.is_available() and dist.is_initialized():
            dist.barrier()
        if state.is_world_process_zero:
            (checkpoints_of(args) / f"checkpoint-{state.global_step}" / WHOLE).touch()


class NeedSpace(TrainerCallback):
    """Raise before a checkpoint that the free disk space is too small for."""

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **_: Any,
    ) -> None:
        if not control.should_save or model is None or not state.is_world_process_zero:
            return
        wanted = COPIES * sum(p.numel() * p.element_size() for p in model.parameters())
        checkpoints = checkpoints_of(args)
        checkpoints.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(checkpoints).free
        if free < wanted:
            raise disk_full(checkpoints.parent, f"{free / 1e6:.1f} MB free, {wanted / 1e6:.1f} MB needed")


class PauseAfter(TrainerCallback):
    """Write a checkpoint and stop when the time is up.

    Args:
        seconds: from the start of training; the first process's clock counts.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.start = seconds, 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.start = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step < state.max_steps and agree(time.monotonic() - self.start >= self.seconds):
            control.should_save = control.should_training_stop = True


def checkpoints_of(args: TrainingArguments) -> Path:
    """Where a trainer keeps its checkpoints."""
    return Path(str(args.output_dir))


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run; ``None`` if it has none."""
    whole = [path for path in _checkpoints(folder) if _is_whole(path)]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def remove_torn(folder: Path) -> None:
    """Remove what a killed run left of checkpoints."""
    for path in _checkpoints(folder):
        if not _is_whole(path):
            shutil.rmtree(path)


def _checkpoints(folder: Path) -> list[Path]:
    return list((folder / "checkpoints").glob("checkpoint-*"))


def _is_whole(checkpoint: Path) -> bool:
    """By its mark; in a folder without any mark, from a run of before there were marks, by what is written last."""
    marked = any(checkpoint.parent.glob(f"checkpoint-*/{WHOLE}"))
    return (checkpoint / (WHOLE if marked else "trainer_state.json")).exists()


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn the ways in which writers report a full disk into one error that says what is kept.

    Raises:
        ValueError: the disk is full.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not _disk_is_full(error):
            raise
        raise disk_full(folder, str(error).splitlines()[0]) from error


def disk_full(folder: Path, got: str) -> ValueError:
    """The error of a run whose checkpoint does not fit."""
    last = last_checkpoint(folder)
    kept = "no checkpoint has been written yet" if last is None else f"{last.name} is intact"
    remedy = f"{kept}; free some space, then continue with 'python -m lra resume {folder}'"
    return argument_error("write a checkpoint", f"a full disk at {folder} ({got})", "space for it", remedy)


def _disk_is_full(error: Exception) -> bool:
    """Whether this is a failed write; PyTorch's writer tells no more than that it failed."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return any(sign in str(error) for sign in ("No space left", "os error 28", "inline_container", "StreamWriter"))
