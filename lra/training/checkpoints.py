"""Checkpoints of a run: which of them are whole, whether the disk has space for the next, the error when it has not.

A checkpoint is complete once the list of its files, :data:`FILES`, has been written, after all of them and by all
processes: a run that was killed while it wrote one continues from the one before. It is intact while every file has the
size and hash that the list says: a damaged one is set aside and the one before is tried.
"""

import errno
import json
import logging
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

from ..data.store import atomic_write, describe_file, sha256
from .distributed import agree

FILES = "files.json"
"""Name of the list of a checkpoint's files, each with its size and SHA-256; written last."""
NEEDED = (("model", "pytorch_model"), ("optimizer",), ("scheduler",), ("rng_state",), ("trainer_state.json",))
"""How the names of the files begin without which a run cannot be resumed; FSDP writes folders of some."""
COPIES = 4
"""Of the parameters in a checkpoint: themselves, two moments of AdamW, and one to spare."""
logger = logging.getLogger(__name__)


class ListFiles(TrainerCallback):
    """List the files of a checkpoint with their hashes when every process has written its part."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if dist.is_available() and dist.is_initialized():
            dist.barrier()
        if state.is_world_process_zero:
            checkpoint = checkpoints_of(args) / f"checkpoint-{state.global_step}"
            list_files(checkpoint)


class MoveBest(TrainerCallback):
    """Look for the best checkpoint in the folder that the run is in now, which may have been moved or copied."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.best_model_checkpoint is not None:
            state.best_model_checkpoint = str(checkpoints_of(args) / Path(state.best_model_checkpoint).name)


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
            control.should_save = control.should_log = control.should_training_stop = True


def checkpoints_of(args: TrainingArguments) -> Path:
    """Where a trainer keeps its checkpoints."""
    return Path(str(args.output_dir))


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run that was written to its end; ``None`` if it has none."""
    return next(iter(_complete(folder)), None)


def resumable_checkpoint(folder: Path) -> Path | None:
    """The newest intact checkpoint of a run; ``None`` if it never finished writing one.

    Damaged ones are renamed to ``damaged-checkpoint-N`` and reported if an earlier one is intact: training writes them
    again. What a killed run left of a checkpoint that it was writing is removed.

    Raises:
        ValueError: every checkpoint is damaged; none is touched.
    """
    damages: dict[Path, str] = {}
    intact = None
    for path in _complete(folder):
        damage = damage_of(path)
        if damage is None:
            intact = path
            break
        damages[path] = damage
    if damages and intact is None:
        got = "; ".join(f"{path.name}: {damage}" for path, damage in damages.items())
        remedy = "restore the files, or start the run again into another folder with --out"
        raise argument_error(f"resume {folder}", got, "an intact checkpoint", remedy)
    for path in set(checkpoints(folder)) - set(_complete(folder)):
        if not (path / "trainer_state.json").exists():  # the trainer's last file: this one was never finished
            shutil.rmtree(path)
        else:
            damages[path] = f"no {FILES}"
    for path, damage in damages.items():
        _set_aside(path, damage)
    return intact


def _set_aside(checkpoint: Path, damage: str) -> None:
    logger.warning("%s is damaged (%s): resuming from an earlier one", checkpoint, damage)
    aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)


def damage_of(checkpoint: Path) -> str | None:
    """The first thing that is wrong with a checkpoint, or with the best one that it refers to; ``None`` if intact."""
    damage = damaged_file(checkpoint) or _missing_part(checkpoint)
    if damage is not None:
        return damage
    best = json.loads((checkpoint / "trainer_state.json").read_text())["best_model_checkpoint"]
    if best is None or Path(best).name == checkpoint.name:
        return None
    damage = damaged_file(checkpoint.parent / Path(best).name)
    return None if damage is None else f"its best checkpoint, {Path(best).name}: {damage}"


def list_files(folder: Path) -> None:
    """Write the sizes and hashes of all files of a folder into its :data:`FILES`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != FILES)
    listed = {str(path.relative_to(folder)): describe_file(path) for path in files}
    atomic_write(folder / FILES, json.dumps(listed, indent=1, sort_keys=True) + "\n")


def damaged_file(folder: Path) -> str | None:
    """The first difference between a folder and its :data:`FILES`; ``None`` if there is none."""
    try:
        for name, record in json.loads((folder / FILES).read_text()).items():
            path = folder / name
            if not path.is_file():
                return f"no file {name}"
            if path.stat().st_size != record["bytes"]:
                return f"{name} of {path.stat().st_size} bytes instead of {record['bytes']}"
            if sha256(path) != record["sha256"]:
                return f"{name} with another SHA-256"
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return f"an unreadable {FILES} ({type(error).__name__}: {error})"
    return None


def _missing_part(checkpoint: Path) -> str | None:
    listed = json.loads((checkpoint / FILES).read_text())
    for prefixes in NEEDED:
        if not any(name.startswith(prefixes) for name in listed):
            return f"a {FILES} without {prefixes[0]}"
    return None


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a run, the newest first."""
    found = [p for p in (folder / "checkpoints").glob("checkpoint-*") if p.name.rpartition("-")[2].isdecimal()]
    return sorted(found, key=lambda path: -int(path.name.rpartition("-")[2]))


def _complete(folder: Path) -> list[Path]:
    """Those that were written to their end, the newest first."""
    return [path for path in checkpoints(folder) if (path / FILES).exists()]


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
    """Whether this is a failed write; PyTorch's writer only says that it failed."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return any(sign in str(error) for sign in ("No space left", "os error 28", "inline_container", "StreamWriter"))
