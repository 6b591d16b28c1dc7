"""Multi-head attention: over everything, a sliding window or chunks; the baseline and the other half of hybrids.

Equation, per head: ``o_t = sum_s softmax_s(R_t q_t · R_s k_s / √head_dim) v_s`` over the tokens s that t sees, R the
rotation of :mod:`~seqconv.attention.rotary`; ``y = W_o concat(o)``. Groups of query heads may share keys and values.

Source: Vaswani et al. 2017 (arXiv 1706.03762); grouped heads: Ainslie et al. 2023 (arXiv 2305.13245).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqconv_kernels.errors import refusal

from ..attention import CacheState, Pattern, View, attend_from_cache, attend_in_blocks, init_cache, token_positions
from ..attention.pattern import is_plain, visible
from ..attention.rotary import rotate
from ..mixer import Mixer
from ..registry import register
from ..residual import check_probability
from ..state import State
from ..types import StateKind


@register(
    "attention",
    examples=(
        {"n_heads": 4, "n_kv_heads": 2, "qkv_bias": True},
        {"n_heads": 2, "window": 7},
        {"n_heads": 2, "chunk_size": 5, "rotary": False},
        {"n_heads": 1, "bidirectional": True, "window": 6},
        {"n_heads": 2, "bidirectional": True, "chunk_size": 10},
    ),
)
class Attention(Mixer):
    """Multi-head attention through PyTorch's scaled_dot_product_attention.

    Args:
        d_model: width of inputs and outputs.
        n_heads: heads of queries.
        n_kv_heads: heads of keys and values; as many as ``n_heads`` by default.
        rotary: rotate queries and keys to their positions; without, order is known from causality alone.
        rotary_base: longest wavelength over 2π.
        qkv_bias: biases of the maps to queries, keys and values.
        output_bias: bias of the output map.
        window: see only tokens fewer than ``window`` away.
        chunk_size: see only tokens of the same chunk.
        bidirectional: see the future too.
        dropout: of the attention weights.

    Raises:
        ValueError: heads that do not divide the width or each other, an odd head width with ``rotary``, a window
            and chunks at once, sizes below 1.
    """

    def __init__(
        self,
        d_model: int,
        *,
        n_heads: int = 4,
        n_kv_heads: int | None = None,
        rotary: bool = True,
        rotary_base: float = 10000.0,
        qkv_bias: bool = False,
        output_bias: bool = False,
        window: int | None = None,
        chunk_size: int | None = None,
        bidirectional: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(d_model, causal=not bidirectional)
        groups = n_heads if n_kv_heads is None else n_kv_heads
        _check_heads(d_model, n_heads, groups, rotary, rotary_base)
        check_probability("attention dropout", dropout)
        self.n_heads, self.n_kv_heads, self.head_dim = n_heads, groups, d_model // n_heads
        self.rotary, self.rotary_base, self.dropout = rotary, rotary_base, dropout
        self.pattern = Pattern(not bidirectional, window=window, chunk=chunk_size)
        self.project = nn.Linear(d_model, (n_heads + 2 * groups) * self.head_dim, bias=qkv_bias)
        self.output = nn.Linear(d_model, d_model, bias=output_bias)

    @property
    def state_kind(self) -> StateKind:
        """Bounded by the window or chunk; growing without one."""
        if not self.causal:
            return "none"
        return "growing" if self.pattern.size is None else "window"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        # Scores depend on distances alone: left padding may count in the positions that only rotate.
        position = torch.arange(x.shape[1], device=x.device)[None]
        return self._merge(attend_in_blocks(*self._heads(x, position), mask, self.pattern, self._attend))

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        sizes = (self.n_kv_heads, self.head_dim)
        return init_cache(batch_size, sizes, sizes, device, dtype)

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, CacheState)
        qkv = self._heads(x, token_positions(state, x.shape[1], mask))
        attended, after = attend_from_cache(*qkv, state, mask, self.pattern, self._attend)
        return self._merge(attended), after

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        y, after = self._prefill(x_t[:, None], state, None)
        return y[:, 0], after

    def _heads(self, x: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (batch, length, heads, head_dim) each."""
        heads = self.project(x).unflatten(-1, (-1, self.head_dim))
        q, k, v = heads.split([self.n_heads, self.n_kv_heads, self.n_kv_heads], dim=2)
        if self.rotary:
            q, k = (rotate(t, position, self.rotary_base) for t in (q, k))
        return q, k, v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
        batch, blocks, queries = q.shape[:3]
        plain, mask = is_plain(view), None
        if not plain:
            mask = visible(view).expand(batch, blocks, queries, k.shape[2]).flatten(0, 1)[:, None]
        q, k, v = (t.to(q.dtype).flatten(0, 1).transpose(1, 2) for t in (q, k, v))
        y: Tensor = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=plain and view.causal,
            enable_gqa=self.n_kv_heads != self.n_heads,
        )
        heads: Tensor = y.transpose(1, 2).unflatten(0, (batch, blocks))
        return heads

    def _merge(self, heads: Tensor) -> Tensor:
        y: Tensor = self.output(heads.flatten(2))
        return y


def _check_heads(d_model: int, n_heads: int, groups: int, rotary: bool, base: float) -> None:
    if min(n_heads, groups) < 1 or d_model % n_heads or n_heads % groups:
        got = f"n_heads={n_heads}, n_kv_heads={groups} for d_model={d_model}"
        wanted = "n_heads that divide d_model, n_kv_heads that divide n_heads"
        raise refusal("attention mixer", got, wanted, "change the heads or the width")
    if rotary and (d_model // n_heads) % 2:
        got = f"rotary positions for heads of width {d_model // n_heads}"
        raise refusal("attention mixer", got, "an even width", "change n_heads or set rotary=False")
    if base <= 0:
        raise refusal("attention mixer", f"rotary_base={base}", "a positive number", "take 10000.0")
