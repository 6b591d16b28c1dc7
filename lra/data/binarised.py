"""Texts prepared from public files or from MEGA's: which convention reads which, and the token ids of each."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from seqconv_kernels._core.errors import argument_error

from . import fairseq
from .characters import Bytes, Characters
from .layouts import MEGA_ARCHIVE
from .sequences import Sequences, Stored

DICTIONARY = "dictionary.json"
"""Symbols by id, in folders made from MEGA's files."""


def check_convention(task: str, convention: str, binarised: bool) -> None:
    """Reject texts read as MEGA's ids, or MEGA's ids read as texts.

    Raises:
        ValueError: convention and files do not match.
    """
    if binarised and convention != "mega":
        got = f"MEGA's binarised files with convention={convention!r}"
        raise argument_error(
            task, got, "convention=mega: they hold token ids, no texts", "set it, or give another source"
        )
    if convention == "mega" and not binarised:
        remedy = f"give their folder with source=FOLDER (task.source= for a run; get {MEGA_ARCHIVE}), or take s4 or jax"
        raise argument_error(task, "convention='mega' without MEGA's files", "token ids that MEGA made", remedy)


def write_binarised(
    source: Path, folder: Path, parts: Mapping[str, str], advance: Callable[[int], None]
) -> Mapping[str, int]:
    """Store MEGA's splits and dictionary.

    Args:
        source: holds ``src-bin`` and ``label-bin``.
        folder: to write to.
        parts: ends of the names to store under, and the folders in ``source`` that they come from.
        advance: called with 1 for each split.

    Returns:
        Size of each split.
    """
    symbols = fairseq.read_dictionary(source / "src-bin" / "dict.txt")
    (folder / DICTIONARY).write_text(json.dumps(symbols))
    sizes = {}
    for split in fairseq.SPLITS:
        for end, part in parts.items():
            texts = Sequences.gather(fairseq.read_examples(source, split, part))
            texts.save(folder, f"{split}{end}")
            sizes[split] = len(texts)
        advance(1)
    return sizes


def open_tokeniser(task: str, folder: Path, convention: str, max_length: int) -> Characters | Bytes | Stored:
    """Token ids of prepared texts; MEGA's code appends ``<CLS>`` to its own symbols.

    Raises:
        ValueError: they were prepared from another kind of files than the convention reads.
    """
    binarised = (folder / DICTIONARY).is_file()
    check_convention(task, convention, binarised)
    if binarised:
        size = len(json.loads((folder / DICTIONARY).read_text())) + 1
        return Stored(size, fairseq.PAD, fairseq.EOS, max_length)
    known = json.loads((folder / "vocabulary.json").read_text())
    return Characters(known, max_length) if convention == "s4" else Bytes(max_length)
