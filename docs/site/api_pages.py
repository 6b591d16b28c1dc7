"""One page of the reference per package: the public names of its modules, from their docstrings."""

import ast
from functools import cache
from pathlib import Path
from types import ModuleType

import seqconv
from seqconv import list_mixers
from seqconv.registry import mixer_entry

ROOT = Path(__file__).parents[2]
SOURCES = {"seqconv": ROOT / "seqconv", "seqconv_kernels": ROOT / "kernels" / "seqconv_kernels", "lra": ROOT / "lra"}
IMPLEMENTATIONS = ("cpu", "triton", "operator", "grid", "chunked")
"""Implementations of an op, which its function chooses: no module that a user imports."""


def pages() -> dict[str, str]:
    """The index, and a page per package of two levels."""
    listed = "".join(f"\n   {title}" for title in _modules())
    front = "".join(f"- :py:obj:`~{_path(name)}`\n" for name in sorted(seqconv.__all__))
    tree = f".. toctree::\n   :hidden:\n{listed}\n"
    index = f"What ``from seqconv import …`` offers:\n\n{front}\n{tree}"
    made = {"api/index.rst": f"{_heading('API', '=')}{index}"}
    for title, modules in _modules().items():
        made[f"api/{title}.rst"] = _heading(title, "=") + "".join(_module(module) for module in modules)
    return made


def _path(name: str) -> str:
    value = getattr(seqconv, name)
    return str(value.__name__) if isinstance(value, ModuleType) else f"{value.__module__}.{value.__name__}"


def _heading(title: str, line: str) -> str:
    return f"{title}\n{line * len(title)}\n\n"


def _module(module: str) -> str:
    return _heading(module, "-") + f".. automodule:: {module}\n   :members:\n\n"


@cache
def _modules() -> dict[str, list[str]]:
    """Modules that define public names, by package; the files of mixers have pages of their own."""
    found: dict[str, list[str]] = {}
    with_pages = {mixer_entry(name).mixer.__module__ for name in list_mixers()}
    for package, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = (package, *path.relative_to(folder).with_suffix("").parts)
            module = ".".join(parts).removesuffix(".__init__")
            if _is_public(parts) and _has_public_names(path) and module not in with_pages:
                title = package if path.parent == folder or package != "seqconv" else ".".join(parts[:2])
                found.setdefault(title, []).append(module)
    return dict(sorted(found.items()))


def _is_public(parts: tuple[str, ...]) -> bool:
    private = any(part.startswith("_") and part not in ("__init__", "_create_mixer") for part in parts)
    return not private and not (parts[0] == "seqconv_kernels" and parts[-1].startswith(IMPLEMENTATIONS))


def _has_public_names(path: Path) -> bool:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    kinds = (ast.FunctionDef, ast.ClassDef)
    return any(isinstance(node, kinds) and not node.name.startswith("_") for node in body)
