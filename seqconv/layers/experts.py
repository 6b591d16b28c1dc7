"""Mixture of experts: a channel mix in which a router chooses k of E networks for every token.

With scores ``s = softmax(W_r x)`` or ``σ(W_r x)`` and the experts ``T`` of the k largest ``s + b``::

    y = Σ_{e in T} p_e f_e(x) + g f_shared(x)        p_e = scale · s_e  (/ Σ_{T} s, if normalised)

``b`` is a correction that balances the experts and enters the choice alone; with groups only experts of the best
groups are chosen. The shared expert is optional, and so is its gate ``g = σ(w x)``; so is a projection of what the
chosen experts read and write to a narrower width.

Source: Shazeer et al. 2017 (arXiv 1701.06538); shared experts and their correction: DeepSeek-V3 (arXiv 2412.19437);
gate of the shared expert: Qwen2-MoE (arXiv 2407.10671); narrower experts: Nemotron-H of transformers 5.23.0.
No loss for balancing is computed.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.precision import accumulation_dtype

from ..parameters import KeepFloat32
from .linear import Linear
from .mlp import MLP

SCORES = ("softmax", "sigmoid")
GROUP_SCORE = 2
"""A group counts as much as this many of its best experts."""


class Router(KeepFloat32):
    """The k experts of every token and their weights.

    Args:
        d_model: width of tokens.
        num_experts, top_k: how many there are, and how many are chosen.
        score: ``"softmax"`` or ``"sigmoid"``.
        normalize: divide the weights by their sum.
        normalize_eps: added to that sum.
        scale: factor of the weights.
        correction: whether a correction per expert enters the choice.
        num_groups, top_groups: experts in groups, of which the best are admitted.

    Raises:
        ValueError: an unknown score, numbers that do not fit together.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_experts: int = 8,
        top_k: int = 2,
        score: str = "softmax",
        normalize: bool = True,
        normalize_eps: float = 0.0,
        scale: float = 1.0,
        correction: bool = False,
        num_groups: int = 1,
        top_groups: int = 1,
    ) -> None:
        super().__init__()
        _check_choice(num_experts, top_k, num_groups, top_groups)
        if score not in SCORES:
            raise unknown_name("mixture of experts", "score", score, SCORES)
        self.top_k, self.score, self.scale = top_k, score, scale
        self.normalize, self.normalize_eps = normalize, normalize_eps
        self.num_groups, self.top_groups = num_groups, top_groups
        self.proj = Linear(d_model, num_experts, bias=False)
        self.correction: Tensor | None
        self.register_buffer("correction", torch.empty(num_experts) if correction else None)
        self.float32_names = frozenset(["correction"])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """No correction."""
        if self.correction is not None:
            self.correction.zero_()

    def forward(
        self, x: Float[Tensor, "tokens d_model"]
    ) -> tuple[Int[Tensor, "tokens top_k"], Float[Tensor, "tokens top_k"]]:
        """Numbers and weights of the experts."""
        logits = self.proj(x)
        logits = logits.to(accumulation_dtype(logits))
        scores = logits.softmax(-1) if self.score == "softmax" else logits.sigmoid()
        index = self._admitted(scores if self.correction is None else scores + self.correction).topk(self.top_k).indices
        weights = scores.gather(-1, index)
        if self.normalize:
            weights = weights / (weights.sum(-1, keepdim=True) + self.normalize_eps)
        return index, (weights * self.scale).to(x.dtype)

    def _admitted(self, choice: Tensor) -> Tensor:
        """Minus infinity for the experts of groups that are left out."""
        if self.num_groups == self.top_groups:
            return choice
        grouped: Tensor = choice.unflatten(-1, (self.num_groups, -1))
        value = grouped.topk(min(GROUP_SCORE, grouped.shape[-1])).values.sum(-1)
        best = torch.zeros_like(value, dtype=torch.bool).scatter(-1, value.topk(self.top_groups).indices, True)
        return grouped.masked_fill(~best[..., None], -torch.inf).flatten(-2)


class MixtureOfExperts(nn.Module):
    """Experts that a router chooses, and one that every token goes through.

    Every expert is a module of its own that is called with its tokens, so that adapters and quantisation reach it.

    Args:
        d_model: width of inputs and outputs.
        expert: the network of an expert, a kind of :class:`~seqconv.layers.mlp.MLP`.
        hidden: its hidden width.
        dropout, bias, tie_dropout: as :class:`~seqconv.layers.mlp.MLP`.
        shared_hidden: hidden width of the shared expert; none by default.
        shared_gate: multiply the shared expert by a gate.
        latent: width that the chosen experts read and write, through two projections; ``d_model`` by default.
        num_experts, top_k, score, normalize, normalize_eps, scale, correction, num_groups, top_groups: as
            :class:`Router`.

    Raises:
        ValueError: unknown names (the nearest are named), numbers that do not fit together.
    """

    def __init__(
        self,
        d_model: int,
        *,
        expert: str = "swiglu",
        hidden: int,
        dropout: float = 0.0,
        bias: bool = False,
        tie_dropout: bool = False,
        shared_hidden: int | None = None,
        shared_gate: bool = False,
        latent: int | None = None,
        num_experts: int = 8,
        top_k: int = 2,
        score: str = "softmax",
        normalize: bool = True,
        normalize_eps: float = 0.0,
        scale: float = 1.0,
        correction: bool = False,
        num_groups: int = 1,
        top_groups: int = 1,
    ) -> None:
        super().__init__()
        if shared_gate and shared_hidden is None:
            raise argument_error(
                "mixture of experts", "shared_gate without shared_hidden", "both", "give shared_hidden"
            )
        mlp: dict[str, Any] = {"kind": expert, "bias": bias, "tie_dropout": tie_dropout, "dropout": dropout}
        self.router = Router(
            d_model, num_experts=num_experts, top_k=top_k, score=score, normalize=normalize,
            normalize_eps=normalize_eps, scale=scale, correction=correction, num_groups=num_groups,
            top_groups=top_groups,
        )  # fmt: skip
        width = latent or d_model
        self.enter = None if latent is None else Linear(d_model, width, bias=bias)
        self.experts = nn.ModuleList(MLP(width, hidden=hidden, **mlp) for _ in range(num_experts))
        self.leave = None if latent is None else Linear(width, d_model, bias=bias)
        self.shared = None if shared_hidden is None else MLP(d_model, hidden=shared_hidden, **mlp)
        self.shared_gate = Linear(d_model, 1, bias=False) if shared_gate else None

    def forward(self, x: Float[Tensor, "batch *length d_model"]) -> Float[Tensor, "batch *length d_model"]:
        tokens = x.reshape(-1, x.shape[-1])
        index, weights = self.router(tokens)
        inputs = tokens if self.enter is None else self.enter(tokens)
        run = self._all if torch.compiler.is_exporting() else self._chosen
        y = run(inputs, index, weights)
        y = y if self.leave is None else self.leave(y)
        if self.shared is not None:
            common = self.shared(tokens)
            y = y + (common if self.shared_gate is None else torch.sigmoid(self.shared_gate(tokens)) * common)
        return y.view(x.shape)

    def _chosen(self, x: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """Every expert on its tokens: sorted by expert, computed, put back, and summed up.

        In training all experts are called, so that every process of a group has gradients of the same parameters.
        """
        choices = index.flatten()
        order = choices.argsort(stable=True)
        counts = torch.bincount(choices, minlength=len(self.experts)).tolist()
        parts = x[order // self.router.top_k].split(counts)
        outputs = [
            expert(part)
            for expert, part, count in zip(self.experts, parts, counts, strict=True)
            if count or self.training
        ]
        y = (
            torch.cat(outputs)[order.argsort()].unflatten(0, index.shape)
            if outputs
            else x.new_zeros(*index.shape, x.shape[-1])
        )
        return (y * weights[..., None]).sum(1)

    def _all(self, x: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """The same without sizes that depend on values, for export: every expert on every token."""
        table = weights.new_zeros(x.shape[0], len(self.experts)).scatter(1, index, weights)
        outputs = torch.stack([expert(x) for expert in self.experts], dim=1)
        return (outputs * table[..., None]).sum(1)


def _check_choice(num_experts: int, top_k: int, num_groups: int, top_groups: int) -> None:
    numbers = f"num_experts={num_experts}, top_k={top_k}, num_groups={num_groups}, top_groups={top_groups}"
    admitted = num_experts // max(num_groups, 1) * top_groups
    if min(num_experts, top_k, num_groups, top_groups) < 1 or top_groups > num_groups or num_experts % num_groups:
        wanted = "numbers of at least 1, num_groups that divides num_experts, top_groups at most num_groups"
        raise argument_error("mixture of experts", numbers, wanted, "correct the numbers")
    if top_k > admitted:
        raise argument_error("mixture of experts", numbers, f"top_k of at most {admitted}", "lower top_k")
