"""Tables of the ``seqconv`` command: whatever the width, nothing in them is cut off.

The first column, which names a row, stays on one line; cells of the others are broken over several. Output that goes
to a file or another program has one line for each row, so that ``grep`` finds all of it.
"""

import os
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

PIPED_WIDTH = 10_000
"""Characters of a line that goes to no terminal."""
NARROWEST, FRAME = 8, 3
"""Characters of a column that is broken, and of the frame around each column."""


def names_table(*columns: str, title: str, caption: str | None = None, rows: Sequence[Sequence[str]] = ()) -> Table:
    """A table whose first column holds names."""
    table = Table(title=title, caption=caption)
    table.add_column(columns[0], no_wrap=True, overflow="fold")
    for column in columns[1:]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def pairs_table(title: str, rows: Sequence[tuple[str, str]]) -> Table:
    """Names and what belongs to them, without a header."""
    table = names_table("", "", title=title, rows=rows)
    table.show_header = False
    return table


def print_parts(*parts: Any) -> None:
    """Print tables and texts, on lines that hold the names of the tables at least."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=PIPED_WIDTH)
    least = max((_least_width(part) for part in parts if isinstance(part, Table)), default=0)
    if least > console.width:
        console = Console(width=least)
    for part in parts:
        console.print(part)


def _least_width(table: Table) -> int:
    """Characters that the names and the narrowest other columns take."""
    first = table.columns[0]
    names = max((len(str(cell)) for cell in (first.header, *first.cells)), default=0)
    return names + NARROWEST * (len(table.columns) - 1) + FRAME * len(table.columns) + 1
