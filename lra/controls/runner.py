"""Running the reduced protocol: its cells by several processes, resumable at any time."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..data.parallel import in_order
from ..tasks import create_task
from ..training.grid import end_with_parent, finish_or_record
from .cells import Cell
from .negative_controls import negative_control


def run_cells(
    chosen: Sequence[Cell],
    folder: Path,
    *,
    data_root: Path | None = None,
    workers: int = 2,
    quick: bool = False,
    quiet: bool = False,
) -> Iterator[tuple[Cell, str | None]]:
    """Run what is not finished yet, ``workers`` at a time; each cell with its error, if it ended with one.

    A cell that fails leaves its error in its folder, the others go on; the next call tries it again.

    Args:
        chosen: the cells, in the order to run them.
        folder: of the run folders.
        data_root: of the prepared data.
        workers: processes.
        quick: tiny models and data, for tests of the protocol.
        quiet: no progress bars while data are prepared.

    Raises:
        ValueError: the data cannot be prepared.
    """
    for recipe in {cell.task: cell.recipe(quick) for cell in chosen}.values():
        create_task(recipe.task, recipe.task_options).prepare(data_root, workers=workers, quiet=quiet)
    yield from in_order(_run_cell, ((cell, folder, data_root, quick) for cell in chosen), workers)


def _run_cell(cell: Cell, folder: Path, data_root: Path | None, quick: bool) -> tuple[Cell, str | None]:
    end_with_parent()
    with negative_control(cell.control):
        return cell, finish_or_record(cell.recipe(quick), folder / cell.folder, data_root)
