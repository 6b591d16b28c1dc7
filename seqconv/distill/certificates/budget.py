"""Orders by a state budget: spend real states where they keep a language model closest to itself.

Every channel and order has a predicted divergence (:mod:`~seqconv.distill.fitting.sensitivity`); the states are given
out greedily along the lower convex hull of each channel's prediction, which is optimal for convex curves.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from seqconv_kernels._core.errors import argument_error


@dataclass(frozen=True)
class Choice:
    """Orders that one filter's channels may take, and the divergence predicted for each.

    Attributes:
        orders: ascending, 0 first.
        predicted: nats per token.
    """

    orders: tuple[int, ...]
    predicted: Float[Tensor, "channels choices"]


def spend(choices: Mapping[str, Choice], budget: int) -> dict[str, Int[Tensor, " channels"]]:
    """Orders of every channel of every filter whose sum is at most ``budget``.

    Raises:
        ValueError: a budget below 1.
    """
    if budget < 1:
        raise argument_error("distill", f"state_budget={budget}", "at least 1 real state", "raise the budget")
    orders = {name: torch.zeros(len(choice.predicted), dtype=torch.int64) for name, choice in choices.items()}
    steps: list[tuple[float, str, int, int]] = []
    hulls = {
        (name, c): _lower_hull(choice.orders, choice.predicted[c].tolist())
        for name, choice in choices.items()
        for c in range(len(choice.predicted))
    }
    for (name, c), hull in hulls.items():
        _offer(steps, name, c, hull, 0)
    while steps:
        _, name, c, position = heapq.heappop(steps)
        hull = hulls[name, c]
        cost = hull[position + 1][0] - hull[position][0]
        if cost <= budget:
            budget -= cost
            orders[name][c] = hull[position + 1][0]
            _offer(steps, name, c, hull, position + 1)
    return orders


def _lower_hull(orders: tuple[int, ...], values: list[float]) -> list[tuple[int, float]]:
    """Points of the decreasing lower convex hull."""
    hull: list[tuple[int, float]] = []
    for point in zip(orders, values, strict=True):
        if hull and point[1] >= hull[-1][1]:
            continue
        while len(hull) > 1 and _slope(hull[-2], point) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(point)
    return hull


def _slope(a: tuple[int, float], b: tuple[int, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


def _offer(steps: list[tuple[float, str, int, int]], name: str, c: int, hull: list[tuple[int, float]], at: int) -> None:
    if at + 1 < len(hull):
        heapq.heappush(steps, (_slope(hull[at], hull[at + 1]), name, c, at))
