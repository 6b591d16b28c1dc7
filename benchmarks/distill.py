"""Distillation against its targets, in one run: ``python -m benchmarks.distill --threads 2``.

Before anything is timed, true recurrences must come back to 1e-10. Then, on filters of S4D, SGConv and Hyena as
initialised: the cost of 256 channels at order 16; H-infinity errors over the AAK bound; l2 errors and cost against
2,000 steps of gradient descent; and predicted and measured divergences of a language model. Everything timed
runs in turn, round after round, and medians are reported; processor time next to wall time, which means little on a
shared machine. Writes ``benchmarks/results/distill.json`` and ``.md``.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqconv import create_mixer
from seqconv.convolution.replacement import long_convolutions
from seqconv.distill import distill_filter

from .distill_model import BELOW, divergences
from .measure import Machine, record
from .spectral_lds import spectral_lds

RESULT = Path(__file__).parent / "results" / "distill"
TESTED = {"s4d": {}, "sgconv": {}, "hyena emb 3, w 1": {"emb_dim": 3}, "hyena emb 33, w 10": {"emb_dim": 33, "w": 10.0}}
SPECTRAL = "spectral"
SECONDS = {2048: 3.0, 8192: 12.0, 32768: 60.0}
"""Allowed for 256 channels at order 16, by length, on two threads."""
RATIO, CHEAPER, FACTOR, LOWER, RECOVERED = 2.5, 40, 1.5, 0.2, 1e-10

Row = dict[str, object]


def spectral_filters(length: int, count: int) -> Tensor:
    """The fixed filters of spectral transform units (Agarwal et al. 2024, arXiv 2312.06837, section 2).

    Eigenvectors of ``Z[i, j] = 2 / ((i + j)^3 - (i + j))``, i and j from 1, times the fourth roots of the eigenvalues.
    """
    i = torch.arange(1, length + 1, dtype=torch.float64)
    s = i[:, None] + i
    values, vectors = torch.linalg.eigh(2 / (s**3 - s))
    leading = values[-count:].clamp_min(0).flip(0)
    return vectors[:, -count:].flip(1).T * leading[:, None] ** 0.25


@torch.no_grad()
def impulse_responses(kind: str, channels: int, length: int) -> Tensor:
    """Filters of a mixer as initialised, (channels, length)."""
    if kind == SPECTRAL:
        return spectral_filters(length, channels)
    torch.manual_seed(0)
    name = kind.split()[0]
    options = {"l_max": length} if name != "s4d" else {}
    mixer = create_mixer(name, channels, **TESTED[kind], **options)
    (convolution,) = long_convolutions(mixer).values()
    taps: Tensor = convolution.filter(length)[:channels].double()
    return taps


def check_recovery(length: int = 600) -> Row:
    """Relative l2 error on true recurrences of orders 2 to 8.

    Raises:
        RuntimeError: one is not recovered to 1e-10; nothing else is measured then.
    """
    worst, t = 0.0, torch.arange(length, dtype=torch.float64)
    for pairs in (1, 2, 3, 4):
        k = torch.arange(pairs, dtype=torch.float64)[:, None]
        h = (0.95 - 0.05 * k) ** t * torch.cos(math.pi * (k + 0.5) / pairs * t + k)
        fitted = distill_filter(h.sum(0)[None], 2 * pairs, dtype=torch.float64).filter(length)[0]
        worst = max(worst, float(((fitted - h.sum(0)).norm() / h.sum(0).norm()).detach()))
    if worst > RECOVERED:
        raise RuntimeError(f"true recurrences come back to {worst:.2g}, more than {RECOVERED}; nothing was timed")
    return {"what": "recovery of true recurrences", "relative l2 error": worst, "met": True}


def cost(lengths: list[int], rounds: int, channels: int = 256, order: int = 16) -> list[Row]:
    """Seconds of distilling SGConv's filters and a Hyena's."""
    kinds = ("sgconv", "hyena emb 33, w 10")
    runs = {(n, kind): _run(impulse_responses(kind, channels, n), order) for n in lengths for kind in kinds}
    _run(impulse_responses("sgconv", 4, 256), 4)()
    rows: list[Row] = []
    for (length, kind), spent in _in_turn(runs, rounds)[1].items():
        allowed = SECONDS.get(length)
        rows.append({
            "what": "seconds for 256 channels at order 16", "filter": kind, "length": length, **spent,
            "allowed": allowed, "met": allowed is None or spent["wall"] <= allowed,
        })  # fmt: skip
    return rows


def nearness(channels: int, lengths: list[int]) -> list[Row]:
    """H-infinity error over the AAK bound, where the bound is not rounding."""
    rows: list[Row] = []
    for length, kind in ((n, kind) for n in lengths for kind in TESTED):
        h = impulse_responses(kind, channels, length)
        for order in (4, 8, 16, 32):
            certificate = distill_filter(h, order, method="kung-varpro", dtype=torch.float64).certificate
            meant = certificate.lower_bound > 1e-9 * certificate.norm_hinf
            ratio = (certificate.hinf / certificate.lower_bound)[meant]
            share = certificate.lower_bound / certificate.norm_hinf
            rows.append({
                "what": "H-infinity error over the AAK bound", "filter": kind, "length": length, "order": order,
                "channels above rounding": int(meant.sum()),
                "median": float(ratio.median()) if len(ratio) else None,
                "maximum": float(ratio.max()) if len(ratio) else None,
                "bound, relative": float(share.median()),
                "relative l2": float((certificate.l2 / certificate.norm_l2).mean()),
                "met": not len(ratio) or float(ratio.max()) <= RATIO,
            })  # fmt: skip
    return rows


def against_gradient(channels: int, rounds: int, length: int = 512, order: int = 16) -> list[Row]:
    """Mean relative l2 error and processor time against 2,000 steps of Adam."""
    contenders: dict[str, dict[str, Any]] = {
        "default": {"method": "kung-varpro"}, "for l2": {"norm": "l2"}, "gradient": {"method": "gradient"},
    }  # fmt: skip
    filters = {kind: impulse_responses(kind, channels, length) for kind in TESTED}
    results, spent = _in_turn(
        {(kind, name): _run(filters[kind], order, **how) for kind in TESTED for name, how in contenders.items()}, rounds
    )
    rows: list[Row] = []
    for kind in TESTED:
        error, ms = {}, {}
        for name in contenders:
            certificate = results[kind, name].certificate
            error[name] = float((certificate.l2 / certificate.norm_l2).mean())
            ms[name] = 1e3 * spent[kind, name]["cpu"] / channels
        rows.append({
            "what": "against gradient descent", "filter": kind, "length": length, "order": order, "channels": channels,
            **{f"relative l2, {name}": value for name, value in error.items()},
            **{f"CPU ms per channel, {name}": value for name, value in ms.items()},
            **{f"times cheaper, {name}": ms["gradient"] / ms[name] for name in ("default", "for l2")},
            "met": error["default"] <= error["gradient"] and ms["gradient"] >= CHEAPER * ms["default"],
        })  # fmt: skip
    return rows


METHODS: dict[str, dict[str, Any]] = {
    "best": {"method": "best"}, "kung-varpro": {}, "kung-varpro, l2": {"norm": "l2"},
    "balanced": {"method": "balanced"}, "era": {"method": "era"}, "aaa": {"method": "aaa"},
    "gradient": {"method": "gradient"},
}  # fmt: skip
BANK = "spectralds"
"""SpectraLDS's recurrences, for spectral filters, next to :data:`METHODS`."""


def methods(channels: int, rounds: int, names: list[str], length: int = 1024) -> list[Row]:
    """Proven H-infinity error, l2 error and processor time of methods, at equal order and in turn."""
    ways = {name: how for name, how in METHODS.items() if name in names or name == "kung-varpro"}
    filters = {kind: impulse_responses(kind, channels, length) for kind in (*TESTED, SPECTRAL)}
    cases = [(kind, order) for kind in filters for order in (8, 32)]
    runs = {(*case, name): _run(filters[case[0]], case[1], **how) for case in cases for name, how in ways.items()}
    if BANK in names:
        runs |= {(SPECTRAL, d, BANK): partial(spectral_lds, filters[SPECTRAL], d) for k, d in cases if k == SPECTRAL}
    results, spent = _in_turn(runs, rounds)
    rows: list[Row] = []
    for kind, order in cases:
        found = {name: results[kind, order, name].certificate for name in (*ways, BANK) if (kind, order, name) in runs}
        for name, c in found.items():
            seconds = spent[kind, order, name]["cpu"] / spent[kind, order, "kung-varpro"]["cpu"]
            least = min(float((other.hinf_bound / other.norm_hinf).median()) for other in found.values())
            bound = float((c.hinf_bound / c.norm_hinf).median())
            rows.append({
                "what": "methods at equal order", "filter": kind, "length": length, "order": order,
                "channels": channels, "method": name, "proven H-infinity error, median": bound,
                "within the window, median": float((c.window_bound / c.norm_hinf).median()),
                "l2 error, median": float((c.l2 / c.norm_l2).median()),
                "times the CPU seconds of kung-varpro": seconds,
                "met": name != "best" or bound <= 1.01 * least,
            })  # fmt: skip
    return rows


def predictions(orders: list[int]) -> list[Row]:
    """Divergences of a language model, with what they are held to."""
    rows = divergences(orders)
    for row in rows:
        factors = []
        for name in ("equal", "budget"):
            predicted, measured = float(str(row[f"{name}: predicted"])), float(str(row[f"{name}: measured"]))
            factors += [max(predicted / measured, measured / predicted)] if measured < BELOW else []
        row["met"] = all(f <= FACTOR for f in factors) and float(str(row["budget lower by"])) >= LOWER
    return rows


def _run(h: Tensor, order: int, **options: Any) -> Callable[[], Any]:
    return lambda: distill_filter(h, order, **({"method": "kung-varpro"} | options))


def _in_turn(runs: dict[Any, Callable[[], Any]], rounds: int) -> tuple[dict[Any, Any], dict[Any, dict[str, float]]]:
    """The last results, and the median seconds of the processor and of the wall."""
    results: dict[Any, Any] = {}
    samples: dict[Any, list[tuple[float, float]]] = {key: [] for key in runs}
    for _ in range(rounds):
        for key, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            results[key] = run()
            samples[key].append((time.process_time() - cpu, time.perf_counter() - wall))
    medians = {
        key: [statistics.median(column) for column in zip(*taken, strict=True)] for key, taken in samples.items()
    }
    return results, {key: {"cpu": cpu, "wall": wall} for key, (cpu, wall) in medians.items()}


def report(measured: dict[str, Any]) -> str:
    """The record as a Markdown page: one table for each thing measured."""
    machine = ", ".join(f"{key} {value}" for key, value in measured["machine"].items())
    lines = ["# Distillation, measured", "", "`python -m benchmarks.distill`; medians of interleaved rounds.", machine]
    for what in dict.fromkeys(row["what"] for row in measured["rows"]):
        rows = [row for row in measured["rows"] if row["what"] == what]
        names = [name for name in rows[0] if name != "what"]
        lines += ["", f"## {what[0].upper()}{what[1:]}", "", f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
        lines += [f"| {' | '.join(_shown(row[name]) for name in names)} |" for row in rows]
    return "\n".join([*lines, ""])


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Measure everything and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distill", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="of everything timed [3]")
    parser.add_argument("--channels", type=int, default=16, help="of the comparisons [16]")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(SECONDS), help="that are timed")
    parser.add_argument("--near", type=int, nargs="+", default=[2048, 8192], help="lengths held to the AAK bound")
    parser.add_argument("--orders", type=int, nargs="+", default=[4, 8, 16], help="of the language model")
    parser.add_argument("--methods", nargs="+", default=[*METHODS, BANK], choices=[*METHODS, BANK], help="[all]")
    parser.add_argument("--only-methods", action="store_true", help="measure methods alone, into distill_methods")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    machine = Machine.here()
    rows, result = [check_recovery()], RESULT
    if options.only_methods:
        result = RESULT.with_name("distill_methods")
    else:
        rows += [*cost(options.lengths, options.rounds), *nearness(options.channels, options.near)]
        rows += against_gradient(options.channels // 2, options.rounds)
        rows += predictions(options.orders)
    rows += methods(options.channels, options.rounds, options.methods)
    measured = record(machine, rows)
    RESULT.parent.mkdir(exist_ok=True)
    result.with_suffix(".json").write_text(json.dumps(measured, indent=1) + "\n")
    result.with_suffix(".md").write_text(report(measured))
    print(report(measured))


if __name__ == "__main__":
    main()
