"""Pathfinder's released folders: which copy to read, metadata, images.

The archive holds ``pathfinder128`` twice, in ``lra_release`` and in ``lra_release/lra_release``; S4 and others read the
inner copy. One image of ``pathfinder32/curv_baseline`` is an empty file, which S4 leaves out too
(``PathFinderDataset.blacklist`` in ``src/dataloaders/lra.py`` of state-spaces/s4 at e757cef).
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqconv_kernels._core.errors import argument_error

from ...data.files import require_inside, text_lines
from ...data.layouts import RELEASE, unpacked

KNOWN_EMPTY = ("curv_baseline", Path("imgs/0/sample_172.png"))
"""Difficulty and place of the empty image of the release with 32 pixels."""
LABEL = 3
"""Column of the label in the metadata."""
UNPACK = "unpack the archive again"
logger = logging.getLogger(__name__)


def find_images(source: Path, size: int, difficulty: str, copy: str = "") -> Path:
    """The folder of a size and difficulty: ``source`` itself, or inside the archive unpacked once or twice nested.

    Args:
        source: the folder that was given.
        size, difficulty: as :class:`~lra.tasks.pathfinder.task.Pathfinder`.
        copy: ``inner`` or ``outer`` where the archive has two; empty: the inner one, with a warning.

    Raises:
        ValueError: not there.
    """
    layouts = ("", difficulty, *unpacked(f"pathfinder{size}/{difficulty}"))
    found = [folder for folder in (source / layout for layout in layouts) if (folder / "metadata").is_dir()]
    if not found:
        remedy = f"give the folder that holds imgs and metadata, or lra_release; get {RELEASE}, or generate the images"
        wanted = " or ".join(str(source / layout) for layout in layouts)
        raise argument_error("prepare pathfinder", f"no metadata of {size} pixels in {source}", wanted, remedy)
    chosen = found[0] if copy == "outer" else found[-1]
    if len(found) > 1 and not copy:
        logger.warning("%s holds two copies: reading %s; choose with copy=inner or copy=outer", source, chosen)
    return chosen


def read_metadata(folder: Path) -> Iterator[tuple[Path, int]]:
    """Image and label in the order of the batches; plain text and NumPy string arrays are both read.

    Raises:
        ValueError: no batches, a line that is cut off, a label that is neither 0 nor 1, or an image outside the folder.
    """
    batches = [path for path in (folder / "metadata").glob("*.npy") if path.stem.isdecimal()]
    if not batches:
        wanted = "one per batch, named by its number"
        raise argument_error("read pathfinder", f"no .npy file in {folder / 'metadata'}", wanted, UNPACK)
    for batch in sorted(batches, key=lambda path: int(path.stem)):
        for number, row in enumerate(_metadata_rows(batch), 1):
            if len(row) <= LABEL or row[LABEL] not in ("0", "1"):
                wanted = "folder, file, number, label 0 or 1, and more"
                raise argument_error(f"read {batch}", f"line {number}: {' '.join(row)!r}", wanted, UNPACK)
            yield require_inside(folder / row[0] / row[1], folder), int(row[LABEL])


def _metadata_rows(path: Path) -> list[list[str]]:
    with path.open("rb") as file:
        binary = file.read(6) == b"\x93NUMPY"
    if not binary:
        return [line.split() for _, line in text_lines(path)]
    try:
        return [[str(cell) for cell in row] for row in np.load(path, allow_pickle=False)]
    except (ValueError, TypeError, EOFError) as error:
        raise argument_error(f"read {path}", f"no array of strings ({error})", "rows of strings", UNPACK) from error


def is_known_empty(path: Path, folder: Path, size: int) -> bool:
    """Whether this is the image that the release has as an empty file."""
    difficulty, place = KNOWN_EMPTY
    return size == 32 and folder.name == difficulty and path == folder / place and _is_empty(path)


def _is_empty(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == 0


def read_image(path: Path, size: int) -> NDArray[np.uint8]:
    """A grey image.

    Raises:
        ValueError: missing, damaged, or of another size.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        pixels = np.array(Image.open(path).convert("L"))
    except (OSError, UnidentifiedImageError) as error:
        raise argument_error(f"read {path}", f"no readable image ({error})", "a PNG", UNPACK) from error
    if pixels.shape != (size, size):
        raise argument_error(
            f"read {path}", f"{pixels.shape} pixels", f"({size}, {size})", f"set size={pixels.shape[0]}"
        )
    return pixels
