"""Writing a checkpoint folder so that it is either as before or whole."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

WEIGHTS = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?")


@contextmanager
def written_whole(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty folder next to ``folder``; move its files there if the block succeeds, else leave no trace.

    Weight files of an earlier save that the new one does not write are removed, lest two sets are mixed.
    """
    target = Path(folder)
    made = [path for path in (target, *target.parents) if not path.exists()]
    target.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryDirectory(prefix=".partial-", dir=target) as name:
            partial = Path(name)
            yield partial
            _move(partial, target)
    except BaseException:
        for path in made:
            if not any(path.iterdir()):
                path.rmdir()
        raise


def _move(partial: Path, target: Path) -> None:
    """Weights first, the configuration last: where it exists, so does what it describes."""
    new = sorted(partial.iterdir(), key=lambda path: (path.suffix == ".json", path.name == "config.json"))
    if any(WEIGHTS.fullmatch(path.name) for path in new):
        kept = {path.name for path in new}
        for old in target.iterdir():
            if WEIGHTS.fullmatch(old.name) and old.name not in kept:
                old.unlink()
    for path in new:
        os.replace(path, target / path.name)
