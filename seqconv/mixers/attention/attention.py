"""Multi-head attention: over everything, a sliding window or chunks; the baseline and the other half of hybrids.

Equation, per head: ``o_t = sum_s softmax_s(R_t q_t · R_s k_s / √head_dim) v_s`` over the tokens s that t sees, R the
rotation of :mod:`~seqconv.attention.rotary`; ``y = W_o concat(o)``, or ``W_o (concat(o) ⊙ σ(W_g x))`` with an output
gate. Groups of query heads may share keys and values; a short convolution may run over queries, keys and values first
(Mamba-2 hybrids).

Source: Vaswani et al. 2017 (arXiv 1706.03762); grouped heads: Ainslie et al. 2023 (arXiv 2305.13245);
output gate: Qiu et al. 2025 (arXiv 2505.06708), as in Qwen3-Next.
"""

from functools import partial

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels.token_program import Rows, Unfused

from ...attention import CacheState, Pattern, View, attend_from_cache, attend_in_blocks, init_cache, token_positions
from ...attention.cache import with_next_token
from ...attention.rotary import rotate
from ...attention.softmax import AttentionImplementation, softmax_attention
from ...decoding.fused import StepProgram
from ...layers.linear import Linear
from ...layers.norms import RMSNorm
from ...layers.short_convolution import ShortConvolution
from ...mixer import Mixer
from ...options import check_probability
from ...packing import zero_padding
from ...registry import register
from ...state import State, state_class
from ...types import StateKind


@state_class
class ConvolvedState(State):
    """Keys and values, and the last inputs of the short convolution, oldest first."""

    cache: CacheState
    conv: Tensor


@register(
    "attention",
    examples=(
        {"num_heads": 4, "num_kv_heads": 2, "qkv_bias": True},
        {"num_heads": 2, "window": 7, "qk_norm": True},
        {"num_heads": 2, "attention_chunk_size": 5, "rotary": False},
        {"num_heads": 2, "rotary_dim": 2, "d_conv": 3, "qkv_bias": True},
        {"num_heads": 2, "output_gate": True, "qk_norm": True, "qk_norm_unit_offset": True, "scale": 0.3},
        {"num_heads": 1, "bidirectional": True, "window": 6},
        {"num_heads": 2, "bidirectional": True, "attention_chunk_size": 10},
    ),
)
class Attention(Mixer):
    """Multi-head attention.

    Attributes:
        attn_implementation: ``"sdpa"`` (PyTorch's scaled_dot_product_attention) or ``"eager"``, which give the same;
            models for transformers set it from their ``attn_implementation``.

    Args:
        d_model: width of inputs and outputs.
        num_heads: heads of queries.
        num_kv_heads: heads of keys and values; as many as ``num_heads`` by default.
        head_dim: width of a head; ``d_model / num_heads`` by default.
        rotary: rotate queries and keys to their positions; without, order is known from causality alone.
        rotary_base: longest wavelength over 2π.
        rotary_dim: channels of a head that rotate, the first ones; all by default.
        rotary_scaling: positions are divided by it (linear interpolation of a shorter context).
        scale: factor of the scores; ``1 / √head_dim`` by default.
        d_conv: taps of a causal convolution over queries, keys and values; none by default.
        qkv_bias: biases of the projections to queries, keys and values.
        o_bias: bias of the output projection.
        qk_norm: normalise queries and keys of every head by their root mean square, before they rotate.
        qk_norm_eps: ε of that norm.
        qk_norm_unit_offset: multiply by one plus its weight, as :class:`~seqconv.layers.norms.RMSNorm`.
        output_gate: multiply the heads by sigmoids of the inputs before the output projection; its projection has a
            bias with ``qkv_bias``.
        window: see only tokens fewer than ``window`` away.
        attention_chunk_size: see only tokens of the same chunk.
        bidirectional: see the future too.
        dropout: of the attention weights.

    Raises:
        ValueError: heads that do not divide the width or each other, an odd head width with ``rotary``, a window
            and chunks at once, sizes below 1.
    """

    attn_implementation: AttentionImplementation = "sdpa"

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        rotary: bool = True,
        rotary_base: float = 10000.0,
        rotary_dim: int | None = None,
        rotary_scaling: float = 1.0,
        scale: float | None = None,
        d_conv: int | None = None,
        qkv_bias: bool = False,
        o_bias: bool = False,
        qk_norm: bool = False,
        qk_norm_eps: float = 1e-5,
        qk_norm_unit_offset: bool = False,
        output_gate: bool = False,
        window: int | None = None,
        attention_chunk_size: int | None = None,
        bidirectional: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(d_model, causal=not bidirectional)
        groups = num_heads if num_kv_heads is None else num_kv_heads
        _check_heads(d_model, num_heads, groups, head_dim)
        check_probability("attention dropout", dropout)
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, groups, head_dim or d_model // num_heads
        self.rotary_dim = (rotary_dim or self.head_dim) if rotary else 0
        self.rotary_base, self.rotary_scaling, self.dropout = rotary_base, rotary_scaling, dropout
        # What multiplies queries: the scores are divided by √head_dim later.
        self.q_scale = None if scale is None else scale * self.head_dim**0.5
        _check_rotation(self.rotary_dim, self.head_dim, rotary_base, rotary_scaling)
        self.pattern = Pattern(not bidirectional, window=window, chunk=attention_chunk_size)
        channels = (num_heads + 2 * groups) * self.head_dim
        self.qkv_proj = Linear(d_model, channels, bias=qkv_bias)
        self.conv1d = None if d_conv is None else ShortConvolution(channels, d_conv, activation=None)
        norm = partial(RMSNorm, self.head_dim, eps=qk_norm_eps, unit_offset=qk_norm_unit_offset)
        self.q_norm: RMSNorm | None = norm() if qk_norm else None
        self.k_norm: RMSNorm | None = norm() if qk_norm else None
        self.g_proj = Linear(d_model, num_heads * self.head_dim, bias=qkv_bias) if output_gate else None
        self.o_proj = Linear(num_heads * self.head_dim, d_model, bias=o_bias)

    @property
    def state_kind(self) -> StateKind:
        """Bounded by the window or chunk; growing without one."""
        if not self.causal:
            return "none"
        return "growing" if self.pattern.size is None else "window"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        # Scores depend on distances alone: left padding may count in the positions that only rotate.
        position = torch.arange(x.shape[1], device=x.device)[None]
        qkv, _ = self._project(x, mask, None)
        return self._merge(attend_in_blocks(*self._heads(qkv, position), mask, self.pattern, self._attend), x)

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        sizes = (self.num_kv_heads, self.head_dim)
        cache = init_cache(batch_size, sizes, sizes, device, dtype)
        return (
            cache if self.conv1d is None else ConvolvedState(cache, self.conv1d.init_state(batch_size, device, dtype))
        )

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        cache = state.cache if isinstance(state, ConvolvedState) else state
        assert isinstance(cache, CacheState)
        qkv, conv = self._project(x, mask, state.conv if isinstance(state, ConvolvedState) else None)
        heads = self._heads(qkv, token_positions(cache, x.shape[1], mask))
        attended, after = attend_from_cache(*heads, cache, mask, self.pattern, self._attend)
        return self._merge(attended, x), after if conv is None else ConvolvedState(after, conv)

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        y, after = self._prefill(x_t[:, None], state, None)
        return y[:, 0], after

    def _write_step(self, program: StepProgram, x: Rows, state: State) -> State:
        parts = (self.conv1d, self.q_norm, self.k_norm, self.g_proj, self.pattern.size)
        if not isinstance(state, CacheState) or state.capacity is not None or any(p is not None for p in parts):
            raise Unfused
        qkv, attended = program.write_linear(self.qkv_proj, x), program.buffer(self.num_heads * self.head_dim)
        after = with_next_token(state)
        program.attention(
            qkv, attended, after.key, after.value, state.tokens,
            heads=self.num_heads, rotary_dim=self.rotary_dim, base=self.rotary_base, scaling=self.rotary_scaling,
            scale=self.head_dim**-0.5 * (1.0 if self.q_scale is None else self.q_scale),
        )  # fmt: skip
        program.write_linear(self.o_proj, attended, program.stream, residual=program.stream)
        return after

    def _project(self, x: Tensor, mask: Tensor | None, past: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Queries, keys and values concatenated, and the last inputs of the convolution if there is one."""
        qkv = self.qkv_proj(x)
        if self.conv1d is None:
            return qkv, None
        convolved: tuple[Tensor, Tensor] = self.conv1d(zero_padding(qkv, mask), past)
        return convolved

    def _heads(self, qkv: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (batch, length, heads, head_dim) each."""
        heads = qkv.unflatten(-1, (-1, self.head_dim))
        q, k, v = heads.split([self.num_heads, self.num_kv_heads, self.num_kv_heads], dim=2)
        q, k = q if self.q_norm is None else self.q_norm(q), k if self.k_norm is None else self.k_norm(k)
        q = q if self.q_scale is None else q * self.q_scale
        return self._rotate(q, position), self._rotate(k, position), v

    def _rotate(self, heads: Tensor, position: Tensor) -> Tensor:
        if self.rotary_dim == 0:
            return heads
        turned = rotate(heads[..., : self.rotary_dim], position, self.rotary_base, self.rotary_scaling)
        return torch.cat([turned, heads[..., self.rotary_dim :]], dim=-1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return softmax_attention(q, k, v, view, dropout=dropout, implementation=self.attn_implementation)

    def _merge(self, heads: Tensor, x: Tensor) -> Tensor:
        merged = heads.flatten(2)
        y: Tensor = self.o_proj(merged if self.g_proj is None else merged * torch.sigmoid(self.g_proj(x)))
        return y


def _check_heads(d_model: int, num_heads: int, groups: int, head_dim: int | None) -> None:
    if min(num_heads, groups, head_dim or 1) < 1 or (head_dim is None and d_model % num_heads) or num_heads % groups:
        widths = f"d_model={d_model}" if head_dim is None else f"head_dim={head_dim}"
        got = f"num_heads={num_heads}, num_kv_heads={groups} for {widths}"
        wanted = "num_heads that divide d_model or a head_dim, num_kv_heads that divide num_heads"
        raise argument_error("attention mixer", got, wanted, "change the heads or the width")


def _check_rotation(rotary_dim: int, head_dim: int, base: float, scaling: float) -> None:
    if rotary_dim % 2 or rotary_dim > head_dim:
        got = f"{rotary_dim} rotary channels in heads of width {head_dim}"
        remedy = "change num_heads or rotary_dim, or set rotary=False"
        raise argument_error("attention mixer", got, "an even width, at most that of a head", remedy)
    if base <= 0 or scaling <= 0:
        got = f"rotary_base={base}, rotary_scaling={scaling}"
        raise argument_error("attention mixer", got, "positive numbers", "take 10000.0 and 1.0")
