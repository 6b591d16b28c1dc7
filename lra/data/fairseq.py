"""Reading data binarised by fairseq, the form in which MEGA stores its text tasks.

A folder holds ``src-bin`` (for pairs also ``src1-bin``) and ``label-bin``, each with ``dict.txt`` and for each split an
index ``<split>.idx`` and the ids ``<split>.bin``. Ids 0 to 3 are ``<s> <pad> </s> <unk>``, then the lines of the
dictionary follow. Every sequence ends with ``</s>``. Two formats of the index are in use:

==============  ============================================================================================
``MMIDIDX``     magic (9 bytes), version, dtype code (1 byte), count; lengths (int32), byte offsets (int64)
``TNTIDX``      magic (8), version, dtype code, element size, count, lengths' count; offsets, lengths (int64);
                ids are stored plus 1
==============  ============================================================================================
"""

import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqconv_kernels._core.errors import argument_error

from .files import FRESH, text_lines

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
PAD, EOS = 1, 2
SPLITS = {"train": "train", "val": "valid", "test": "test"}
DTYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2", 9: "<u4", 10: "<u8"}
MAPPED, PLAIN = b"MMIDIDX\x00\x00", b"TNTIDX\x00\x00"
REMEDY = FRESH
LAYOUTS = ("", "lra", "data-bin")
"""Folders that the files may be in, below the one that is given."""
Ids = NDArray[np.integer[Any]]


def find_binarised(source: Path, task: str) -> Path | None:
    """The folder with ``src-bin``: the given one, or one named after the task inside it; none if there is none."""
    for layout in LAYOUTS:
        for name in ("", task):
            if (source / layout / name / "src-bin" / "dict.txt").is_file():
                return source / layout / name
    return None


def read_dictionary(path: Path) -> list[str]:
    """Symbols by id.

    Raises:
        ValueError: missing, or a line without symbol and count.
    """
    if not path.is_file():
        raise argument_error(f"read {path}", "no such file", "a dictionary of fairseq", REMEDY)
    symbols = list(SPECIAL)
    for number, line in text_lines(path):
        symbol, _, count = line.removesuffix(" #fairseq:overwrite").rpartition(" ")
        if not symbol or not count.isdecimal():
            raise argument_error(f"read {path}", f"line {number}: {line[:40]!r}", "a symbol and its count", REMEDY)
        symbols.append(symbol)
    return symbols


def read_labels(folder: Path, split: str) -> list[int]:
    """The whole number that each label's symbol is.

    Raises:
        ValueError: missing or damaged files, or a symbol that is no number.
    """
    symbols = read_dictionary(folder / "label-bin" / "dict.txt")
    labels = []
    for number, ids in enumerate(read_ids(folder / "label-bin" / SPLITS[split], len(symbols))):
        words = [symbols[id] for id in ids.tolist() if id != EOS]
        if len(words) != 1 or not words[0].isdecimal():
            got = f"label {number}: {' '.join(words)!r}"
            raise argument_error(f"read {folder / 'label-bin' / SPLITS[split]}", got, "one whole number", REMEDY)
        labels.append(int(words[0]))
    return labels


def read_examples(folder: Path, split: str, part: str = "src-bin") -> Iterator[tuple[Ids, int]]:
    """Ids, ``</s>`` included, and label of every example.

    Raises:
        ValueError: missing or damaged files, or another number of labels than of sequences.
    """
    labels, path = read_labels(folder, split), folder / part / SPLITS[split]
    sequences = list(read_ids(path, len(read_dictionary(folder / "src-bin" / "dict.txt"))))
    if len(sequences) != len(labels):
        raise argument_error(
            f"read {path}", f"{len(sequences)} sequences", f"{len(labels)}, one for each label", REMEDY
        )
    yield from zip(sequences, labels, strict=True)


def read_ids(prefix: Path, vocabulary: int) -> Iterator[Ids]:
    """The sequences of ``prefix.idx`` and ``prefix.bin``.

    Raises:
        ValueError: missing, truncated, of another format, sequences that do not follow one another, or ids beyond the
            vocabulary.
    """
    index, content = prefix.with_name(prefix.name + ".idx"), prefix.with_name(prefix.name + ".bin")
    for path in (index, content):
        if not path.is_file():
            raise argument_error(f"read {path}", "no such file", "an index .idx and ids .bin", REMEDY)
    try:
        dtype, lengths, offsets, shift = _read_index(index.read_bytes())
        starts = _starts(lengths, offsets, 1 if shift else dtype.itemsize)
    except (struct.error, ValueError, KeyError) as error:
        raise argument_error(f"read {index}", f"no whole index ({error})", "an index of fairseq", REMEDY) from error
    held, wanted = content.stat().st_size, starts[-1] * dtype.itemsize
    if held != wanted:
        raise argument_error(f"read {content}", f"{held} bytes", f"{wanted} bytes, as the index says", REMEDY)
    ids = np.fromfile(content, dtype) if held else np.zeros(0, dtype)
    if len(ids) and not 0 <= int(ids.min()) - shift <= int(ids.max()) - shift < vocabulary:
        got = f"ids from {int(ids.min()) - shift} to {int(ids.max()) - shift}"
        raise argument_error(f"read {content}", got, f"0 to {vocabulary - 1}, as the dictionary says", REMEDY)
    for start, end in pairwise(starts):
        yield ids[start:end] - shift


def _starts(lengths: NDArray[np.int64], offsets: NDArray[np.int64], unit: int) -> list[int]:
    """The element that each sequence starts at, then the number of all: fairseq writes one sequence after the other.

    Python integers, which do not overflow as the sums of a damaged index would.
    """
    starts = [0]
    for number, (length, offset) in enumerate(zip(lengths.tolist(), offsets.tolist(), strict=True)):
        if length < 0:
            raise ValueError(f"sequence {number} has length {length}")
        if offset != starts[-1] * unit:
            raise ValueError(f"sequence {number} starts at {offset} instead of {starts[-1] * unit}")
        starts.append(starts[-1] + length)
    return starts


def _read_index(data: bytes) -> tuple[np.dtype[Any], NDArray[np.int64], NDArray[np.int64], int]:
    """Type, lengths and offsets of the sequences, and the shift of their ids.

    Offsets count bytes in the first format, whose shift is 0, and elements in the second, whose shift is 1.
    """
    if data.startswith(MAPPED):
        version, code, count = struct.unpack_from("<QBQ", data, len(MAPPED))
        _require_version(version)
        start = len(MAPPED) + 17
        _require_bytes(data, start + 12 * count)
        lengths = np.frombuffer(data, "<i4", count, start).astype(np.int64)
        return np.dtype(DTYPES[code]), lengths, np.frombuffer(data, "<i8", count, start + 4 * count), 0
    if data.startswith(PLAIN):
        version, code, element, count, sizes = struct.unpack_from("<QQQQQ", data, len(PLAIN))
        _require_version(version)
        dtype = np.dtype(DTYPES[code])
        if element != dtype.itemsize or sizes != count:
            raise ValueError(f"{sizes} lengths of {count} sequences, elements of {element} bytes")
        _require_bytes(data, len(PLAIN) + 40 + 8 * (2 * (count + 1) + sizes))
        numbers = np.frombuffer(data, "<i8", 2 * (count + 1) + sizes, len(PLAIN) + 40)
        return dtype, numbers[2 * (count + 1) :], numbers[count + 1 : 2 * count + 1], 1
    raise ValueError(f"it starts with {data[:9]!r}")


def _require_bytes(data: bytes, wanted: int) -> None:
    if len(data) < wanted:
        raise ValueError(f"{len(data)} bytes instead of {wanted}")


def _require_version(version: int) -> None:
    if version != 1:
        raise ValueError(f"version {version}")
