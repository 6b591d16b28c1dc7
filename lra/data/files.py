"""Reading what others made: text files line by line, labels, and paths that must stay inside their folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqconv_kernels._core.errors import argument_error

FRESH = "take a fresh copy of the files"


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of every line of a UTF-8 file, without its line end (LF or CRLF).

    Raises:
        ValueError: a line is not UTF-8; the message names file and line.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.decode().removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError as error:
                got = f"line {number}, byte {error.start}: {error.object[error.start :][:4]!r}"
                remedy = f"{FRESH}, or convert it to UTF-8"
                raise argument_error(f"read {path}", got, "UTF-8", remedy) from error


def read_text(path: Path) -> str:
    """The text of a whole UTF-8 file.

    Raises:
        ValueError: as :func:`text_lines`.
    """
    content = path.read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        got = f"line {line}, byte {error.start} of the file: {content[error.start :][:4]!r}"
        raise argument_error(f"read {path}", got, "UTF-8", f"{FRESH}, or convert it to UTF-8") from error


def require_inside(path: Path, folder: Path) -> Path:
    """``path``, if it is in the folder once links are followed.

    Raises:
        ValueError: it is a link out of the folder, or has ``..`` that leads out of it.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        got = f"{path}, which leads to {path.resolve()}"
        raise argument_error("read a data set", got, f"a file inside {folder}", "replace the link by the file")
    return path


def require_label(label: Any, classes: int, place: str) -> int:
    """``label`` as an integer below ``classes``.

    Raises:
        ValueError: it is another number, or no number.
    """
    if isinstance(label, bool) or not hasattr(label, "__index__") or not 0 <= int(label) < classes:
        raise argument_error(f"read {place}", f"label {label!r}", f"0 to {classes - 1}", FRESH)
    return int(label)
