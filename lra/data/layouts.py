"""Finding the files of a data set, which people unpack into folders of different depth."""

from collections.abc import Iterable
from pathlib import Path

from seqconv_kernels._core.errors import argument_error

MEGA_ARCHIVE = "MEGA's lra.zip (https://dl.fbaipublicfiles.com/mega/data/lra.zip)"
RELEASE = f"lra_release.gz (https://storage.googleapis.com/long-range-arena/lra_release.gz) or {MEGA_ARCHIVE}"
"""Where the benchmark's own files are; the first address no longer answers everywhere."""
IMDB = "aclImdb_v1.tar.gz (https://ai.stanford.edu/~amaas/data/sentiment) or stanfordnlp/imdb of the hub"
CIFAR = "cifar-10-python.tar.gz (https://www.cs.toronto.edu/~kriz/cifar.html) or uoft-cs/cifar10 of the hub"


def find(task: str, source: Path, layouts: Iterable[str], name: str, remedy: str) -> Path:
    """The first ``source / layout / name`` that exists.

    Args:
        task: name of the task, for the message.
        source: the folder that was given.
        layouts: folders below it, ``""`` for itself.
        name: of the file or folder.
        remedy: what to do if there is none.

    Raises:
        ValueError: there is none.
    """
    tried = [source / layout / name for layout in layouts]
    for path in tried:
        if path.exists():
            return path
    raise argument_error(f"prepare {task}", f"no {name} in {source}", " or ".join(map(str, tried)), remedy)


def unpacked(inside: str) -> tuple[str, str, str]:
    """``inside`` the given folder, or the benchmark's archive unpacked once or twice nested."""
    return inside, f"lra_release/{inside}", f"lra_release/lra_release/{inside}"
