"""What a task is: options, data prepared once into a verified folder, and what a run needs to read it back."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import Dataset

from seqconv_kernels._core.errors import argument_error

from ..data.store import Manifest, default_root, exclusive, folder_name, need_space, open_data, write_data

Row = dict[str, Any]
Collate = Callable[[list[Row]], dict[str, Tensor]]
Kind = Literal["sequence", "pair", "token", "image", "compression", "signal", "recording", "language"]
"""One label per sequence, per pair of sequences, per token (-100: not asked), per image read as a sequence; a label per
token, all answered from the last state; numbers instead of labels, answered from numbers; one or several labels per
recording; or the next token."""

Score = Literal["accuracy", "explained variance", "macro AUROC", "bits per byte", "perplexity"]
"""Metrics of tasks. Of language modelling the share of right tokens is kept as well."""


@dataclass(frozen=True)
class TaskData:
    """A task, loaded.

    Attributes:
        splits: ``train``, ``val`` and ``test`` (where the task has them); rows are dictionaries.
        collate: makes a batch of rows: ``input_ids`` and ``attention_mask``, or ``pixel_values``; ``labels``.
        kind: what a label belongs to.
        classes: number of labels.
        vocab_size: number of token ids, padding included.
        pad_id, eos_id: token ids; ``None`` where there is none.
        max_length: longest input in tokens.
        baselines: accuracies of predictors that read little or nothing of the input, measured on each split.
        fingerprint: hash of the content.
        origin: one line on where the content comes from.
        facts: further options of the model's configuration.
        score: the metric: the share of right answers, or of the variance that is explained; the mean area under the
            receiver operating characteristic; the bits of a byte, or the perplexity of a word.
    """

    splits: Mapping[str, Dataset[Row]]
    collate: Collate
    kind: Kind
    classes: int
    vocab_size: int
    pad_id: int | None
    eos_id: int | None
    max_length: int
    baselines: Mapping[str, Mapping[str, float]]
    fingerprint: str
    origin: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    score: Score = "accuracy"


class Task(ABC):
    """Base of all tasks. A concrete task is a frozen dataclass whose fields are its options."""

    summary: ClassVar[str]

    @property
    @abstractmethod
    def name(self) -> str:
        """The name that ``python -m lra`` knows the task by, its variant included."""

    @property
    def spacing(self) -> float:
        """Time between two inputs, relative to that of the task's default options."""
        return 1.0

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """The options that the prepared content depends on, all that is needed to make it again."""

    @abstractmethod
    def total(self) -> int:
        """Units of work of :meth:`_write`, for the progress bar."""

    @abstractmethod
    def _bytes(self) -> int:
        """Upper estimate of the disk space."""

    @abstractmethod
    def _write(self, folder: Path, workers: int, advance: Callable[[int], None]) -> Mapping[str, int]:
        """Make the data files; return the size of each split."""

    @abstractmethod
    def _read(self, folder: Path, manifest: Manifest) -> TaskData:
        """Load the verified data files."""

    def folder(self, root: Path | None = None) -> Path:
        """Folder of the data of these options."""
        return (root or default_root()) / folder_name(self.name, self.parameters())

    def prepare(
        self, root: Path | None = None, *, workers: int | None = None, force: bool = False, quiet: bool = False
    ) -> Manifest:
        """Make the data unless it is there and intact.

        Two processes that ask for the same data at once make it once: the second waits and takes what the first made.

        Args:
            root: folder of all prepared data.
            workers: processes; the cores at hand by default. The content does not depend on it.
            force: make it again, also in place of damaged data.
            quiet: no progress bar.

        Raises:
            ValueError: the data there is damaged (and not ``force``), the disk is full, or the source is wrong.
        """
        folder = self.folder(root)
        if folder.exists() and not force:
            return open_data(folder, self.name, self.parameters())
        with exclusive(folder):
            if folder.exists() and not force:  # another process made it in the meantime
                return open_data(folder, self.name, self.parameters())
            need_space(folder, self._bytes())
            return self._make(folder, workers or len(os.sched_getaffinity(0)), quiet)

    def _make(self, folder: Path, workers: int, quiet: bool) -> Manifest:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, disable=quiet) as progress:
            bar = progress.add_task(f"prepare {self.name}", total=self.total())

            def fill(partial: Path) -> Mapping[str, int]:
                return self._write(partial, workers, lambda done: progress.advance(bar, done))

            return write_data(folder, self.name, self.parameters(), fill)

    def load(self, root: Path | None = None) -> TaskData:
        """Read the prepared data.

        Raises:
            ValueError: missing, truncated or changed; the message says how to repair it.
        """
        folder = self.folder(root)
        return self._read(folder, open_data(folder, self.name, self.parameters()))

    def options(self) -> dict[str, Any]:
        """All options with their values."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]  # concrete tasks are dataclasses


def one_of(task: str, option: str, value: str, known: tuple[str, ...]) -> None:
    """Reject a value that is not among ``known``."""
    if value not in known:
        raise argument_error(task, f"{option}={value!r}", f"one of {', '.join(known)}", "correct the option")
