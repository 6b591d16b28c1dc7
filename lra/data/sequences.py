"""Sequences of unequal length, kept as one flat array: storage, a dataset over it, and padding into batches."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset


@dataclass(frozen=True)
class Sequences:
    """Codes of all sequences one after the other; sequence i is ``codes[offsets[i]:offsets[i + 1]]``."""

    codes: NDArray[np.unsignedinteger[Any]]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> NDArray[np.unsignedinteger[Any]]:
        return self.codes[self.offsets[index] : self.offsets[index + 1]]

    @staticmethod
    def collect(examples: Iterable[tuple[bytes, int]]) -> "Sequences":
        """Gather pairs of codes and label."""
        pieces, labels = [], []
        for codes, label in examples:
            pieces.append(codes)
            labels.append(label)
        offsets = np.cumsum([0, *map(len, pieces)], dtype=np.int64)
        return Sequences(np.frombuffer(b"".join(pieces), np.uint8), offsets, np.array(labels, np.int64))

    @staticmethod
    def gather(examples: Iterable[tuple[NDArray[np.integer[Any]], int]]) -> "Sequences":
        """Gather pairs of token ids, below 65,536, and label."""
        pieces, labels = [np.zeros(0, np.uint16)], []
        for ids, label in examples:
            pieces.append(ids.astype(np.uint16))
            labels.append(label)
        offsets = np.cumsum([0, *map(len, pieces[1:])], dtype=np.int64)
        return Sequences(np.concatenate(pieces), offsets, np.array(labels, np.int64))

    def save(self, folder: Path, split: str) -> None:
        """Write three arrays."""
        for name, array in (("codes", self.codes), ("offsets", self.offsets), ("labels", self.labels)):
            np.save(folder / f"{split}.{name}.npy", array, allow_pickle=False)

    @staticmethod
    def open(folder: Path, split: str) -> "Sequences":
        """Read three arrays, the codes through a memory map."""
        codes = np.load(folder / f"{split}.codes.npy", mmap_mode="r", allow_pickle=False)
        offsets, labels = (
            np.load(folder / f"{split}.{name}.npy", allow_pickle=False) for name in ("offsets", "labels")
        )
        return Sequences(codes, offsets, labels)


@dataclass(frozen=True)
class Tokeniser:
    """From stored codes to token ids.

    Attributes:
        ids: token id of every code.
        vocab_size: ids in all, special ones included.
        pad_id: id of padding.
        eos_id: id appended to every sequence, if any.
        max_length: longest sequence; the end is cut off, and ``eos_id`` still follows.
    """

    ids: tuple[int, ...]
    vocab_size: int
    pad_id: int
    eos_id: int | None
    max_length: int

    def __call__(self, codes: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.int64]:
        kept = self.max_length - (self.eos_id is not None)
        ids = np.asarray(self.ids, np.int64)[codes[:kept]]
        return ids if self.eos_id is None else np.append(ids, self.eos_id)


@dataclass(frozen=True)
class Stored:
    """Token ids that are stored as such, the end cut off.

    Attributes:
        vocab_size: ids in all.
        pad_id, eos_id: of padding, and what every whole sequence ends with.
        max_length: longest sequence.
    """

    vocab_size: int
    pad_id: int
    eos_id: int | None
    max_length: int

    def __call__(self, codes: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.int64]:
        return codes[: self.max_length].astype(np.int64)


Encode = Callable[[NDArray[np.unsignedinteger[Any]]], NDArray[np.int64]]
"""From the stored codes of a sequence to token ids."""


class TokenDataset(Dataset[dict[str, Any]]):
    """Rows ``{"input_ids": ids, "labels": label}``."""

    def __init__(self, sequences: Sequences, tokeniser: Encode) -> None:
        self.sequences, self.tokeniser = sequences, tokeniser

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.tokeniser(self.sequences[index]), "labels": int(self.sequences.labels[index])}


@dataclass(frozen=True)
class RightPadding:
    """Collator: pads on the right to the longest row of the batch, or to ``length``.

    Attributes:
        pad_id: id of padding.
        length: fixed length, if the convention has one.
    """

    pad_id: int
    length: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        ids, mask = self.pad([row["input_ids"] for row in rows])
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([row["labels"] for row in rows])}

    def pad(
        self, sequences: list[NDArray[np.int64]]
    ) -> tuple[Integer[Tensor, "batch length"], Integer[Tensor, "batch length"]]:
        """Ids and mask (1 at tokens, 0 at padding)."""
        length = self.length or max(map(len, sequences))
        ids = np.full((len(sequences), length), self.pad_id, np.int64)
        mask = np.zeros((len(sequences), length), np.int64)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = sequence
            mask[row, : len(sequence)] = 1
        return torch.from_numpy(ids), torch.from_numpy(mask)
