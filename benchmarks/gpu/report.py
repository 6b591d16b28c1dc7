"""The report: JSON with everything, Markdown to read, both rewritten after every result."""

import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from seqconv_kernels._core.registry import ops

from . import targets
from .workers import Row

Report = dict[str, Any]


def empty(gpu: bool) -> Report:
    """A report without results."""
    return {"machine": machine(gpu), "ceilings": {}, "checks": [], "prepared": [], "rows": [], "alternatives": []}


def continued(gpu: bool, part: str, file: Path) -> Report:
    """A report for one part of the work, with what an earlier run on the same machine left of the other part."""
    report, kept = empty(gpu), {"checks": ("ceilings", "prepared", "rows"), "times": ("checks",)}.get(part, ())
    if kept and file.exists():
        earlier = json.loads(file.read_text())
        if earlier["machine"] == report["machine"]:
            report |= {name: earlier[name] for name in kept}
    return report


def withdrawals(report: Report) -> list[str]:
    """Entries for ``seqconv_kernels/_core/triton/withdrawn.py``: every op and dtype whose kernel failed a check."""
    entries = []
    for op, dtype in sorted(_wrong(report["checks"])):
        failed = [row for row in report["checks"] if (row["op"], row["dtype"], row["passed"]) == (op, dtype, False)]
        (path,) = (i.run.path for i in ops()[op].op.implementations if i.name == "triton")
        why = f"{len(failed)} checks failed on {report['machine']['gpu']}, see benchmarks/results/gpu.md"
        entries.append(f'("{path}", torch.{dtype}): "{why}",')
    return entries


def machine(gpu: bool) -> dict[str, str]:
    """What the figures depend on apart from the code."""
    import transformers
    import triton

    name = torch.cuda.get_device_name() if gpu else "none: Triton's interpreter"
    return {
        "gpu": name, "cuda": str(torch.version.cuda), "python": platform.python_version(),
        "torch": torch.__version__, "triton": triton.__version__, "transformers": transformers.__version__,
    }  # fmt: skip


def write(report: Report, folder: Path, stem: str) -> None:
    """Both files, each under a temporary name first, so that a reader finds whole ones."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".json", json.dumps(report, indent=1) + "\n"), (".md", markdown(report))):
        partial = folder / f"{stem}{suffix}.part"
        partial.write_text(text)
        partial.replace(folder / f"{stem}{suffix}")


def markdown(report: Report) -> str:
    """Targets, what failed, times, where they go, all checks."""
    lines = ["# Triton kernels", "", " · ".join(f"{k} {v}" for k, v in report["machine"].items()), ""]
    if report["ceilings"]:
        copy, multiply = report["ceilings"]["copy"] / 1e12, report["ceilings"]["multiply"] / 1e12
        lines += [f"Measured ceilings: copy {copy:.2f} TB/s, bfloat16 matrix product {multiply:.0f} TFLOP/s.", ""]
    if report["alternatives"]:
        lines += [*_alternatives(report["alternatives"]), ""]
    if report["rows"]:
        lines += ["## Targets", "", *targets.lines(report["rows"], report["ceilings"]), ""]
        lines += ["## Times", "", *_times(report["rows"], _wrong(report["checks"])), ""]
        lines += ["## Kernels of a call", "", *_kernels(report["rows"]), ""]
    wrong = [f"    {entry}" for entry in withdrawals(report)]
    lines += ["## To be withdrawn in `_core/triton/withdrawn.py`", "", *wrong, ""] if wrong else []
    lines += [*_notes([*report["rows"], *report["prepared"]]), *_checks(report["checks"])]
    return "\n".join(lines) + "\n"


def _wrong(checks: list[Row]) -> set[tuple[str, str]]:
    """Ops and dtypes that failed a check: their times are given, but not without this."""
    return {(row["op"], row["dtype"]) for row in checks if row["passed"] is False}


def _times(rows: list[Row], wrong: set[tuple[str, str]]) -> Iterator[str]:
    yield (
        "| op | case | dtype | direction | seqconv ms | its kernels ms | GB/s | TFLOP/s | others ms "
        "| best other / seqconv | share of the floor |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        yield _time_line(row, (row["op"], row["dtype"]) in wrong)


def _time_line(row: Row, wrong: bool) -> str:
    op = f"{row['op']} **(failed checks)**" if wrong else row["op"]
    head = f"| {op} | {row['case']} | {row['dtype']} | {row.get('direction', '')} |"
    ms = dict(row.get("ms", {}))
    own = ms.get("seqconv")
    if own is None:
        return f"{head} {_short(row.get('note') or row.get('notes', {}).get('seqconv', '–'), 160)} | | | | | | |"
    others = {name: time for name, time in ms.items() if not name.startswith("seqconv")}
    said = ", ".join(f"{name} {time:.3f}" for name, time in ms.items() if name != "seqconv") or "–"
    best = min(time for name, time in ms.items() if name.startswith("seqconv"))
    ratio = f"{min(others.values()) / best:.2f}" if others else "–"
    share = f"{row['floor']['ms'] / own:.0%} ({row['floor']['bound']})" if "floor" in row else "–"
    kernels = f"{sum(row['kernels'].values()):.3f}" if row.get("kernels") else "–"
    rates = f"{row['moved'] / own / 1e6:.0f} | {row['operations'] / own / 1e9:.1f}"
    return f"{head} {own:.3f} | {kernels} | {rates} | {said} | {ratio} | {share} |"


def _kernels(rows: list[Row]) -> Iterator[str]:
    yield "| op | case | dtype | direction | ms of each kernel |"
    yield "|---|---|---|---|---|"
    for row in rows:
        if row.get("kernels"):
            spent = ", ".join(f"{_short(name, 50)} {ms:.3f}" for name, ms in list(row["kernels"].items())[:12])
            yield f"| {row['op']} | {row['case']} | {row['dtype']} | {row['direction']} | {spent} |"


def _notes(rows: list[Row]) -> list[str]:
    """What went wrong with contenders, and those that compute something else."""
    said = []
    for row in rows:
        head = f"- {row['op']}, {row['case']}, {row['dtype']}, {row.get('direction', '')}"
        said += [f"{head}: {name}: {_short(note, 700)}" for name, note in row.get("notes", {}).items()]
        said += [f"{head}: {_short(row['note'], 700)}"] if row.get("note") else []
        said += [f"{head}: {n} is {apart:.1e} apart" for n, apart in row.get("apart", {}).items() if not apart < 0.03]
    return ["## Notes", "", *dict.fromkeys(said), ""] if said else []


def _checks(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    order = sorted(rows, key=lambda row: {False: 0, None: 1, True: 2}[row["passed"]])
    head = ["| op | case | dtype | error | of | allowed | same bits again | |", "|---|---|---|---|---|---|---|---|"]
    return ["## Checks", "", *head, *map(_check_line, order)]


def _check_line(row: Row) -> str:
    verdict = {True: "passed", False: "**FAILED**", None: "not run"}[row["passed"]]
    error = f"{row['error']:.1e}" if "error" in row else "–"
    cells = [row["op"], row["case"], row["dtype"], error, row.get("of", "–"), row.get("tolerance", "–"),
             row.get("repeatable", "–"), f"{verdict} {_short(row['note'], 700)}"]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def _alternatives(rows: list[Row]) -> Iterator[str]:
    """Per case the choices, the fastest first."""
    yield "| op | case | choice | forward ms | forward + backward ms | |"
    yield "|---|---|---|---|---|---|"
    cases = dict.fromkeys((row["op"], row["case"], row["dtype"]) for row in rows)
    for case in cases:
        of_case = [row for row in rows if (row["op"], row["case"], row["dtype"]) == case]
        for row in sorted(of_case, key=lambda row: row.get("ms", [float("inf")] * 2)[-1]):
            forward, both = (f"{ms:.3f}" for ms in row["ms"]) if "ms" in row else ("–", "–")
            said = _short(row.get("note", ""), 200)
            yield f"| {row['op']} | {row['case']}, {row['dtype']} | {row['choice']} | {forward} | {both} | {said} |"


def _short(text: str, most: int) -> str:
    flat = " ".join(text.replace("|", "/").split())
    return flat if len(flat) <= most else f"{flat[: most // 2]} ... {flat[-most // 2 :]}"
