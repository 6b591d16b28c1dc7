"""The log of a run as JSON lines, and a stop when the loss or a gradient is not finite."""

import json
import math
import resource
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from seqconv_kernels._core.errors import argument_error

from ..data.store import atomic_write
from .checkpoints import checkpoints_of, last_checkpoint


class JSONLines(TrainerCallback):
    """Append every log of the trainer to a file, with the wall-clock and CPU seconds that the run has taken so far.

    Every checkpoint follows a log, so that a resumed run logs the losses that an uninterrupted one does. Times and mean
    loss of the last line are those of the whole run: the trainer itself counts from the last resume.

    Args:
        path: the file; lines after the step that a run resumes from are dropped, and its clocks continue from there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.wall, self.cpu = time.monotonic(), time.process_time()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.wall, self.cpu = time.monotonic(), time.process_time()
        if not state.is_world_process_zero or not self.path.exists():
            return
        kept = [
            line for line in read_lines(self.path) if line["step"] <= state.global_step and "train_loss" not in line
        ]
        atomic_write(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        if kept:
            self.wall -= kept[-1]["wall_s"]
            self.cpu -= kept[-1]["cpu_s"]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_log = control.should_log or control.should_save

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **context: Any) -> None:
        if not state.is_world_process_zero:
            return
        logs = dict(context["logs"] or {})
        if "train_loss" in logs:
            logs = {"epoch": logs.get("epoch"), "train_loss": mean_loss(read_lines(self.path))}
        seconds = {"wall_s": round(time.monotonic() - self.wall, 2), "cpu_s": round(time.process_time() - self.cpu, 2)}
        line = {"step": state.global_step, **seconds, **logs}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def mean_loss(lines: Iterable[Mapping[str, Any]]) -> float | None:
    """The training loss over all steps, each logged loss being the mean since the log before."""
    total, before = 0.0, 0
    for line in lines:
        if "loss" in line:
            total, before = total + line["loss"] * (line["step"] - before), line["step"]
    return total / before if before else None


class StopAtNaN(TrainerCallback):
    """Raise when the loss or a gradient is not finite: before the step is taken or a checkpoint written."""

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **context: Any
    ) -> None:
        if args.fp16:
            return  # the scaler of float16 skips such steps itself
        gradients = [_local(p.grad) for p in context["model"].parameters() if p.grad is not None]
        largest = float(sum(g.abs().max() for g in gradients if g.numel()))
        if not math.isfinite(largest):
            raise self._diverged(args, f"a gradient of {largest}", state.global_step + 1)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **context: Any) -> None:
        for name in ("loss", "eval_loss"):
            value = (context["logs"] or {}).get(name, 0.0)
            if not math.isfinite(value):
                raise self._diverged(args, f"{name} {value}", state.global_step)

    def _diverged(self, args: TrainingArguments, got: str, step: int) -> ValueError:
        last = last_checkpoint(checkpoints_of(args).parent)
        kept = "no checkpoint was written before it" if last is None else f"{last.name} is kept"
        return argument_error(
            "train", f"{got} at step {step}", "finite numbers", f"{kept}; lower lr or raise warmup_steps, with --out"
        )


def _local(gradient: Tensor) -> Tensor:
    """The share of it that this process holds, under FSDP."""
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The events of a run; a last line that was cut off by a kill is left out.

    Raises:
        ValueError: another line is not a JSON object with a step.
    """
    lines, texts = [], path.read_bytes().split(b"\n")
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
            if not isinstance(line, dict) or not isinstance(line.get("step"), int):
                raise ValueError("no object with a step")
            lines.append(line)
        except ValueError as error:
            if number == len(texts):  # no newline after it: cut off, or nothing at all
                break
            remedy = "restore the file, or remove the line"
            raise argument_error(f"read {path}", f"line {number}: {text[:40]!r}", "a JSON object", remedy) from error
    return lines


def peak_memory() -> int:
    """Most bytes that this process has held so far: of the accelerator's memory where it trains there, else of RAM."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else 1024 * kilobytes


def metrics_of(measured: Mapping[str, float] | None) -> dict[str, float]:
    """The scores among what the Trainer measured: ``accuracy``, and of language models ``bits`` and ``perplexity``."""
    names = ("accuracy", "bits", "perplexity")
    return {name: float((measured or {})[f"test_{name}"]) for name in names if f"test_{name}" in (measured or {})}
