"""Several processes (``torchrun``): what they must agree on, and what a recipe must allow."""

import os
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from transformers import TrainingArguments

from seqconv_kernels._core.errors import argument_error

from ..recipes.recipe import Recipe

T = TypeVar("T")
TIMEOUT_S = 24 * 3600
"""Processes wait this long for each other: the first may be making the data of Path-X."""


def processes() -> int:
    """Number of processes of this training."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def has_accelerator() -> bool:
    """Whether there is a device other than the processor."""
    return torch.accelerator.is_available()


def check_processes(recipe: Recipe) -> None:
    """Raise for a recipe that these processes cannot run.

    Raises:
        ValueError: a batch that cannot be divided evenly; FSDP with one process, or without an accelerator, where
            accelerate would silently take DDP.
    """
    parts = processes() * recipe.accumulate
    if recipe.batch_size % parts:
        got = f"batch_size={recipe.batch_size}, accumulate={recipe.accumulate} on {processes()} processes"
        raise argument_error(
            f"recipe {recipe.name}", got, "a batch_size that their product divides", "change one of them"
        )
    no_accelerator = not has_accelerator()
    if recipe.parallel == "fsdp" and (processes() == 1 or no_accelerator):
        count = "one process" if processes() == 1 else f"{processes()} processes"
        got = f"parallel=fsdp with {count} on {'the processor' if no_accelerator else 'an accelerator'}"
        wanted = "several processes, each with an accelerator"
        raise argument_error(f"recipe {recipe.name}", got, wanted, "take parallel=ddp, or start with torchrun on GPUs")


def is_first() -> bool:
    """Whether this process is the one that writes files."""
    return int(os.environ.get("RANK", "0")) == 0


def agree(value: T) -> T:
    """The first process's value, in every process."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    values: list[Any] = [value]
    dist.broadcast_object_list(values)
    agreed: T = values[0]
    return agreed


def join_process_group(quiet: bool = True) -> TrainingArguments:
    """Start or join the process group, if there are several processes.

    The arguments of a Trainer are what starts the process group in transformers.
    """
    return TrainingArguments(
        use_cpu=not torch.cuda.is_available(),
        ddp_timeout=TIMEOUT_S,
        disable_tqdm=quiet,
        report_to=[],
    )


def leave_process_group() -> None:
    """Leave the process group."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
