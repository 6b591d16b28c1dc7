"""What a run notes while it goes: JSON lines, one event each, and a stop when the loss is no number any more."""

import json
import math
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from seqconv_kernels.errors import refusal


class JSONLines(TrainerCallback):
    """Append every log of the trainer to a file, with the wall-clock and CPU seconds since the start.

    Args:
        path: the file; lines behind the step that a run resumes from are dropped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.wall, self.cpu = time.monotonic(), time.process_time()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.wall, self.cpu = time.monotonic(), time.process_time()
        if not self.path.exists():
            return
        kept = [line for line in read_lines(self.path) if line["step"] <= state.global_step]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept))
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
    """Refuse to go on when a loss is not finite: before a checkpoint of the same step would be written."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            remedy = "the last checkpoint is kept; lower lr or raise warmup_steps"
            raise refusal("train", f"a loss of {loss} at step {state.global_step}", "a finite loss", remedy)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The events of a run; a last line that was cut off by a kill is left out."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
