"""``python -m benchmarks.gpu``: check every Triton kernel against float64, time it beside its peers, write a report.

Needs a GPU, torch, Triton and transformers, no network and no installed seqconv: run it from the root of the project
with ``kernels`` on the path (``make gpu`` does). Without a GPU the same program runs at tiny sizes in Triton's
interpreter, and what it times then means nothing.
"""

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for gpu.json and gpu.md")
    parser.add_argument("--minutes", type=float, default=9.0, help="stop starting anything new after this time [9]")
    parser.add_argument("--only", default="", metavar="OP", help="names that begin so")
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    if not gpu and os.environ.get("TRITON_INTERPRET") != "1":  # Triton reads it when it is first imported
        os.execve(sys.executable, sys.orig_argv, os.environ | {"TRITON_INTERPRET": "1"})
    report = run(gpu, time.monotonic(), options.minutes, options.only)
    options.out.mkdir(parents=True, exist_ok=True)
    stem = "gpu" if gpu else "gpu-interpreted"
    (options.out / f"{stem}.json").write_text(json.dumps(report, indent=1) + "\n")
    text = markdown(report)
    (options.out / f"{stem}.md").write_text(text)
    print(text)
    failed = [row for row in report["checks"] if row["passed"] is False]
    sys.exit(f"{len(failed)} checks failed" if failed else 0)


def run(gpu: bool, start: float, minutes: float, only: str) -> dict[str, Any]:
    """All checks in half of the time at most, then the timings of the ops that passed them."""
    from .cases import checks
    from .checks import run_checks
    from .speed import cases, gpu_ceilings, measure

    device, size = ("cuda", "real") if gpu else ("cpu", "tiny")
    chosen = [check for check in checks(size) if check.op.startswith(only)]
    rows = []
    for row in run_checks(chosen, device, start + 30 * minutes):
        rows.append(row)
        print(*row.values(), flush=True)
    wrong = {row["op"] for row in rows if row["passed"] is False}
    sound = {row["op"] for row in rows if row["passed"]} - wrong
    ceilings = gpu_ceilings() if gpu else None
    timings: list[dict[str, Any]] = []
    for make in cases(not gpu, device):
        op = make.func.__name__.strip("_")  # type: ignore[attr-defined]
        if op not in sound:
            continue
        if time.monotonic() > start + 60 * minutes:
            timings.append({"shape": op, "direction": "not run: the time was up", "ms": {}})
            continue
        for row in measure(make(), ceilings):
            timings.append(row)
            print(*row.values(), flush=True)
    return {"machine": machine(gpu), "ceilings": asdict(ceilings) if ceilings else {}, "checks": rows, "rows": timings}


def machine(gpu: bool) -> dict[str, str]:
    """What the figures depend on besides the code."""
    import transformers
    import triton

    name = torch.cuda.get_device_name() if gpu else "none: Triton's interpreter"
    return {
        "gpu": name, "cuda": str(torch.version.cuda), "python": platform.python_version(),
        "torch": torch.__version__, "triton": triton.__version__, "transformers": transformers.__version__,
    }  # fmt: skip


def markdown(report: dict[str, Any]) -> str:
    """The report to read: one table of checks, one of times."""
    lines = ["# Triton kernels", "", " · ".join(f"{k} {v}" for k, v in report["machine"].items()), ""]
    if report["ceilings"]:
        copy, multiply = report["ceilings"]["copy"] / 1e12, report["ceilings"]["multiply"] / 1e12
        lines += [f"Measured ceilings: copy {copy:.2f} TB/s, bfloat16 matrix product {multiply:.0f} TFLOP/s.", ""]
    lines += ["| op | case | dtype | error | of | allowed | same bits again | |", "|---|---|---|---|---|---|---|---|"]
    lines += [_check_line(row) for row in report["checks"]]
    lines += ["", "| shape | direction | seqconv ms | others ms | best other / seqconv | share of the floor |"]
    lines += ["|---|---|---|---|---|---|", *map(_time_line, report["rows"])]
    return "\n".join(lines) + "\n"


def _check_line(row: dict[str, Any]) -> str:
    verdict = {True: "passed", False: "**FAILED**", None: "not run"}[row["passed"]]
    error = f"{row['error']:.1e}" if "error" in row else "–"
    cells = [row["op"], row["case"], row["dtype"], error, row.get("of", "–"), row.get("tolerance", "–"),
             row.get("repeatable", "–"), f"{verdict} {row['note']}"]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def _time_line(row: dict[str, Any]) -> str:
    ms = dict(row["ms"])
    ours = ms.pop("seqconv", None)
    if ours is None:
        return f"| {row['shape']} | {row['direction']} | – | – | – | – |"
    others = ", ".join(f"{k} {v:.3f}" for k, v in ms.items()) or "–"
    ratio = f"{min(ms.values()) / ours:.2f}" if ms else "–"
    share = f"{row['floor']['ms'] / ours:.0%} ({row['floor']['bound']})" if "floor" in row else "–"
    return f"| {row['shape']} | {row['direction']} | {ours:.3f} | {others} | {ratio} | {share} |"


if __name__ == "__main__":
    main()
