"""The tasks, by name."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from seqconv_kernels.errors import unknown_name

from ..options import convert
from .base import Kind, Row, Task, TaskData
from .copying import Copying, Delay, SelectiveCopying
from .image_task import Image
from .listops_task import ListOps
from .mad import Compression, ContextRecall, FuzzyRecall, MadSelectiveCopying, Memorization, NoisyRecall
from .pathfinder_task import Pathfinder
from .recall import Induction, MultiQueryRecall, Recall
from .retrieval_task import Retrieval
from .signals import SignalDelay, SignalReconstruct
from .text_task import Text
from .tracking import Parity, Permutations

__all__ = ["TASKS", "Kind", "Row", "Task", "TaskData", "create_task"]

TASKS: Mapping[str, Callable[[], Task]] = {
    "listops": ListOps,
    "listops-small": lambda: ListOps(setting="small"),
    "text": Text,
    "retrieval": Retrieval,
    "image": Image,
    "pathfinder": Pathfinder,
    "pathfinder64": lambda: Pathfinder(size=64),
    "pathx": lambda: Pathfinder(size=128),
    "path256": lambda: Pathfinder(size=256),
    "recall": Recall,
    "mqar": MultiQueryRecall,
    "induction": Induction,
    "copying": Copying,
    "selective-copying": SelectiveCopying,
    "delay": Delay,
    "signal-delay": SignalDelay,
    "signal-reconstruct": SignalReconstruct,
    "parity": Parity,
    "permutations": Permutations,
    "mad-recall": ContextRecall,
    "mad-noisy-recall": NoisyRecall,
    "mad-fuzzy-recall": FuzzyRecall,
    "mad-selective-copying": MadSelectiveCopying,
    "mad-compression": Compression,
    "mad-memorization": Memorization,
}


def create_task(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """A task with its options; values given as text are converted to the option's type.

    Raises:
        ValueError: unknown task or option (the nearest are named), or a value of another type.
    """
    if name not in TASKS:
        raise unknown_name("create_task", "task", name, TASKS)
    task = TASKS[name]()
    known = {field.name: field.type for field in fields(task)}  # type: ignore[arg-type]  # tasks are dataclasses
    values = {}
    for option, value in (options or {}).items():
        if option not in known:
            raise unknown_name(f"create_task({name!r})", "option", option, known)
        values[option] = convert(f"task {name}", option, value, known[option])
    return replace(task, **values) if values else task  # type: ignore[type-var]
