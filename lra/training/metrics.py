"""The log of a run as JSON lines, and a stop when the loss or a gradient is not finite."""

import json
import math
import time
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from seqconv_kernels._core.errors import argument_error

from ..data.store import atomic_write
from .checkpoints import checkpoints_of, last_checkpoint


class JSONLines(TrainerCallback):
    """Append every log of the trainer to a file, with the wall-clock and CPU seconds that the run has taken so far.

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
        kept = [line for line in read_lines(self.path) if line["step"] <= state.global_step]
        atomic_write(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        if kept:
            self.wall -= kept[-1]["wall_s"]
            self.cpu -= kept[-1]["cpu_s"]

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if not state.is_world_process_zero:
            return
        seconds = {"wall_s": round(time.monotonic() - self.wall, 2), "cpu_s": round(time.process_time() - self.cpu, 2)}
        line = {"step": state.global_step, **seconds, **(logs or {})}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


class StopAtNaN(TrainerCallback):
    """Raise when the loss or a gradient is not finite: before the step is taken or a checkpoint written."""

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **_: Any,
    ) -> None:
        if args.fp16 or model is None:
            return  # the scaler of float16 leaves out such steps by itself
        gradients = [_local(p.grad) for p in model.parameters() if p.grad is not None]
        largest = float(sum(g.abs().max() for g in gradients if g.numel()))
        if not math.isfinite(largest):
            raise self._diverged(args, f"a gradient of {largest}", state.global_step + 1)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        for name in ("loss", "eval_loss"):
            value = (logs or {}).get(name, 0.0)
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
    """The events of a run; a last line that was cut off by a kill is left out."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
