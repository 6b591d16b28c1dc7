"""SLAB's simplified linear attention: ReLU features, a normaliser, and a short convolution of the values.

Equation, per head, with φ the ReLU and P a learned table of positions, if there is one::

    q, k, v = φ(W_q x), φ(W_k x + P), W_v x
    o_i = q_i^T Σ_j k_j v_j^T / (q_i · Σ_j k_j + 1e-6)      sums over all tokens, or causally over j ≤ i
    y = W_o (o + w * v)                                     one depthwise convolution for all heads

Source: Guo et al. 2024 (arXiv 2405.11582; SLAB-Swin-T: 83.6 % on ImageNet at 16.2 ms, abstract) and
``classification/models/slab_swin.py`` of xinghaochen/SLAB at d9598695. There tokens are the pixels of a window, all
attend to all, and the convolution is one over the window: ``window=(height, width)``. On sequences it is one over
tokens. The norm that SLAB trains into its place is :class:`~seqconv.layers.norms.PRepBatchNorm`, ``norm="prep_batch"``
of a block.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from seqconv_kernels import gated_linear_attention
from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype

from ...layers.linear import Linear
from ...layers.short_convolution import ShortConvolution
from ...mixer import Mixer
from ...packing import zero_padding
from ...registry import register
from ...state import State, state_class
from ...types import StateKind

DENOMINATOR_EPS = 1e-6


@state_class
class SLABState(State):
    """Sums of ``k [v, 1]^T``, the last values of every head for the convolution, and the tokens so far."""

    memory: Float[Tensor, "batch heads d_k columns"]
    conv: Float[Tensor, "batch heads reach head_dim"]
    tokens: Int[Tensor, " batch"]


@register(
    "slab",
    examples=(
        {"num_heads": 2, "max_positions": 512, "qkv_bias": False, "d_conv": 3},
        {"num_heads": 2, "bidirectional": True, "max_positions": 64},
    ),
)
class SLAB(Mixer):
    """Simplified linear attention with a short convolution of the values.

    Args:
        d_model: width of inputs and outputs.
        num_heads: heads.
        d_conv: taps of the convolution of the values; odd where it is not causal.
        qkv_bias: whether queries, keys and values have biases.
        max_positions: rows of the learned table of positions; ``None`` for none.
        window: height and width of the window whose pixels, row after row, are the tokens: the convolution is then 2-D.
        bidirectional: attend to all tokens, as published.

    Raises:
        ValueError: heads that do not divide the width, sizes below 1, an even ``d_conv`` or a window without
            ``bidirectional``; in a call, more tokens than positions, or other than those of the window.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        d_conv: int = 5,
        qkv_bias: bool = True,
        max_positions: int | None = None,
        window: Sequence[int] | None = None,
        bidirectional: bool = False,
    ) -> None:
        super().__init__(d_model, causal=not bidirectional)
        _check(d_model, num_heads, d_conv, max_positions, window, bidirectional)
        self.heads, self.window = num_heads, None if window is None else (int(window[0]), int(window[1]))
        self.qkv_proj = Linear(d_model, 3 * d_model, bias=qkv_bias)
        self.o_proj = Linear(d_model, d_model)
        width = d_model // num_heads
        self.conv1d = None if bidirectional else ShortConvolution(width, d_conv, activation=None)
        self.dwc = _convolution(width, d_conv, window is not None) if bidirectional else None
        self.positions = None if max_positions is None else nn.Parameter(torch.empty(max_positions, d_model))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Positions of 0."""
        if self.positions is not None:
            self.positions.zero_()

    @property
    def state_kind(self) -> StateKind:
        """The state has a fixed size."""
        return "constant" if self.causal else "none"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self._attend(x, None, mask)[0] if self.causal else self._attend_to_all(x, mask)

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        width, wide = self.d_model // self.heads, torch.promote_types(dtype, torch.float32)
        memory = torch.zeros(batch_size, self.heads, width, width + 1, device=device, dtype=wide)
        assert self.conv1d is not None
        conv = self.conv1d.init_state(batch_size * self.heads, device, dtype)
        conv = conv.unflatten(0, (batch_size, self.heads))
        return SLABState(memory, conv, torch.zeros(batch_size, device=device, dtype=torch.int64))

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, SLABState)
        return self._attend(x, state, mask)

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        y, after = self._prefill(x_t[:, None], state, None)
        return y[:, 0], after

    def _attend(self, x: Tensor, state: SLABState | None, mask: Tensor | None) -> tuple[Tensor, State]:
        tokens = _count(x, mask, None if state is None else state.tokens)
        q, k, v = self._heads(x, tokens - 1)
        k, v = zero_padding(k, mask), zero_padding(v, mask)
        pair = gated_linear_attention(
            q, k, torch.cat([v, torch.ones_like(v[..., :1])], dim=-1), scale=1.0,
            initial_state=None if state is None else state.memory, return_final_state=True,
        )  # fmt: skip
        assert isinstance(pair, tuple)
        assert self.conv1d is not None
        rows = v.transpose(1, 2).flatten(0, 1)
        local, conv = self.conv1d(rows, None if state is None else state.conv.flatten(0, 1))
        local, conv = (t.unflatten(0, (x.shape[0], self.heads)) for t in (local, conv))
        y = self._output(_ratio(pair[0]) + local.transpose(1, 2))
        return y, SLABState(pair[1], conv, tokens[:, -1])

    def _attend_to_all(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self._heads(x, _count(x, mask, None) - 1)
        k, v = zero_padding(k, mask), zero_padding(v, mask)
        o = attend_to_all(q, k, v)
        channels_first = v.permute(0, 2, 3, 1).flatten(0, 1)
        if self.window is not None:
            self._check_window(x)
            channels_first = channels_first.unflatten(-1, self.window)
        assert self.dwc is not None
        local = self.dwc(channels_first).flatten(2).unflatten(0, (x.shape[0], self.heads))
        return self._output(o + local.permute(0, 3, 1, 2))

    def _heads(self, x: Tensor, position: Int[Tensor, "batch length"]) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv_proj(x).chunk(3, dim=-1)
        if self.positions is not None:
            self._check_positions(position)
            k = k + self.positions[position.clamp(min=0)].to(k.dtype)
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in (F.relu(q), F.relu(k), v))
        return q, k, v

    def _output(self, heads: Tensor) -> Tensor:
        y: Tensor = self.o_proj(heads.flatten(2))
        return y

    def _check_positions(self, position: Tensor) -> None:
        if torch.compiler.is_compiling() or position.is_meta or position.numel() == 0 or self.positions is None:
            return
        rows, last = self.positions.shape[0], int(position.max())
        if last >= rows:
            got = f"a sequence of {last + 1} tokens"
            remedy = "raise max_positions, or take None for no table"
            raise argument_error("slab mixer", got, f"at most max_positions={rows}", remedy)

    def _check_window(self, x: Tensor) -> None:
        assert self.window is not None
        height, width = self.window
        if x.shape[1] != height * width:
            wanted = f"{height} x {width} tokens, the pixels of a window"
            raise argument_error("slab mixer", f"{x.shape[1]} tokens", wanted, "cut the image into windows")


def attend_to_all(
    q: Float[Tensor, "batch length heads d_k"],
    k: Float[Tensor, "batch length heads d_k"],
    v: Float[Tensor, "batch length heads d_v"],
) -> Float[Tensor, "batch length heads d_v"]:
    """Linear attention of every token to all, of queries and keys that are not negative."""
    wide = accumulation_dtype(q)
    values = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
    memory = torch.einsum("blhk,blhv->bhkv", k.to(wide), values.to(wide))
    return _ratio(torch.einsum("blhk,bhkv->blhv", q.to(wide), memory)).to(v.dtype)


def _ratio(o: Tensor) -> Tensor:
    """Sums over the sum of their weights, which is the last column."""
    return o[..., :-1] / (o[..., -1:] + DENOMINATOR_EPS)


def _count(x: Tensor, mask: Tensor | None, before: Tensor | None) -> Int[Tensor, "batch length"]:
    """Real tokens up to each position."""
    real = torch.ones_like(x[..., 0], dtype=torch.int64) if mask is None else mask.to(torch.int64)
    counted = real.cumsum(1)
    return counted if before is None else counted + before[:, None]


def _convolution(width: int, taps: int, two_dimensional: bool) -> nn.Module:
    kind = nn.Conv2d if two_dimensional else nn.Conv1d
    return kind(width, width, taps, padding=taps // 2, groups=width)


def _check(
    d_model: int, heads: int, taps: int, positions: int | None, window: Sequence[int] | None, bidirectional: bool
) -> None:
    if heads < 1 or d_model % heads or taps < 1 or (positions is not None and positions < 1):
        got = f"num_heads={heads} for d_model={d_model}, d_conv={taps}, max_positions={positions}"
        raise argument_error("slab mixer", got, "heads that divide the width, sizes of at least 1", "correct the sizes")
    if bidirectional and taps % 2 == 0:
        raise argument_error("slab mixer", f"d_conv={taps} with bidirectional", "an odd number", "take 5")
    if window is not None and (not bidirectional or len(window) != 2 or min(window) < 1):
        got = f"window={tuple(window)}, bidirectional={bidirectional}"
        raise argument_error("slab mixer", got, "height and width with bidirectional=True", "correct the window")
