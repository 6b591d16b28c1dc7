"""``python -m benchmarks [OP ...]``: measure ops, write ``results/<op>-<threads>-<instruction set>.json`` and ``.md``.

With ``--sweep``: time and memory against the length, with a plot. ``python -m benchmarks table`` measures nothing: it
writes what was measured into ``kernels/README.md``, which every run of an op does too; ``python -m benchmarks results``
writes all figures into ``docs/results.md`` and draws the picture of ``README.md``.
"""

import argparse
import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from . import measure, page, results_page
from .case import compare
from .memory import extra
from .table import OPS, build

OWN = (
    "online_convolution",
    "step_share",
    "lra_training",
    "lra_loading",
    "lra_efficiency",
    "instruction_sets",
    "threads",
    "decoding_linear",
    "decoding",
    "accelerate",
    "training_steps",
    "vision_blocks",
    "vision_resolution",
)
"""Measurements with rows of their own kind: ``benchmarks/<name>.py`` makes them."""
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("ops", nargs="*", metavar="OP", help=f"of {', '.join(OPS + OWN)} [all]")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0, help="per row [5]")
    parser.add_argument("--no-memory", action="store_true", help="leave out the peaks of memory")
    parser.add_argument("--sweep", action="store_true", help="against the length, with a plot")
    options = parser.parse_args()
    if options.ops == ["table"]:
        page.update(RESULTS)
        return
    if options.ops == ["results"]:
        results_page.update()
        return
    unknown = set(options.ops) - {*OPS, *OWN}
    if unknown:
        parser.error(f"unknown op {', '.join(sorted(unknown))}; known: {', '.join(OPS + OWN)}")
    measure.keep_memory()
    torch.set_num_threads(options.threads)
    for op in options.ops or (OPS if options.sweep else OPS + OWN):
        _run(op, options)
    page.update(RESULTS)


def _run(op: str, options: argparse.Namespace) -> None:
    name = f"{op}-{options.threads}-thread{'s' * (options.threads > 1)}"
    module: Any = import_module(f".{op}", __package__)
    if op in OWN:
        _run_own(name, module, options.seconds)
        return
    name += f"-{measure.Machine.here().instruction_set}" + "-sweep" * options.sweep
    ceilings = measure.Ceilings.here()
    cases = map(str, module.SWEEP) if options.sweep else module.NAMES
    rows = [row for case in cases for row in _rows(op, case, options, ceilings)]
    report = measure.record(measure.Machine.here(), rows, ceilings)
    _write(name, report)
    if options.sweep:
        from .plot import plot

        plot(report, f"{op}, {options.threads} thread{'s' * (options.threads > 1)}", RESULTS / f"{name}.svg")


def _run_own(name: str, module: Any, seconds: float) -> None:
    """Rows of a kind of their own; without any, because an original is not there, nothing is written."""
    rows = module.measure(seconds)
    if not rows:
        print(f"{name}: nothing to measure, see {module.__name__}")
        return
    report = measure.record(measure.Machine.here(), rows)
    if hasattr(module, "summary"):
        report["summary"] = module.summary(report)
    _write(name, report)
    if hasattr(module, "draw"):
        module.draw(report, RESULTS / f"{name}.svg")


def _rows(op: str, case: str, options: argparse.Namespace, ceilings: measure.Ceilings) -> Iterator[dict[str, Any]]:
    for row in compare(build(op, case), options.seconds, ceilings):
        if not options.no_memory:
            row["mb"] = {name: extra(op, case, name, str(row["direction"])) for name in row["ms"]}
        yield row


def _write(name: str, report: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    text = text_table(name, report)
    (RESULTS / f"{name}.md").write_text(text)
    print(text, flush=True)


def text_table(name: str, report: dict[str, Any]) -> str:
    """The report as Markdown: how many times longer and larger the best of the others is, and how far the floor."""
    lines = [f"# {name}", "", " · ".join(f"{k} {v}" for k, v in report["machine"].items()), ""]
    if "ceilings" in report:
        copy, multiply = report["ceilings"]["copy"] / 1e9, report["ceilings"]["multiply"] / 1e9
        lines += [f"Measured ceilings: copy {copy:.1f} GB/s, float32 matrix product {multiply:.0f} GFLOP/s.", ""]
    lines += [report["summary"], ""] if "summary" in report else []
    lines += ["| shape | direction | seqconv ms | others ms | best other / seqconv | floor ms | share of it | MB |"]
    lines += ["|---|---|---|---|---|---|---|---|", *map(_line, report["rows"])]
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    ms = dict(row["ms"])
    seqconv_ms = ms.pop("seqconv")
    others = ", ".join(f"{k} {v:.1f}" for k, v in ms.items()) or "–"
    ratio = f"{min(ms.values()) / seqconv_ms:.1f}" if ms else "–"
    floor, share = "–", "–"
    if "floor" in row:
        floor, share = f"{row['floor']['ms']:.2f} ({row['floor']['bound']})", f"{row['floor']['ms'] / seqconv_ms:.0%}"
    memory = ", ".join(f"{k} {v:.0f}" for k, v in row.get("mb", {}).items()) or "–"
    head = f"| {row['shape']} | {row['direction']} | {seqconv_ms:.2f}"
    return f"{head} | {others} | {ratio} | {floor} | {share} | {memory} |"


if __name__ == "__main__":
    main()
