"""Figures of the report, as SVG text. Colours and dashes differ together, so that either is enough."""

import math
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

from ..training.artifacts import Arrays

Lines = Sequence[Mapping[str, Any]]


def learning_curves(runs: Sequence[tuple[str, Lines]], baselines: Mapping[str, float]) -> str:
    """Validation accuracy, with the baselines as horizontal lines, and training loss, over the steps.

    Args:
        runs: name and logged lines of each run.
        baselines: accuracy by name, in [0, 1].
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    for number, (name, value) in enumerate(baselines.items()):
        accuracy.axhline(100 * value, color="0.6", linewidth=0.8, linestyle=(0, (2 + 2 * number, 2)))
        place = {"xycoords": accuracy.get_yaxis_transform(), "textcoords": "offset points", "xytext": (2, 2)}
        accuracy.annotate(name, (0, 100 * value), fontsize=7, color="0.4", **place)
    for number, (name, lines) in enumerate(runs):
        style: dict[str, Any] = {"label": name, "color": f"C{number}", "linestyle": ("-", "--", "-.", ":")[number % 4]}
        for axes, key, scale in ((accuracy, "eval_accuracy", 100), (loss, "loss", 1)):
            points = [(line["step"], scale * line[key]) for line in lines if key in line]
            if points:
                axes.plot(*zip(*points, strict=True), marker="." if key == "eval_accuracy" else "", **style)
    for axes, label in ((accuracy, "validation accuracy, %"), (loss, "training loss, nats")):
        axes.set_xlabel("optimiser steps")
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    accuracy.set_ylim(bottom=0)
    if runs:
        figure.legend(*loss.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return _svg(figure)


def confusion(name: str, counts: Sequence[Sequence[int]]) -> str:
    """How often each label (row) got each answer (column), in percent of the row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.subplots()
    shares = [[100 * value / max(1, sum(row)) for value in row] for row in counts]
    image = axes.imshow(shares, cmap="Blues", vmin=0)
    figure.colorbar(image, ax=axes, label="% of the label")
    axes.set_title(f"{name}, test split", fontsize=10)
    axes.set_xlabel("answer")
    axes.set_ylabel("label")
    axes.set_xticks(range(len(counts)))
    axes.set_yticks(range(len(counts)))
    return _svg(figure)


def impulse_responses(name: str, artifacts: Arrays) -> str:
    """Learned kernels of some channels, over the lag: positive for the past, negative for the future."""
    from matplotlib.figure import Figure

    taps, lags, channels = artifacts["kernels"], artifacts["lags"], artifacts["channels"]
    figure = Figure(figsize=(10, 1 + 1.6 * math.ceil(len(taps) / 3)), layout="constrained")
    grid = list(figure.subplots(math.ceil(len(taps) / 3), 3, squeeze=False, sharex=True).flat)
    for axes, values, channel in zip(grid, taps, channels, strict=False):
        axes.axhline(0, color="0.8", linewidth=0.8)
        axes.plot(lags, values, linewidth=1, color="C0")
        axes.set_title(f"channel {channel}", fontsize=8, loc="left")
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(taps) :]:
        axes.set_visible(False)
    figure.suptitle(f"{name}: kernels of the first layer", fontsize=10)
    figure.supxlabel("lag, tokens", fontsize=8)
    return _svg(figure)


def example_images(name: str, artifacts: Arrays) -> str:
    """Images of the test split as the model reads them, with labels and answers."""
    from matplotlib.figure import Figure

    images, labels, answers = artifacts["images"], artifacts["labels"], artifacts["answers"]
    figure = Figure(figsize=(10, 2.9 * math.ceil(len(images) / 4)), layout="constrained")
    grid = list(figure.subplots(math.ceil(len(images) / 4), 4, squeeze=False).flat)
    for axes in grid:
        axes.set_axis_off()
    for axes, image, label, answer in zip(grid, images, labels, answers, strict=False):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="none")
        verdict = "right" if label == answer else f"answered {answer}"
        axes.set_title(f"label {label}, {verdict}", fontsize=9, color="0.2" if label == answer else "C3")
    figure.suptitle(f"{name}: first images of the test split", fontsize=10)
    return _svg(figure)


def _svg(figure: Any) -> str:
    """The figure as an ``<svg>`` element, the same bytes for the same figure."""
    from matplotlib import rc_context

    text = StringIO()
    with rc_context({"svg.hashsalt": "seqconv"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
