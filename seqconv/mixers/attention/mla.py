"""Multi-head latent attention: keys and values of all heads from one narrow vector per token, which is what is cached.

Equation, with h heads; ``c_t`` the latent, ``r_t`` the part of keys that all heads share::

    [c_t | r_t] = W_a x_t            c_t = rms(c_t)
    [k_t^h | v_t^h] = W_b^h c_t      q_t^h = W_q^h x_t, or W_q^h rms(W_qa x_t)
    o_t^h = sum_s softmax_s(q_t^h · [k_s^h | r_s] / √d) v_s^h          y_t = W_o concat(o_t)

No position is added (NoPE), as in Kimi Linear, where the other layers carry the order.

Source: DeepSeek-AI 2024 (arXiv 2405.04434); Kimi Team 2025 (arXiv 2510.26692), KimiLinearAttention of transformers
5.23.0.
"""

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...attention import CacheState, Pattern, View, attend_from_cache, attend_in_blocks, init_cache
from ...attention.softmax import AttentionImplementation, softmax_attention
from ...layers.linear import Linear
from ...layers.norms import RMSNorm
from ...mixer import Mixer
from ...options import check_probability
from ...registry import register
from ...state import State
from ...types import StateKind


@register("mla", examples=({"num_heads": 2, "q_low_rank_dim": 5, "head_v_dim": 3, "bias": True},))
class LatentAttention(Mixer):
    """Attention whose cache holds one latent vector and one shared key per token.

    Attributes:
        attn_implementation: as :class:`~seqconv.mixers.attention.attention.Attention`.

    Args:
        d_model: width of inputs and outputs.
        num_heads: heads.
        head_dim: width of a head's own part of queries and keys; ``d_model / num_heads`` by default.
        shared_dim: width of the part of keys that all heads share; half of ``head_dim`` by default, at least 1.
        head_v_dim: width of a head's values; ``head_dim`` by default.
        kv_low_rank_dim: width of the latent; ``d_model`` / 2 by default.
        q_low_rank_dim: width of a bottleneck of the queries; none by default.
        norm_eps: ε of the norms of the latent and of the bottleneck.
        bias: biases of the projections into the latent and the bottleneck, and of the output.
        dropout: of the attention weights.

    Raises:
        ValueError: heads that do not divide the width, sizes below 1.
    """

    attn_implementation: AttentionImplementation = "sdpa"

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        head_dim: int | None = None,
        shared_dim: int | None = None,
        head_v_dim: int | None = None,
        kv_low_rank_dim: int | None = None,
        q_low_rank_dim: int | None = None,
        norm_eps: float = 1e-6,
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(d_model)
        own = d_model // max(num_heads, 1) if head_dim is None else head_dim
        shared = max(1, own // 2) if shared_dim is None else shared_dim
        rank = max(1, d_model // 2) if kv_low_rank_dim is None else kv_low_rank_dim
        values = own if head_v_dim is None else head_v_dim
        sizes = (num_heads, own, shared, values, rank, 1 if q_low_rank_dim is None else q_low_rank_dim)
        if min(sizes) < 1 or (head_dim is None and d_model % num_heads):
            got = f"num_heads={num_heads}, head_dim={head_dim} and other sizes {sizes[2:]} for d_model={d_model}"
            wanted = "num_heads that divide d_model or a head_dim, sizes of at least 1"
            raise argument_error("mla mixer", got, wanted, "change the sizes")
        check_probability("attention dropout", dropout)
        self.num_heads, self.head_dim, self.shared_dim, self.head_v_dim = num_heads, own, shared, values
        self.rank, self.dropout, self.pattern = rank, dropout, Pattern(True)
        queries = num_heads * (own + shared)
        self.q_a_proj = None if q_low_rank_dim is None else Linear(d_model, q_low_rank_dim, bias=bias)
        self.q_norm = None if q_low_rank_dim is None else RMSNorm(q_low_rank_dim, eps=norm_eps)
        self.q_proj = Linear(d_model if q_low_rank_dim is None else q_low_rank_dim, queries, bias=False)
        self.kv_a_proj = Linear(d_model, rank + shared, bias=bias)
        self.kv_norm = RMSNorm(rank, eps=norm_eps)
        self.kv_b_proj = Linear(rank, num_heads * (own + values), bias=False)
        self.o_proj = Linear(num_heads * values, d_model, bias=bias)

    @property
    def state_kind(self) -> StateKind:
        """One latent per token."""
        return "growing"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self._merge(attend_in_blocks(*self._project(x), mask, self.pattern, self._attend))

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        return init_cache(batch_size, (1, self.rank), (1, self.shared_dim), device, dtype)

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, CacheState)
        attended, after = attend_from_cache(*self._project(x), state, mask, self.pattern, self._attend)
        return self._merge(attended), after

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        y, after = self._prefill(x_t[:, None], state, None)
        return y[:, 0], after

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (batch, length, heads, …), latents and shared keys (batch, length, 1, …)."""
        low = x if self.q_a_proj is None or self.q_norm is None else self.q_norm(self.q_a_proj(x))
        latent, shared = self.kv_a_proj(x).split([self.rank, self.shared_dim], dim=-1)
        return (
            self.q_proj(low).unflatten(-1, (self.num_heads, -1)),
            self.kv_norm(latent)[:, :, None],
            shared[:, :, None],
        )

    def _attend(self, q: Tensor, latent: Tensor, shared: Tensor, view: View) -> Tensor:
        """Attention over keys and values expanded from what is cached."""
        heads = self.kv_b_proj(latent.squeeze(-2).to(q.dtype)).unflatten(-1, (self.num_heads, -1))
        own, v = heads.split([self.head_dim, self.head_v_dim], dim=-1)
        k = torch.cat([own, shared.to(q.dtype).expand(*own.shape[:-1], -1)], dim=-1)
        dropout = self.dropout if self.training else 0.0
        return softmax_attention(q, k, v, view, dropout=dropout, implementation=self.attn_implementation)

    def _merge(self, heads: Tensor) -> Tensor:
        y: Tensor = self.o_proj(heads.flatten(2))
        return y
