"""Galerkin and Fourier attention: attention without softmax, a mean over tokens instead of weights.

Equation, per head of d channels, over the L tokens of a sequence (``ln``: layer norms of each head, if there are any)::

    galerkin:  y_i = q_i Σ_j ln(k_j) ln(v_j)^T / L
    fourier:   y_i = Σ_j (ln(q_i) · ln(k_j)) v_j / (√d L)
    linear:    y_i = softmax_channels(q_i) Σ_j softmax_tokens(k)_j v_j^T / L

With ``positions`` the coordinate of each token in [0, 1] stands in front of q, k and v of every head (after the norms,
in front of the softmax), and a projection leads back to the width; without it the heads are the output.

The published forms are bidirectional. Causally, token i takes the sum and the mean over the tokens up to itself;
the state is that sum and their number. Scores of ``linear`` are normalised over all tokens: it has no causal form.

Source: Cao 2021 (arXiv 2105.14995; better than softmax attention in training cost and accuracy on Burgers' equation,
Darcy flow and an inverse problem, abstract) and ``libs/layers.py`` of scaomath/galerkin-transformer at f9e7d6ab. The
original drops half of the attention in training and in evaluation, whatever its ``dropout``; here ``dropout`` is what
it says, in training.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from seqconv_kernels import gated_linear_attention
from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.precision import accumulation_dtype

from ...layers.linear import Linear
from ...layers.residual import Dropout
from ...mixer import Mixer
from ...packing import zero_padding
from ...parameters import set_optimizer_options
from ...registry import register
from ...state import State, state_class
from ...types import StateKind

KINDS = ("galerkin", "fourier", "linear")
NORM_EPS = 1e-5


@state_class
class GalerkinState(State):
    """The sum over the tokens so far, and their number."""

    memory: Float[Tensor, "batch heads d_k d_v"]
    tokens: Int[Tensor, " batch"]


class HeadNorm(nn.Module):
    """Layer norm of every head with a weight and a bias of its own.

    Args:
        heads, channels: of the inputs.
    """

    def __init__(self, heads: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, channels))
        self.bias = nn.Parameter(torch.empty(heads, channels))
        set_optimizer_options(self, "weight", "bias", weight_decay=0.0)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights of 1, biases of 0."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "*tokens heads channels"]) -> Float[Tensor, "*tokens heads channels"]:
        """Normalise over the channels."""
        return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS) * self.weight + self.bias


@register(
    "galerkin_attention",
    examples=(
        {"kind": "fourier", "num_heads": 2, "norm": False},
        {"num_heads": 2, "bidirectional": True, "positions": True},
        {"kind": "linear", "num_heads": 2, "bidirectional": True},
    ),
)
class GalerkinAttention(Mixer):
    """Attention without softmax: a product of two projections with a mean over tokens.

    Args:
        d_model: width of inputs and outputs.
        kind: ``"galerkin"``, ``"fourier"`` or ``"linear"``.
        num_heads: heads.
        norm: layer norms of keys and values of each head (fourier: of keys and queries).
        positions: put the coordinate of each token in front of every head.
        init_gain, diagonal_weight: initial projections are Xavier's with this gain, plus this times the identity.
        dropout: of the mean of the products of keys and values (causally: of what is read of it).
        bidirectional: sum over all tokens, as published.

    Raises:
        ValueError: an unknown kind, heads that do not divide the width, a causal form that does not exist.
    """

    def __init__(
        self,
        d_model: int,
        *,
        kind: str = "galerkin",
        num_heads: int = 4,
        norm: bool = True,
        positions: bool = False,
        init_gain: float = 0.01,
        diagonal_weight: float = 0.01,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        super().__init__(d_model, causal=not bidirectional)
        _check(d_model, kind, num_heads, positions, bidirectional)
        self.kind, self.heads, self.positions = kind, num_heads, positions
        self.init_gain, self.diagonal_weight = init_gain, diagonal_weight
        self.q_proj, self.k_proj, self.v_proj = (Linear(d_model, d_model) for _ in range(3))
        width = d_model // num_heads
        self.k_norm = HeadNorm(num_heads, width) if norm else None
        self.v_norm = HeadNorm(num_heads, width) if norm and kind != "fourier" else None
        self.q_norm = HeadNorm(num_heads, width) if norm and kind == "fourier" else None
        self.out_proj = Linear(d_model + num_heads, d_model) if positions else None
        self.dropout = Dropout(dropout)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Small values near a multiple of the identity, biases of 0."""
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.xavier_uniform_(projection.weight, gain=self.init_gain)
            projection.weight.diagonal().add_(self.diagonal_weight)
            projection.bias.zero_()

    @property
    def state_kind(self) -> StateKind:
        """The state has a fixed size."""
        return "constant" if self.causal else "none"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.causal:
            return self._sum_so_far(x, None, mask)[0]
        tokens = _count(x, mask)
        at = (tokens - 1).to(accumulation_dtype(x))
        coordinate = at / (tokens[:, -1:] - 1).clamp(min=1) if self.positions else None
        return self.attend(x, coordinate, mask)

    def attend(self, x: Tensor, coordinate: Float[Tensor, "batch length"] | None, mask: Tensor | None) -> Tensor:
        """The bidirectional form, with the coordinates of the tokens if there are ``positions``."""
        q, k, v = self._heads(x)
        if coordinate is not None:
            front = coordinate.to(q.dtype)[..., None, None].expand(-1, -1, self.heads, -1)
            q, k, v = (torch.cat([front, t], dim=-1) for t in (q, k, v))
        if self.kind == "linear":
            hidden = k if mask is None else k.masked_fill(~mask[..., None, None], -torch.inf)
            q, k = q.softmax(-1), hidden.softmax(1)
        wide = accumulation_dtype(q)
        k = zero_padding(k, mask)
        memory = torch.einsum("blhd,blhe->bhde", k.to(wide), zero_padding(v, mask).to(wide))
        tokens = _count(x, mask)[:, -1].clamp(min=1).to(wide)
        mean = self.dropout(memory * self._scale(q.shape[-1]) / tokens[:, None, None, None])
        y = torch.einsum("blhd,bhde->blhe", q.to(wide), mean)
        return self._output(y.to(x.dtype))

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        width, wide = self.d_model // self.heads, torch.promote_types(dtype, torch.float32)
        memory = torch.zeros(batch_size, self.heads, width, width, device=device, dtype=wide)
        return GalerkinState(memory, torch.zeros(batch_size, device=device, dtype=torch.int64))

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, GalerkinState)
        return self._sum_so_far(x, state, mask)

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        y, after = self._prefill(x_t[:, None], state, None)
        return y[:, 0], after

    def _sum_so_far(self, x: Tensor, state: GalerkinState | None, mask: Tensor | None) -> tuple[Tensor, State]:
        q, k, v = self._heads(x)
        pair = gated_linear_attention(
            q, zero_padding(k, mask), v, scale=self._scale(q.shape[-1]),
            initial_state=None if state is None else state.memory, return_final_state=True,
        )  # fmt: skip
        assert isinstance(pair, tuple)
        tokens = _count(x, mask)
        tokens = tokens if state is None else tokens + state.tokens[:, None]
        mean = self.dropout(pair[0]) / tokens.clamp(min=1)[..., None, None]
        return self._output(mean.to(x.dtype)), GalerkinState(pair[1], tokens[:, -1])

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = [p(x).unflatten(-1, (self.heads, -1)) for p in (self.q_proj, self.k_proj, self.v_proj)]
        norms = (self.q_norm, self.k_norm, self.v_norm)
        q, k, v = (t if norm is None else norm(t) for t, norm in zip(heads, norms, strict=True))
        return q, k, v

    def _scale(self, width: int) -> float:
        return float(width**-0.5) if self.kind == "fourier" else 1.0

    def _output(self, heads: Tensor) -> Tensor:
        y: Tensor = heads.flatten(2)
        return y if self.out_proj is None else self.out_proj(y)


def _count(x: Tensor, mask: Tensor | None) -> Int[Tensor, "batch length"]:
    """Real tokens up to each position."""
    real = torch.ones_like(x[..., 0], dtype=torch.int64) if mask is None else mask.to(torch.int64)
    return real.cumsum(1)


def _check(d_model: int, kind: str, heads: int, positions: bool, bidirectional: bool) -> None:
    if kind not in KINDS:
        raise unknown_name("galerkin_attention mixer", "kind", kind, KINDS)
    if heads < 1 or d_model % heads:
        got = f"num_heads={heads} for d_model={d_model}"
        raise argument_error("galerkin_attention mixer", got, "heads that divide the width", "change num_heads")
    if not bidirectional and (positions or kind == "linear"):
        got = f"kind={kind!r}, positions={positions} without bidirectional"
        wanted = "a form that knows the whole sequence"
        raise argument_error("galerkin_attention mixer", got, wanted, "pass bidirectional=True")
