"""``python -m benchmarks [OP ...]``: measure ops and write ``benchmarks/results/<op>.json`` and ``.md``."""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import torch

from . import measure

OPS = (
    "selective_scan",
    "online_convolution",
    "gated_linear_attention",
    "ssd",
    "delta_rule",
    "tree_conv",
    "instruction_sets",
    "threads",
)
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("ops", nargs="*", metavar="OP", help=f"of {', '.join(OPS)} [all]")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0, help="per row [5]")
    options = parser.parse_args()
    unknown = set(options.ops) - set(OPS)
    if unknown:
        parser.error(f"unknown op {', '.join(sorted(unknown))}; known: {', '.join(OPS)}")
    measure.keep_memory()
    torch.set_num_threads(options.threads)
    for op in options.ops or OPS:
        rows = importlib.import_module(f".{op}", __package__).measure(options.seconds)
        report = measure.record(measure.Machine.here(), rows)
        _write(f"{op}-{options.threads}-thread{'s' * (options.threads > 1)}", report)


def _write(name: str, report: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    text = table(name, report)
    (RESULTS / f"{name}.md").write_text(text)
    print(text)


def table(name: str, report: dict[str, Any]) -> str:
    """The report as Markdown: milliseconds, and how many times longer the best of the others takes."""
    lines = [f"# {name}", "", " · ".join(f"{k} {v}" for k, v in report["machine"].items()), ""]
    lines += ["| shape | direction | seqconv ms | others ms | ratio to the best |", "|---|---|---|---|---|"]
    for row in report["rows"]:
        ms = dict(row["ms"])
        ours = ms.pop("seqconv")
        others = ", ".join(f"{k} {v:.1f}" for k, v in ms.items()) or "–"
        ratio = f"{min(ms.values()) / ours:.1f}" if ms else "–"
        lines.append(f"| {row['shape']} | {row['direction']} | {ours:.2f} | {others} | {ratio} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
