"""The tasks, by name."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from seqconv_kernels._core.errors import unknown_name

from ..options import convert
from .base import Kind, Row, Task, TaskData
from .image import Image
from .language.task import LanguageModelling
from .listops.task import ListOps
from .mnist import Mnist
from .pathfinder.task import Pathfinder
from .retrieval import Retrieval
from .signals.ecg import PTBXL
from .signals.speech import SpeechCommands
from .synthetic.copying import Copying, Delay, SelectiveCopying
from .synthetic.mad import Compression, ContextRecall, FuzzyRecall, MadSelectiveCopying, Memorization, NoisyRecall
from .synthetic.recall import Induction, MultiQueryRecall, Recall
from .synthetic.signals import SignalDelay, SignalReconstruct
from .synthetic.tracking import Parity, Permutations
from .text import Text

__all__ = ["TASKS", "Kind", "Row", "Task", "TaskData", "create_task"]

TASKS: Mapping[str, Callable[[], Task]] = {
    "listops": ListOps,
    "listops-small": lambda: ListOps(setting="small"),
    "text": Text,
    "retrieval": Retrieval,
    "image": Image,
    "scifar": lambda: Image(colour=True),
    "smnist": Mnist,
    "pmnist": lambda: Mnist(order="bit-reversal"),
    "pathfinder": Pathfinder,
    "pathfinder64": lambda: Pathfinder(size=64),
    "pathx": lambda: Pathfinder(size=128),
    "path256": lambda: Pathfinder(size=256),
    "path512": lambda: Pathfinder(size=512),
    "sc35": SpeechCommands,
    "sc10": lambda: SpeechCommands(words=10),
    "sc35-mfcc": lambda: SpeechCommands(features="mfcc"),
    "sc10-mfcc": lambda: SpeechCommands(words=10, features="mfcc"),
    "ptbxl": PTBXL,
    "enwik8": LanguageModelling,
    "wikitext103": lambda: LanguageModelling(corpus="wikitext103"),
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
