"""Time and memory per image against the resolution: Vim-S and transformers' DeiT-S, random weights, float32.

DeiT-S is ``DeiTForImageClassification`` of 384 channels, 12 layers and 6 heads on patches of 16 pixels, as Vim-S: with
torch's fused attention, and with the attention of DeiT's own code, which holds all scores (``eager``). The models
compute different functions: what is checked before timing is the number of parameters, and that outputs are finite.

``python -m benchmarks.vision_resolution MODEL SIDE DIRECTION THREADS`` prints the peak of memory of one call, in MB
beyond the model and the image, in a process of its own as :mod:`~benchmarks.memory` has it.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seqconv import create_model

from .measure import interleaved
from .memory import give_back, peak_of

DIRECTIONS = ("forward", "forward + backward")
SIDES = {"forward": (224, 384, 512, 768, 1024), "forward + backward": (224, 512, 1024)}
"""Pixels of a side that are timed in each direction."""
CLASSES = 1000
MILLIONS = {"seqconv": 26, "DeiT-S": 22, "DeiT-S, eager": 22}
"""Published numbers of parameters."""
EAGER_SIDE = 512
"""Largest side whose scores of all layers are kept for a backward pass: at 1,024 pixels they take 10 GB."""
XLABEL = "pixels of a side"


def measure(seconds: float) -> list[dict[str, object]]:
    """One row per direction and resolution, with times and peaks of memory."""
    return [row for direction, sides in SIDES.items() for side in sides for row in rows(direction, side, seconds)]


def rows(direction: str, side: int, seconds: float, names: Sequence[str] = tuple(MILLIONS)) -> Iterator[dict[str, Any]]:
    """The row of one direction and resolution."""
    if direction == DIRECTIONS[1] and side > EAGER_SIDE:
        names = [name for name in names if name != "DeiT-S, eager"]
    models = {name: build(name, side) for name in names}
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    calls = {name: _call(model, image, direction) for name, model in models.items()}
    for name, call in calls.items():
        check(name, models[name], call())
    ms = interleaved(calls, seconds=seconds, rounds=1)
    mb = {name: extra(name, side, direction) for name in names}
    yield {"shape": f"{side} x {side}", "length": side, "direction": direction, "ms": ms, "mb": mb}


def crossover(report: dict[str, Any]) -> float | None:
    """The least side, between those measured in a straight line, from which on Vim-S takes less time forward."""
    points = [
        (row["length"], row["ms"]["DeiT-S"] / row["ms"]["seqconv"])
        for row in report["rows"]
        if row["direction"] == DIRECTIONS[0]
    ]
    slower = [index for index, (_, ratio) in enumerate(points) if ratio < 1]
    if not slower:
        return float(points[0][0])
    if slower[-1] == len(points) - 1:
        return None
    (side, ratio), (next_side, next_ratio) = points[slower[-1] : slower[-1] + 2]
    return float(side + (next_side - side) * (1 - ratio) / (next_ratio - ratio))


def summary(report: dict[str, Any]) -> str:
    """The crossover and the memory at the largest side, in words."""
    found = crossover(report)
    where = "at none of these sizes" if found is None else f"from {found:.0f} pixels of a side on"
    last = [row for row in report["rows"] if row["direction"] == DIRECTIONS[0]][-1]
    shares = ", ".join(
        f"{last['mb']['seqconv'] / mb:.2f} of {name}'s" for name, mb in last["mb"].items() if name != "seqconv"
    )
    return f"Vim-S takes less time per image than DeiT-S {where}; its memory at {last['length']:,} pixels is {shares}."


def build(name: str, side: int) -> nn.Module:
    """A model with random weights, for images of one size."""
    torch.manual_seed(0)
    if name == "seqconv":
        return create_model("vim_small", CLASSES, image_size=side).eval()
    from transformers import DeiTConfig, DeiTForImageClassification

    config = DeiTConfig(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536, image_size=side,
        num_labels=CLASSES, attn_implementation="eager" if name.endswith("eager") else "sdpa",
    )  # fmt: skip
    return DeiTForImageClassification(config).eval()


def check(name: str, model: nn.Module, results: Sequence[Tensor]) -> None:
    """Stop before anything is timed if a model is not what it should be.

    Raises:
        RuntimeError: another number of parameters, results that are not finite.
    """
    millions = sum(p.numel() for p in model.parameters() if p.dim() != 3) / 1e6  # position embeddings grow
    if abs(millions - MILLIONS[name]) > 1 or not all(bool(t.isfinite().all()) for t in results):
        raise RuntimeError(f"{name}: {millions:.1f} million parameters, or outputs that are not finite")


def extra(name: str, side: int, direction: str) -> float:
    """Memory of one call beyond the model and the image, in 10^6 bytes.

    Raises:
        RuntimeError: the process failed; its last words are shown.
    """
    give_back()
    command = [sys.executable, "-m", __name__, name, str(side), direction, str(torch.get_num_threads())]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-500:]}")
    return float(done.stdout)


def main(name: str, side: str, direction: str, threads: str) -> None:
    """Print the peak of one call, after a small one that imports what the model needs."""
    torch.set_num_threads(int(threads))
    model = build(name, int(side))
    _call(build(name, 32), torch.randn(1, 3, 32, 32), direction)()
    call = _call(model, torch.randn(1, 3, int(side), int(side)), direction)
    print(peak_of(call))


def _call(model: nn.Module, image: Tensor, direction: str) -> Callable[[], tuple[Tensor, ...]]:
    """The logits, or the logits and the gradient of every parameter that has one."""
    parameters = list(model.parameters())

    def logits() -> Tensor:
        found = model(image)
        y: Tensor = found if isinstance(found, Tensor) else found.logits
        return y

    def forward() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (logits(),)

    def both() -> tuple[Tensor, ...]:
        y = logits()
        found = torch.autograd.grad(y.square().sum(), parameters, allow_unused=True)
        return (y.detach(), *(g for g in found if g is not None))

    return forward if direction == DIRECTIONS[0] else both


def draw(report: dict[str, Any], path: Path) -> None:
    """Time and memory against the resolution."""
    from .plot import plot

    plot(report, "Vim-S and DeiT-S, one image", path, xlabel=XLABEL)


if __name__ == "__main__":
    main(*sys.argv[1:])
