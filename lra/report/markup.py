"""Tables as text: Markdown, HTML, LaTeX and CSV; and sections of a page that a program writes."""

import csv
from collections.abc import Sequence
from html import escape
from io import StringIO
from pathlib import Path

from seqconv_kernels._core.errors import argument_error

from ..data.store import atomic_write

Table = Sequence[Sequence[str]]
"""Rows of cells, the header first."""
_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {"\\": r"\textbackslash{}"}
_LATEX |= {"±": r"$\pm$", "×": r"$\times$", "<": r"$<$", ">": r"$>$"}
_LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def markdown_table(table: Table) -> str:
    """Rows of cells in Markdown."""
    rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    return "\n".join([rows[0], "|" + " --- |" * len(table[0]), *rows[1:]])


def html_table(table: Table) -> str:
    """Rows of cells as a ``<table>``."""

    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{row(table[0], 'th')}{''.join(row(cells, 'td') for cells in table[1:])}</table>"


def latex_table(table: Table) -> str:
    """Rows of cells as a ``tabular`` with the rules of booktabs; the first column is set left, the others centred."""

    def row(cells: Sequence[str]) -> str:
        return " & ".join("".join(_LATEX.get(c, c) for c in cell) for cell in cells) + r" \\"

    body = [r"\toprule", row(table[0]), r"\midrule", *map(row, table[1:]), r"\bottomrule"]
    columns = "l" + "c" * (len(table[0]) - 1)
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", *body, r"\end{tabular}"]) + "\n"


def csv_table(table: Table) -> str:
    """Rows of cells as comma-separated values (RFC 4180 but for its line ends, which are plain)."""
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(table)
    return text.getvalue()


def marks(section: str) -> tuple[str, str]:
    """The lines before and after a section of a page that is written by a program."""
    return f"<!-- {section} -->\n", f"<!-- end of {section} -->"


def put_into(page: Path, text: str, section: str) -> None:
    """Replace the text between the two marks of a section of a page.

    Raises:
        ValueError: a mark is missing.
    """
    opens, closes = marks(section)
    before, opened, rest = page.read_text(encoding="utf-8").partition(opens)
    _, closed, after = rest.partition(closes)
    if not opened or not closed:
        remedy = f"write {opens.strip()!r} and {closes!r} where the tables belong"
        raise argument_error("put tables into a page", f"{page} without the marks", "both marks", remedy)
    atomic_write(page, before + opened + "\n" + text + "\n" + closed + after)
