"""Distillation: nearness to the best possible, cost, gradient descent. ``python -m benchmarks.distill``.

Before anything is timed, true recurrences must come back to 1e-10. Then, on filters of S4D, SGConv and Hyena as
initialised: H-infinity error over the AAK bound, medians and maxima over the channels; l2 error and cost against 2,000
steps of gradient descent; and the cost of 256 channels at order 16. CPU seconds beside those of the wall, since only
the former mean much on a shared machine. Writes ``benchmarks/results/distill.json``.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqconv import create_mixer
from seqconv.distill import distill_filter
from seqconv.replacement import long_convolutions

from .measure import Machine, record

RESULT = Path(__file__).parent / "results" / "distill.json"
TESTED = {"s4d": {}, "sgconv": {}, "hyena emb 3, w 1": {"emb_dim": 3}, "hyena emb 33, w 10": {"emb_dim": 33, "w": 10.0}}


@torch.no_grad()
def impulse_responses(kind: str, channels: int, length: int) -> Tensor:
    """Filters of a mixer as initialised, (channels, length)."""
    torch.manual_seed(0)
    name = kind.split()[0]
    options = {"l_max": length} if name != "s4d" else {}
    mixer = create_mixer(name, channels, **TESTED[kind], **options)
    (convolution,) = long_convolutions(mixer).values()
    taps: Tensor = convolution.filter(length)[:channels].double()
    return taps


def check_recovery(length: int = 600) -> dict[str, object]:
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
    if worst > 1e-10:
        raise RuntimeError(f"true recurrences come back to {worst:.2g}, more than 1e-10; nothing was timed")
    return {"what": "recovery of true recurrences, largest relative l2 error", "value": worst}


def nearness(channels: int, length: int) -> list[dict[str, object]]:
    """H-infinity error over the AAK bound, where the bound is not rounding."""
    rows: list[dict[str, object]] = []
    for kind in TESTED:
        h = impulse_responses(kind, channels, length)
        for order in (4, 8, 16, 32):
            certificate = distill_filter(h, order, dtype=torch.float64).certificate
            meant = certificate.lower_bound > 1e-9 * certificate.norm_hinf
            ratio = (certificate.hinf / certificate.lower_bound)[meant]
            share = certificate.lower_bound / certificate.norm_hinf
            rows.append({
                "what": "H-infinity error over the AAK bound", "filter": kind, "length": length, "order": order,
                "channels": channels, "with a bound above rounding": int(meant.sum()),
                "median": float(ratio.median()) if len(ratio) else None,
                "maximum": float(ratio.max()) if len(ratio) else None,
                "bound relative, median": float(share.median()),
            })  # fmt: skip
    return rows


def against_gradient(channels: int, length: int = 512, order: int = 16) -> list[dict[str, object]]:
    """Mean relative l2 error and CPU seconds per channel beside 2,000 steps of Adam."""
    rows: list[dict[str, object]] = []
    for kind in TESTED:
        h = impulse_responses(kind, channels, length)
        energy = h.norm(dim=1)
        ours, cost = _timed(lambda h=h: distill_filter(h, order, norm="l2"))  # type: ignore[misc]
        descent, slow = _timed(lambda h=h: distill_filter(h, order, method="gradient"))  # type: ignore[misc]
        rows.append({
            "what": "against gradient descent", "filter": kind, "length": length, "order": order, "channels": channels,
            "relative l2": float((ours.certificate.l2 / energy).mean()),
            "relative l2 of gradient descent": float((descent.certificate.l2 / energy).mean()),
            "CPU ms per channel": 1e3 * cost["cpu"] / channels,
            "CPU ms per channel of gradient descent": 1e3 * slow["cpu"] / channels,
            "times cheaper": slow["cpu"] / cost["cpu"],
        })  # fmt: skip
    return rows


def cost(lengths: list[int], channels: int = 256, order: int = 16) -> list[dict[str, object]]:
    """CPU and wall seconds of distilling SGConv's filters."""
    rows: list[dict[str, object]] = []
    for length in lengths:
        h = impulse_responses("sgconv", channels, length)
        spent = _timed(lambda h=h: distill_filter(h, order))[1]  # type: ignore[misc]
        rows.append({"what": "cost", "channels": channels, "order": order, "length": length, **spent})
    return rows


def _timed(run: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return result, {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def main() -> None:
    """Measure everything and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distill", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--channels", type=int, default=16, help="of the comparisons [16]")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192, 32768], help="that are timed")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [check_recovery(), *cost(options.lengths), *nearness(options.channels, 2048)]
    rows += against_gradient(options.channels // 4)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(record(Machine.here(), rows), indent=1) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
