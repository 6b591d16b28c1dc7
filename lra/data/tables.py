"""Reading public data sets: parquet files, or the ``datasets`` library where there is a network."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqconv_kernels._core.errors import argument_error


def parquet_rows(source: Path, split: str, columns: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    """Rows of ``<split>*.parquet``, in ``source`` or one folder below it, in the order of the files' names.

    Raises:
        ValueError: damaged, or a column is missing.
    """
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    for path in parquet_files(source, split):
        remedy = "take a fresh copy of the file"
        try:
            table = parquet.read_table(path)
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise argument_error(
                f"read {path}", f"no readable parquet file ({error})", "a parquet file", remedy
            ) from error
        missing = [column for column in columns if column not in table.column_names]
        if missing:
            got = f"columns {', '.join(table.column_names)}"
            raise argument_error(f"read {path}", got, f"{', '.join(columns)}", remedy)
        for batch in table.to_batches():
            yield from zip(*(batch.column(column).to_pylist() for column in columns), strict=True)


def parquet_files(source: Path, split: str) -> list[Path]:
    """Parquet files of a split."""
    return sorted([*source.glob(f"{split}*.parquet"), *source.glob(f"*/{split}*.parquet")])


def hub_rows(
    task: str, name: str, split: str, columns: tuple[str, ...], config: str | None = None
) -> Iterator[tuple[Any, ...]]:
    """Rows of a public data set, in one of its configurations, through ``datasets``.

    Raises:
        ValueError: there is no network, or no such data set.
    """
    import datasets  # type: ignore[import-untyped]

    try:
        rows = datasets.load_dataset(name, config, split=split)
    except Exception as error:
        remedy = f"download it elsewhere and give its folder: 'python -m lra prepare {task} source=FOLDER'"
        got = f"no data set {name} ({type(error).__name__}: {error})"
        raise argument_error(f"prepare {task}", got, "a network, or the files", remedy) from error
    missing = [column for column in columns if column not in rows.column_names]
    if missing:
        got, wanted = f"columns {', '.join(rows.column_names)}", ", ".join(columns)
        raise argument_error(f"prepare {task}", f"{name} with {got}", wanted, "take another copy of the data set")
    for row in rows:
        yield tuple(row[column] for column in columns)
