"""Orders by a state budget: spend real states where they keep a language model closest to itself.

Replacing the taps ``h`` of a filter by ``h - e`` changes the model's predictions by a divergence of, to second
order, ``KL = 1/2 E[(e . G)^2]`` per sequence, where G is the gradient of the log-likelihood of a sequence whose
labels are drawn from the model itself, with respect to the taps (Fisher information). G is taken over a calibration
batch, once per sequence and draw; then every channel and order costs one product. The states are given out greedily
along the lower convex hull of each channel's prediction, which is optimal for convex curves.
"""

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from seqconv_kernels.errors import refusal

from ..replacement import long_convolutions

MINIMUM_TOKENS = 64
"""Tokens that a calibration batch needs at least."""


@dataclass(frozen=True)
class Choice:
    """Orders that one filter's channels may take, and the divergence predicted for each.

    Attributes:
        orders: ascending, 0 first.
        predicted: nats per token.
    """

    orders: tuple[int, ...]
    predicted: Float[Tensor, "channels choices"]


def tap_gradients(
    model: nn.Module, input_ids: Int[Tensor, "batch length"], names: Iterable[str], *, draws: int = 2, seed: int = 0
) -> dict[str, Float[Tensor, "samples channels taps"]]:
    """Gradients of the log-likelihood of self-drawn labels with respect to every filter's taps.

    Args:
        model: causal language model; ``model(input_ids=...).logits``.
        input_ids: calibration sequences.
        names: of long convolutions inside the model.
        draws: label sequences drawn per calibration sequence.
        seed: of the draws.
    """
    convolutions = long_convolutions(model)
    filters = {name: convolutions[name].filter for name in names}
    seen: dict[str, Tensor] = {}
    handles = [f.register_forward_hook(_keeper(seen, name)) for name, f in filters.items()]
    generator = torch.Generator().manual_seed(seed)
    samples: dict[str, list[Tensor]] = {name: [] for name in filters}
    try:
        for sequence in input_ids.repeat_interleave(draws, dim=0).split(1):
            log_probabilities = model(input_ids=sequence, use_cache=False).logits[0].double().log_softmax(-1)
            drawn = torch.multinomial(log_probabilities.exp().detach().cpu(), 1, generator=generator)
            likelihood = log_probabilities.gather(1, drawn.to(log_probabilities.device)).sum()
            found = torch.autograd.grad(likelihood, [seen[name] for name in filters])
            for name, gradient in zip(filters, found, strict=True):
                samples[name].append(gradient.detach().double().cpu())
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.stack(gradients) for name, gradients in samples.items()}


def predicted_divergence(
    gradients: Float[Tensor, "samples channels taps"], error: Float[Tensor, "channels length"], tokens: int
) -> Float[Tensor, " channels"]:
    """Nats per token that an error in the taps costs, channel by channel."""
    reach = min(gradients.shape[2], error.shape[1])
    shift = torch.einsum("sct,ct->sc", gradients[:, :, :reach], error[:, :reach])
    return shift.square().mean(0) / (2 * tokens)


def spend(choices: Mapping[str, Choice], budget: int) -> dict[str, Int[Tensor, " channels"]]:
    """Orders of every channel of every filter whose sum is at most ``budget``.

    Raises:
        ValueError: a budget below 1.
    """
    if budget < 1:
        raise refusal("distill", f"state_budget={budget}", "at least 1 real state", "raise the budget")
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


def measured_divergence(original: nn.Module, distilled: nn.Module, input_ids: Int[Tensor, "batch length"]) -> float:
    """Mean Kullback-Leibler divergence of the distilled model's predictions from the original's, nats per token."""
    total = 0.0
    with torch.no_grad():
        for sequence in input_ids.split(1):
            p, q = (
                m(input_ids=sequence, use_cache=False).logits.double().log_softmax(-1) for m in (original, distilled)
            )
            total += float((p.exp() * (p - q)).sum(-1).mean())
    return total / len(input_ids)


def check_calibration(input_ids: Tensor) -> None:
    """Refuse a calibration batch that is not one, or too short.

    Raises:
        ValueError: wrong shape or dtype, fewer than :data:`MINIMUM_TOKENS` tokens.
    """
    if input_ids.dim() != 2 or input_ids.dtype not in (torch.int32, torch.int64):
        got = f"calibration of shape {tuple(input_ids.shape)} and dtype {input_ids.dtype}"
        raise refusal("distill", got, "token ids (batch, length)", "tokenize the calibration text")
    if input_ids.numel() < MINIMUM_TOKENS:
        got = f"{input_ids.numel()} calibration tokens"
        raise refusal("distill", got, f"at least {MINIMUM_TOKENS}", "give a longer calibration text")


def _keeper(seen: dict[str, Tensor], name: str) -> Any:
    def keep(_module: nn.Module, _args: Any, taps: Tensor) -> None:
        seen[name] = taps

    return keep


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
