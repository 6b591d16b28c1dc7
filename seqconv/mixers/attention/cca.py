"""Compressed convolutional attention (ZAYA): attention in a narrow space, whose queries and keys pass two convolutions.

Equation, with H query heads and G key-value heads of d channels, T_0 and T_1 taps, no activation anywhere::

    q⁰, k⁰ = W_q x, W_k x
    q' = (q⁰ + k⁰ of its group) / 2              k' = mean of q' over the heads of a group
    [q | k] = conv_1(conv_0([q⁰ | k⁰])) + [q' | k']      conv_0 depthwise, conv_1 within each head, both with biases
    q ← R_t √d q / ‖q‖        k ← R_t temp_g √d k / ‖k‖        R_t rotates the first channels of a head
    v_t = [W_c x_t | W_d x_{t-1}]                          halves of all value channels together, x_{-1} = 0
    y = W_o attention(q, k, v)                             causal softmax at scale d^(-1/2)

``temp`` starts at 0: attention is uniform at first. Before the first token conv_1 sees what conv_0 makes of zeros, its
bias.

Source: Figliolia et al. 2025 (arXiv 2510.04476, compressed convolutional attention) and ``ZayaAttention`` of
transformers 5.23.0 (``models/zaya/modeling_zaya.py``).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...attention import CacheState, Pattern, View, attend_from_cache, attend_in_blocks, init_cache, token_positions
from ...attention.rotary import rotate
from ...attention.softmax import AttentionImplementation, softmax_attention
from ...layers.linear import Linear
from ...layers.token_shift import token_before
from ...mixer import Mixer
from ...packing import zero_padding
from ...parameters import set_optimizer_options
from ...registry import register
from ...state import State, state_class
from ...types import StateKind


@state_class
class CCAState(State):
    """Keys and values, the last projections that the convolutions still need, oldest first, and the last input."""

    cache: CacheState
    conv: Float[Tensor, "batch reach channels"]
    last: Float[Tensor, "batch d_model"]


@register(
    "cca",
    examples=(
        {"num_heads": 2, "num_kv_heads": 1, "rotary_dim": 2, "bias": True},
        {"num_heads": 4, "window": 7, "d_conv": 3, "d_conv_grouped": 1, "rotary_dim": 0},
    ),
)
class CompressedConvolutionalAttention(Mixer):
    """Attention after two convolutions of queries and keys, with values half from the token before (ZAYA).

    Attributes:
        attn_implementation: ``"sdpa"`` or ``"eager"``, as in :class:`~seqconv.mixers.attention.attention.Attention`.

    Args:
        d_model: width of inputs and outputs.
        num_heads: heads of queries.
        num_kv_heads: heads of keys and values; half of ``num_heads`` by default, at least one.
        head_dim: width of a head; ``d_model / num_heads`` by default.
        d_conv, d_conv_grouped: taps of the depthwise convolution and of the one within heads.
        bias: whether the projections have biases; the convolutions do.
        rotary_base: longest wavelength over 2π.
        rotary_dim: channels of a head that rotate, the first ones; half of them by default.
        window: see only tokens fewer than ``window`` away.

    Raises:
        ValueError: heads that do not divide the width or each other, an odd number of value channels or of channels
            that rotate, sizes below 1.
    """

    attn_implementation: AttentionImplementation = "sdpa"

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        d_conv: int = 2,
        d_conv_grouped: int = 2,
        bias: bool = False,
        rotary_base: float = 10000.0,
        rotary_dim: int | None = None,
        window: int | None = None,
    ) -> None:
        super().__init__(d_model)
        groups = max(num_heads // 2, 1) if num_kv_heads is None else num_kv_heads
        if (
            min(num_heads, groups, head_dim or 1) < 1
            or (head_dim is None and d_model % num_heads)
            or num_heads % groups
        ):
            got = f"num_heads={num_heads}, num_kv_heads={groups}, head_dim={head_dim} for d_model={d_model}"
            wanted = "num_heads that divide d_model or a head_dim, num_kv_heads that divide num_heads"
            raise argument_error("cca mixer", got, wanted, "change the heads or the width")
        self.heads, self.kv_heads, self.head_dim = num_heads, groups, head_dim or d_model // num_heads
        self.rotary_dim, self.rotary_base = self.head_dim // 4 * 2 if rotary_dim is None else rotary_dim, rotary_base
        self.pattern, self.reach = Pattern(True, window=window), d_conv + d_conv_grouped - 2
        self.widths = [num_heads * self.head_dim, groups * self.head_dim]
        self._check_sizes(min(d_conv, d_conv_grouped))
        channels, halves = sum(self.widths), self.widths[1] // 2
        self.q_proj, self.k_proj = (Linear(d_model, width, bias=bias) for width in self.widths)
        self.v_proj_current, self.v_proj_delayed = (Linear(d_model, halves, bias=bias) for _ in range(2))
        self.conv_depthwise = nn.Conv1d(channels, channels, d_conv, groups=channels)
        self.conv_grouped = nn.Conv1d(channels, channels, d_conv_grouped, groups=num_heads + groups)
        self.temp = nn.Parameter(torch.empty(groups))
        set_optimizer_options(self, "temp", weight_decay=0.0)
        self.o_proj = Linear(self.widths[0], d_model, bias=bias)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Scores of 0."""
        self.temp.zero_()

    @property
    def state_kind(self) -> StateKind:
        """Bounded by the window; growing without one."""
        return "growing" if self.pattern.size is None else "window"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        position = torch.arange(x.shape[1], device=x.device)[None]  # scores depend on distances alone
        projected = torch.cat([self._no_projections(x), self._project(x, mask)], dim=1)
        heads = self._heads(projected, x, torch.zeros_like(x[:, 0]), position)
        return self._merge(attend_in_blocks(*heads, mask, self.pattern, self._attend))

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        sizes = (self.kv_heads, self.head_dim)
        last = torch.zeros(batch_size, self.d_model, device=device, dtype=dtype)
        cache = init_cache(batch_size, sizes, sizes, device, dtype)
        return CCAState(cache, self._no_projections(last), last)

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, CCAState)
        projected = torch.cat([state.conv, self._project(x, mask)], dim=1)
        position = token_positions(state.cache, x.shape[1], mask)
        heads = self._heads(projected, x, state.last, position)
        attended, cache = attend_from_cache(*heads, state.cache, mask, self.pattern, self._attend)
        kept = projected[:, projected.shape[1] - self.reach :]
        return self._merge(attended), CCAState(cache, kept, x[:, -1])

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        y, after = self._prefill(x_t[:, None], state, None)
        return y[:, 0], after

    def _no_projections(self, like: Tensor) -> Tensor:
        """The projections before the first token: zeros."""
        return like.new_zeros(like.shape[0], self.reach, sum(self.widths))

    def _project(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return zero_padding(torch.cat([self.q_proj(x), self.k_proj(x)], dim=-1), mask)

    def _heads(self, projected: Tensor, x: Tensor, last: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the tokens ``x``, whose projections come after those of the tokens before."""
        convolved = self.conv_grouped(self.conv_depthwise(projected.mT)).mT
        q, k = (t.unflatten(-1, (-1, self.head_dim)) for t in convolved.split(self.widths, dim=-1))
        own = projected[:, self.reach :].split(self.widths, dim=-1)
        q_own, k_own = (t.unflatten(-1, (self.kv_heads, -1, self.head_dim)) for t in own)
        q_residual = 0.5 * (q_own + k_own)
        q, k = self._unit(q + q_residual.flatten(2, 3)), self._unit(k + q_residual.mean(3))
        k = k * self.temp.to(k.dtype)[:, None]
        before = token_before(x, last)
        v = torch.cat([self.v_proj_current(x), self.v_proj_delayed(before)], dim=-1)
        return self._rotate(q, position), self._rotate(k, position), v.unflatten(-1, (-1, self.head_dim))

    def _unit(self, heads: Tensor) -> Tensor:
        """Heads of length √d."""
        length = torch.linalg.vector_norm(heads, dim=-1, keepdim=True).clamp(min=torch.finfo(heads.dtype).eps)
        unit: Tensor = heads * (math.sqrt(self.head_dim) / length)
        return unit

    def _rotate(self, heads: Tensor, position: Tensor) -> Tensor:
        if self.rotary_dim == 0:
            return heads
        turned = rotate(heads[..., : self.rotary_dim], position, self.rotary_base)
        return torch.cat([turned, heads[..., self.rotary_dim :]], dim=-1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
        return softmax_attention(q, k, v, view, dropout=0.0, implementation=self.attn_implementation)

    def _merge(self, heads: Tensor) -> Tensor:
        y: Tensor = self.o_proj(heads.flatten(2))
        return y

    def _check_sizes(self, least_taps: int) -> None:
        if least_taps < 1 or self.widths[1] % 2:
            got = f"{least_taps} taps, {self.widths[1]} value channels"
            raise argument_error("cca mixer", got, "at least one tap, an even number of channels", "change head_dim")
        if self.rotary_dim % 2 or not 0 <= self.rotary_dim <= self.head_dim or self.rotary_base <= 0:
            got = f"rotary_dim={self.rotary_dim}, rotary_base={self.rotary_base} for heads of {self.head_dim}"
            wanted = "an even number of channels, at most those of a head, and a base above 0"
            raise argument_error("cca mixer", got, wanted, "change rotary_dim")
