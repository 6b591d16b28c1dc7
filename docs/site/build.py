"""``python docs/site/build.py SOURCES`` writes the sources of the site: pages of the repository, mixers and modules.

Pages are written with links to files of the repository; in the site those lead to the page made of the file, or to a
copy of it.
"""

import posixpath
import re
import shutil
import sys
from pathlib import Path

import api_pages
import gallery
import mixer_pages

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "kernels/README.md": "kernels.md",
}
"""Files outside of docs/ that are pages of the site."""
LINK = re.compile(r"(\]\(|(?:src|srcset)=\")(?!https?:|#|mailto:)([^)#\"\s]+)(#[^)\"\s]*)?([)\"])")
SECTIONS = {
    "Tutorials": ["tutorials/language_model", "tutorials/import_and_distil", "tutorials/classify", "tutorials/lra"],
    "Guides": [
        *(
            "choosing",
            "huggingface",
            "accelerate",
            "shims",
            "decoding",
            "distillation",
            "importing",
            "sampling_rate",
            "vision",
            "gallery",
        ),
        *("lra", "lra_runs", "tasks"),
    ],
    "Mixers": ["table_of_mixers", *mixer_pages.FAMILY_PAGES, "mixers"],
    "Results": ["results", "kernels", "benchmarks", "ecosystem"],
    "Reference": ["api/index", "contracts", "errors", "design"],
    "Project": ["contributing", "changelog", "security"],
}


def main(target: Path) -> None:
    """Write all sources into an empty folder."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "docs" / "site" / "_static", target / "_static")
    shutil.copy(ROOT / "docs" / "site" / "conf.py", target)
    pages = {ROOT / source: page for source, page in PAGES.items()}
    docs = ROOT / "docs"
    pages |= {path: str(path.relative_to(docs)) for path in sorted(docs.rglob("*.md")) if "site" not in path.parts}
    linked: set[str] = set()
    for source, page in pages.items():
        text = source.read_text(encoding="utf-8")
        text = gallery.filled(text) if source.name == "gallery.md" else text
        _write(target / page, _with_links(text, source.relative_to(ROOT), page, linked))
    _copy_linked(linked, target)
    with (target / "index.md").open("a", encoding="utf-8") as index:
        index.write("".join(_toctree(title, entries) for title, entries in SECTIONS.items()))
    for page, text in (mixer_pages.pages() | api_pages.pages()).items():
        _write(target / page, text)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _toctree(title: str, entries: list[str]) -> str:
    return f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n" + "\n".join(entries) + "\n```\n"


def _with_links(text: str, source: Path, page: str, linked: set[str]) -> str:
    """The text of a page, its links leading to places in the site; what is not a page is noted in ``linked``."""
    here = posixpath.dirname(page)

    def rewrite(match: re.Match[str]) -> str:
        opening, link, anchor, closing = match.groups()
        path = posixpath.normpath(posixpath.join(source.parent.as_posix(), link))
        if _place(path).startswith("files/"):
            linked.add(path)
        return f"{opening}{posixpath.relpath(_place(path), here or '.')}{anchor or ''}{closing}"

    return LINK.sub(rewrite, text)


def _place(path: str) -> str:
    """Where a file of the repository is in the site."""
    if path in PAGES:
        return PAGES[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path}"


def _copy_linked(linked: set[str], target: Path) -> None:
    """Copies of linked files; Markdown files become pages without a place in the navigation."""
    for path in sorted(linked):
        copy = target / "files" / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".md"):
            _write(copy, "---\norphan: true\n---\n\n" + (ROOT / path).read_text(encoding="utf-8"))
        else:
            shutil.copy(ROOT / path, copy)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
