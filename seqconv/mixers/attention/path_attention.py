"""PaTH attention: positions are products of Householder-like reflections that every token computes.

Equation, per head, with query heads in groups that share keys, values and reflections::

    q, k, v = W_q x, W_k x, W_v x           q and k normalised if wanted
    w = silu(conv(W_w x)) of unit length    β = 2 σ(W_b x)      W_w of low rank or dense
    o = path attention(q, k, v, w, β, g)    g = log σ(W_g x) with a forget gate, else 0
    y = W_o o

See :mod:`~seqconv.attention.path` for the attention itself. No rotary embedding is needed.

Source: Yang et al. 2025, "PaTH Attention: Position Encoding via Accumulating Householder Transformations" (arXiv
2505.16381); ``fla/layers/path_attn.py`` of fla-org/flash-linear-attention at bc3b101d, whose cached prefill leaves out
the norm of queries and keys that its training has; here both have it. Published results were not looked up.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype

from ...attention.path import path_attention
from ...layers.linear import Linear
from ...layers.norms import RMSNorm
from ...layers.short_convolution import ShortConvolution
from ...mixer import Mixer
from ...packing import zero_padding
from ...registry import register
from ...state import State, state_class
from ...types import StateKind
from ..linear_attention.delta_rule.delta_layer import unit_length

W_RANK = 32
"""Rank of the projection to w in the original."""


@state_class
class PathState(State):
    """Reflected keys and values of the past, the decay since each, the last inputs of the convolution.

    Attributes:
        key, value: of the past tokens, oldest first; a row with fewer tokens has padding in front of them.
        decay: sum of the forget gate's logarithms after each of them, if there is a gate.
        conv: the last inputs of the short convolution, if there is one.
        tokens: real tokens of each row so far.
    """

    key: Float[Tensor, "batch past groups head_dim"]
    value: Float[Tensor, "batch past groups head_dim"]
    decay: Float[Tensor, "batch past heads"] | None
    conv: Float[Tensor, "batch reach channels"] | None
    tokens: Int[Tensor, " batch"]

    growing = frozenset({"key", "value", "decay"})
    time_axis = 1
    padded_in_front = True


@register(
    "path_attention",
    examples=(
        {"num_heads": 4, "num_kv_heads": 2, "w_rank": None, "forget_gate": True, "qk_norm": True},
        {"num_heads": 2, "d_conv": None},
    ),
)
class PathAttention(Mixer):
    """Softmax attention with data-dependent reflections between keys and queries.

    Args:
        d_model: width of inputs and outputs.
        num_heads: heads of queries.
        num_kv_heads: heads of keys, values and reflections; as many as ``num_heads`` by default.
        w_rank: rank of the projection to the reflections; ``None`` for a dense one.
        forget_gate: discount scores by a gate of every token between key and query.
        qk_norm: normalise queries and keys of every head by their root mean square.
        d_conv: taps of the short convolution over the reflections; ``None`` for neither convolution nor activation.
        conv_bias: whether it has a bias.
        float32_scores: round products of queries and keys to float32 also in float64, as the original does.

    Raises:
        ValueError: heads that do not divide the width or each other, sizes below 1.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        num_kv_heads: int | None = None,
        w_rank: int | None = W_RANK,
        forget_gate: bool = False,
        qk_norm: bool = False,
        d_conv: int | None = 3,
        conv_bias: bool = False,
        float32_scores: bool = False,
    ) -> None:
        super().__init__(d_model)
        groups = num_heads if num_kv_heads is None else num_kv_heads
        if min(num_heads, groups, 1 if w_rank is None else w_rank) < 1 or d_model % num_heads or num_heads % groups:
            got = f"num_heads={num_heads}, num_kv_heads={groups}, w_rank={w_rank} for d_model={d_model}"
            wanted = "num_heads that divide d_model, num_kv_heads that divide num_heads, a rank of at least 1"
            raise argument_error("path_attention mixer", got, wanted, "change the heads or the width")
        self.num_heads, self.groups, self.head_dim = num_heads, groups, d_model // num_heads
        self.float32_scores = float32_scores
        shared = groups * self.head_dim
        self.q_proj = Linear(d_model, d_model, bias=False)
        self.k_proj, self.v_proj = (Linear(d_model, shared, bias=False) for _ in range(2))
        self.w_proj: nn.Module = (
            Linear(d_model, shared, bias=False)
            if w_rank is None
            else nn.Sequential(Linear(d_model, w_rank, bias=False), Linear(w_rank, shared, bias=False))
        )
        self.b_proj = Linear(d_model, groups)
        self.g_proj = Linear(d_model, num_heads) if forget_gate else None
        self.conv1d = None if d_conv is None else ShortConvolution(shared, d_conv, bias=conv_bias)
        self.q_norm, self.k_norm = (RMSNorm(self.head_dim) if qk_norm else None for _ in range(2))
        self.o_proj = Linear(d_model, d_model, bias=False)

    @property
    def state_kind(self) -> StateKind:
        """Keys and values of every token."""
        return "growing"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        state = self._init_state(x.shape[0], None, x.device, x.dtype)
        return self._prefill(x, state, mask)[0]

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        wide = torch.promote_types(dtype, torch.float32)
        # Every new token changes the keys of all others: they accumulate rounding as a recurrence does.
        key = torch.zeros(batch_size, 0, self.groups, self.head_dim, device=device, dtype=wide)
        gate = None if self.g_proj is None else key.new_zeros(batch_size, 0, self.num_heads)
        conv = None if self.conv1d is None else self.conv1d.init_state(batch_size, device, dtype)
        return PathState(key, key.to(dtype), gate, conv, torch.zeros(batch_size, device=device, dtype=torch.int64))

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, PathState)
        q, k, v = (self._heads(proj(x)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        q, k = q if self.q_norm is None else self.q_norm(q), k if self.k_norm is None else self.k_norm(k)
        w, conv = self._reflections(x, state.conv, mask)
        beta = zero_padding(2 * torch.sigmoid(self.b_proj(x).to(w.dtype)), mask)
        real = torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask
        past = torch.arange(-state.key.shape[1], 0, device=x.device) + state.tokens[:, None] >= 0
        gate, decay = self._gate(x, state.decay, mask)
        value = torch.cat([state.value.to(v.dtype), v], dim=1)
        visible = torch.cat([past, real], dim=1)
        y, key = _finite_apart(q, k, value, w, beta, state.key, visible, gate, self.float32_scores)
        outputs: Tensor = self.o_proj(y.to(v.dtype).flatten(2))
        return outputs, PathState(key, value, decay, conv, state.tokens + real.sum(1))

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        y, after = self._prefill(x_t[:, None], state, None)
        return y[:, 0], after

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (-1, self.head_dim))
        return heads

    def _reflections(self, x: Tensor, conv: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Unit vectors w, in float32 at least, and the last inputs of the convolution."""
        w = self.w_proj(x)
        if self.conv1d is not None:
            w, conv = self.conv1d(zero_padding(w, mask), conv)
        return unit_length(self._heads(w.to(accumulation_dtype(w)))), conv

    def _gate(self, x: Tensor, decay: Tensor | None, mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The gate's running sum over past and new tokens, zero before the first new one, and the decay after all."""
        if self.g_proj is None or decay is None:
            return None, None
        g = self.g_proj(x)
        new = zero_padding(F.logsigmoid(g.to(accumulation_dtype(g))), mask).cumsum(1)
        gate = torch.cat([-decay.to(new.dtype), new], dim=1)
        return gate, new[:, -1:] - gate


def _finite_apart(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    beta: Tensor,
    key: Tensor,
    visible: Tensor,
    gate: Tensor | None,
    float32_scores: bool,
) -> tuple[Tensor, Tensor]:
    """Path attention in the precision of w; tokens that are not finite reach later outputs of their row alone."""
    past, wide = key.shape[1], w.dtype
    new = ~(_finite(k) & _finite(w) & _finite(beta))
    bad = torch.cat([~_finite(key), new], dim=1) | ~_finite(v)
    new, both = bad[:, past:, None, None], bad[..., None, None]
    y, after = path_attention(
        q.to(wide),
        k.to(wide).masked_fill(new, 0),
        v.to(wide).masked_fill(both, 0),
        w.masked_fill(new, 0),
        beta.masked_fill(new[..., 0], 0),
        key.to(wide).masked_fill(bad[:, :past, None, None], 0),
        visible,
        gate,
        float32_scores,
    )
    reached = (bad.cumsum(1) > 0)[:, past:, None, None]
    return y.masked_fill(reached, torch.nan), after.masked_fill(both, torch.nan)


def _finite(x: Tensor) -> Tensor:
    """Which tokens are finite in all channels."""
    finite: Tensor = x.isfinite().flatten(2).all(-1)
    return finite
