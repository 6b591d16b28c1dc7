"""Published settings as data: a TOML table per mixer, read at a named commit of its source.

A table has ``source``, ``commit``, ``files`` that hold for all tasks, ``[values]`` and ``[differs]`` of all tasks, and
per task ``file``, ``values`` and ``differs``; language models have tables of their own, ``<mixer>_language.toml``.
Values go by the names that :meth:`~lra.recipes.recipe.Recipe.override` knows (``"none"`` for ``None``) and are those of
the source. ``differs`` gives the reason for every value in which the recipe departs from its source, and, under names
of its own, what the recipe has no field for.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from seqconv_kernels._core.errors import argument_error

from ..recipe import Recipe

FOLDER = Path(__file__).parent
LANGUAGE = ("enwik8", "wikitext103")
_KEYS = {"source": str, "commit": str, "files": list, "values": dict, "differs": dict}


@dataclass(frozen=True)
class PublishedSettings:
    """What a source publishes for a mixer on a task.

    Attributes:
        source: repository, commit and file.
        values: by the names of a recipe's overrides, in the source's values.
        differs: reasons for what the recipe does otherwise.
    """

    source: str
    values: Mapping[str, Any]
    differs: Mapping[str, str]

    def departures(self, recipe: Recipe) -> dict[str, str]:
        """Values in which a recipe departs from its source: ``recipe's, not source's``."""
        used = {name: "none" if value is None else value for name, (value, _) in recipe.overridable().items()}
        return {
            name: f"{used.get(name, 'none')}, not {value}"
            for name, value in self.values.items()
            if used.get(name, "none") != value
        }


@cache
def read_table(path: Path) -> dict[str, Any]:
    """A table of published settings.

    Raises:
        ValueError: missing, no TOML, or a part is missing or of another type.
    """
    operation, remedy = f"read published settings {path.name}", "restore the file from the package"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise argument_error(operation, str(error), "a TOML file", remedy) from error
    for key, kind in _KEYS.items():
        if not isinstance(table.get(key), kind):
            raise argument_error(operation, f"{key}={table.get(key)!r}", f"a {kind.__name__}", remedy)
    for task, part in table.items():
        if task not in _KEYS and not (isinstance(part, dict) and {"file", "values"} <= part.keys()):
            raise argument_error(operation, f"[{task}] {part!r}", "a table with file and values", remedy)
    return table


def published_settings(mixer: str, task: str, folder: Path = FOLDER) -> PublishedSettings:
    """The published settings of a mixer on a task.

    Raises:
        ValueError: the table is missing or malformed, or has no such task.
    """
    name = f"{mixer}_language.toml" if task in LANGUAGE else f"{mixer}.toml"
    table = read_table(folder / name)
    if task not in table:
        remedy = "restore the file from the package"
        raise argument_error(f"read published settings {name}", f"no [{task}]", "a table of the task", remedy)
    part = table[task]
    values, differs = ({**table[key], **part.get(key, {})} for key in ("values", "differs"))
    return PublishedSettings(f"{table['source']}, {table['commit'][:7]}, {part['file']}", values, differs)
