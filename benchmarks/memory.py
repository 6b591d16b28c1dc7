"""Memory of one call beyond its inputs: ``python -m benchmarks.memory OP CASE CONTENDER DIRECTION THREADS`` prints MB.

A process of its own for each call, since a peak can't be taken back: resident memory before it, and the highest after.
"""

import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from .table import build


def extra(op: str, case: str, contender: str, direction: str) -> float:
    """What the call takes, outputs and gradients included, in 10^6 bytes.

    Raises:
        RuntimeError: the process failed; its last words are shown.
    """
    give_back()  # what this process keeps between its timings would be missing there
    command = [sys.executable, "-m", __name__, op, case, contender, direction, str(torch.get_num_threads())]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # finds what this process finds
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-500:]}")
    return float(done.stdout)


def main(op: str, case: str, contender: str, direction: str, threads: str) -> None:
    """Run the call once and print what it took."""
    torch.set_num_threads(int(threads))
    call = build(op, case).calls(direction)[contender]
    one = torch.ones(1, requires_grad=True)
    torch.autograd.grad(2 * one, one, torch.ones(1))  # here torch imports sympy, 28 MB that no call takes
    print(peak_of(call))


def peak_of(call: Callable[[], object]) -> float:
    """What the call takes at most, its results included, in 10^6 bytes."""
    give_back()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    results = call()
    peak = resident("VmHWM") - before
    del results
    return peak / 1e6


def give_back() -> None:
    """Return free memory to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def resident(field: str) -> float:
    """Bytes of this process: ``VmRSS`` now, ``VmHWM`` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * float(next(line.split()[1] for line in lines if line.startswith(field)))


if __name__ == "__main__":
    main(*sys.argv[1:])
