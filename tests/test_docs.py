"""Code in README.md, docs/ and docstrings runs and gives what it shows; links lead somewhere."""

import doctest
import inspect
import json
import re
from importlib import import_module
from pathlib import Path

import pytest
import torch

import seqconv
from benchmarks import results_page
from seqconv import list_mixers, registry
from seqconv.cli.doctor import ops
from seqconv.cli.tables import describe_state, measure_work, tables
from seqconv.interop import importer, list_originals
from seqconv_kernels._core.registry import ops as all_ops

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "kernels" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[tuple[int, str]]:
    """The Python blocks of a page, each with the line its code starts on."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start(1)), m.group(1)) for m in BLOCK.finditer(text)]


def has_examples() -> list[str]:
    """Modules of the packages whose docstrings hold examples."""
    folders = [(ROOT, "seqconv"), (ROOT / "kernels", "seqconv_kernels"), (ROOT, "lra")]
    found = []
    for base, package in folders:
        for path in sorted((base / package).rglob("*.py")):
            if ">>> " in path.read_text(encoding="utf-8"):
                found.append(".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__"))
    return found


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=name_of)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    """The blocks of one page share their names; lines with >>> also show what they must give."""
    monkeypatch.chdir(tmp_path)
    list_mixers(), list_originals()
    monkeypatch.setattr(registry._MIXERS, "entries", dict(registry._MIXERS.entries))
    monkeypatch.setattr(importer, "_IMPORTERS", dict(importer._IMPORTERS))
    torch.manual_seed(0)
    names: dict[str, object] = {"__name__": "page"}
    for line, code in blocks(page):
        if code.startswith(">>>"):
            examples = doctest.DocTestParser().get_doctest(code, names, name_of(page), str(page), line)
            report: list[str] = []
            failed, _ = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(
                examples, out=report.append, clear_globs=False
            )
            assert failed == 0, "".join(report)
            names |= examples.globs
        else:
            exec(compile("\n" * line + code, str(page), "exec"), names)


@pytest.mark.parametrize("module", has_examples())
def test_the_examples_of_docstrings_hold(module):
    assert doctest.testmod(import_module(module), optionflags=doctest.ELLIPSIS).failed == 0


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_fences_are_closed(page):
    assert page.read_text(encoding="utf-8").count("\n```") % 2 == 0


def table(page: str, header: str) -> list[list[str]]:
    """The cells of the table under a header row, code marks removed."""
    text = (ROOT / page).read_text(encoding="utf-8")
    rows = text[text.index(header) :].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows]


def test_the_tables_of_mixers_are_those_of_the_registry():
    """Mend with ``python -m seqconv.cli.tables``."""
    for path, text in tables().items():
        assert path.read_text(encoding="utf-8") == text, f"{name_of(path)}: run python -m seqconv.cli.tables"


def test_the_tables_of_mixers_measure_what_is_known():
    """Mamba: 2 · 16 numbers of its scan and 2 · 3 of its convolution; attention: a key and a value per token."""
    assert describe_state("mamba") == "constant, 38"
    assert describe_state("attention") == "growing, 2 per token"
    assert measure_work("attention") == ("n²", ())
    assert measure_work("mamba") == ("n", ("causal_conv1d", "selective_scan"))
    assert measure_work("s4d")[0] == "n log n"


def test_the_table_of_ops_says_what_each_can_do():
    listed = {name: tuple(cells) for name, _, *cells in table("kernels/README.md", "| op | computes |")}
    found = {}
    for name, entry in ops().items():
        options = inspect.signature(entry.function).parameters
        enters = bool({"initial_state", "history"} & options.keys())
        leaves = bool({"return_final_state", "return_history"} & options.keys())
        step = f"{name}_step" in all_ops()
        answers = ("in, out" if leaves else "in", "yes" if "cu_seqlens" in options else "no", "yes" if step else "no")
        found[name] = answers if enters else ("-", "-", "-")
    assert listed == found


def test_the_table_of_implementations_is_that_of_the_code():
    listed = {name: cells for name, *cells in table("kernels/README.md", "| op | forward and backward |")}
    found = ops()
    assert listed.keys() == found.keys()
    for name, entry in found.items():
        whole, bounded, token = listed[name]
        assert re.findall(r"[\w-]+", whole) == [i.name for i in entry.op.implementations], name
        assert (bounded != "-") == ("cu_seqlens" in inspect.signature(entry.function).parameters), name
        step = all_ops().get(f"{name}_step")
        wanted = [] if step is None else [i.name for i in step.op.implementations]
        assert re.findall(r"\w[\w-]*", token) == wanted, name


def test_every_original_is_listed():
    listed = [original for original, _ in table("docs/importing.md", "| original | seqconv's module |")]
    assert sorted(listed) == list_originals(), "the table of docs/importing.md has one row for each"


def test_the_public_names_are_those_that_pages_speak_of():
    """Every name of the front door is explained on a page, and pages import no name that it does not have."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in seqconv.__all__ if not re.search(rf"\b{name}\b", text)] == []
    imported = {
        name.strip()
        for names in re.findall(r"^from seqconv import \(?([\w, \n]+)\)?$", text, re.MULTILINE)
        for name in names.split("\n\n")[0].replace("\n", ",").split(",")
        if name.strip().isidentifier()
    }
    assert {name for name in imported if not hasattr(seqconv, name)} == set()


def test_the_page_of_results_is_that_of_the_files():
    """Mend with ``python -m benchmarks results``."""
    assert results_page.table() in results_page.PAGE.read_text(encoding="utf-8")


def test_results_tell_their_range_over_shapes(tmp_path):
    rows = [
        {"direction": "forward", "ms": {"seqconv": 1.0, "a": 3.0, "b": 2.0}, "mb": {"seqconv": 2, "a": 8}},
        {"direction": "forward", "ms": {"seqconv": 2.0, "a": 10.0}, "mb": {"seqconv": 0.1, "a": 8}},
    ]
    machine = {"processor": "P", "instruction_set": "plain", "torch": "2", "date": "2026-01-01"}
    report = {"machine": machine, "allocator": {}, "rows": rows}
    (tmp_path / "op-2-threads-plain.json").write_text(json.dumps(report))
    line = results_page.table(tmp_path).splitlines()[2]
    assert "a, b | forward 2.0 to 5.0 × | 4.0 × | `python -m benchmarks op --threads 2` | P, plain, torch 2" in line


def test_the_site_has_a_place_for_every_page():
    """Pages outside of the sections would be found by search alone."""
    site = (ROOT / "docs" / "site" / "build.py").read_text(encoding="utf-8")
    pages = [page.relative_to(ROOT / "docs").with_suffix("").as_posix() for page in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if f'"{page}"' not in site] == []
