"""The Long Range Arena's efficiency table: training steps at 1, 2, 3 and 4 thousand tokens, against attention.

A step is forward, backward and AdamW of one model around each mixer: byte-level classification, two layers of width 128
with an MLP, two sequences; MEGA without chunks. The mixers of a length take turns, step by step, so that a busy machine
slows all of them. Memory is the peak of one step beyond the model and its batch, in a process of its own.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch

from lra.models.build import parameter_groups
from lra.recipes.recipe import Recipe
from lra.report.markup import markdown_table
from seqconv import SeqConvConfig, SeqConvForSequenceClassification

from .memory import give_back, resident

LENGTHS = (1024, 2048, 3072, 4096)
MIXERS = ("attention", "s4", "s4d", "sgconv", "hyena", "mega", "mamba", "gla")
WIDTH, LAYERS, BATCH = 128, 2, 2


def measure(seconds: float) -> list[dict[str, object]]:
    """One row per length and mixer: milliseconds and megabytes of a step, and those of attention's."""
    return [row for length in LENGTHS for row in compare(length, MIXERS, seconds)]


def summary(report: Mapping[str, Any]) -> str:
    """The benchmark's own form: steps per second, how many times attention's, and peak memory over attention's."""
    shapes = list(dict.fromkeys(row["shape"] for row in report["rows"]))
    mixers = dict.fromkeys(row["direction"] for row in report["rows"])
    by_place = {(row["direction"], row["shape"]): row for row in report["rows"]}
    table = [["steps per second (times attention); memory over attention's", *(s.partition(",")[0] for s in shapes)]]
    table += [[mixer, *(_cell(by_place[mixer, shape]) for shape in shapes)] for mixer in mixers]
    return markdown_table(table)


def _cell(row: Mapping[str, Any]) -> str:
    ms, mb = row["ms"], row["mb"]
    speed, share = ms["attention"] / ms["seqconv"], mb["seqconv"] / mb["attention"]
    return f"{1000 / ms['seqconv']:.2f} ({speed:.2f} ×); {share:.2f}"


def compare(length: int, mixers: tuple[str, ...], seconds: float) -> list[dict[str, object]]:
    """The rows of a length; ``seconds`` for each mixer, and at least three steps."""
    steps = {mixer: training_step(mixer, length) for mixer in mixers}
    times: dict[str, list[float]] = {mixer: [] for mixer in mixers}
    for step in steps.values():
        step()
    while len(times[mixers[0]]) < 3 or sum(map(sum, times.values())) < seconds * len(mixers):
        for mixer, step in steps.items():
            started = time.perf_counter()
            step()
            times[mixer].append(time.perf_counter() - started)
    ms = {mixer: 1000 * median(taken) for mixer, taken in times.items()}
    mb = {mixer: peak_mb(mixer, length) for mixer in mixers}
    about = f"{length} tokens, {BATCH} sequences, {LAYERS} layers of {WIDTH}"
    return [
        {
            "shape": about,
            "direction": mixer,
            "ms": {"seqconv": ms[mixer], "attention": ms["attention"]},
            "mb": {"seqconv": mb[mixer], "attention": mb["attention"]},
        }
        for mixer in mixers
    ]


def training_step(mixer: str, length: int) -> Callable[[], None]:
    """A step of a model around a mixer, over one batch of random bytes."""
    torch.manual_seed(0)
    longest = {"sgconv": {"l_max": length}, "hyena": {"l_max": length}, "mega": {"max_positions": length}}
    config = SeqConvConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        mixer=mixer,
        mixer_options={"bidirectional": True, **longest.get(mixer, {})},
        mlp="gelu",
        num_labels=2,
    )
    model = SeqConvForSequenceClassification(config).train()
    recipe = Recipe("text/efficiency", "text", mixer, lr=1e-3)
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe))
    ids, labels = torch.randint(256, (BATCH, length)), torch.arange(BATCH) % 2

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(ids, labels=labels).loss.backward()
        optimizer.step()

    return step


def peak_mb(mixer: str, length: int) -> float:
    """What a step takes beyond the model, in 10^6 bytes, from a process of its own."""
    command = [sys.executable, "-m", __name__, mixer, str(length), str(torch.get_num_threads())]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout)


def main(mixer: str, length: str, threads: str) -> None:
    """Take one step and print its peak."""
    torch.set_num_threads(int(threads))
    step = training_step(mixer, int(length))
    give_back()
    Path("/proc/self/clear_refs").write_text("5")  # the kernel's high-water mark starts again here
    before = resident("VmRSS")
    step()
    print((resident("VmHWM") - before) / 1e6)


if __name__ == "__main__":
    main(*sys.argv[1:])
