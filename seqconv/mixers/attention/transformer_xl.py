"""Transformer-XL: attention within segments and to a memory of the tokens before them, with relative positions.

Equation, per head of d channels, for a token i that attends to the tokens j of its segment and the M before it::

    score(i, j) = ((q_i + u) · k_j + (q_i + w) · W_r R(i - j)) / √d        u, w learned per head
    R(n) = [sin(n f) | cos(n f)],  f_c = 10000^(-2c/D)
    y_i = W_o concat(Σ_j softmax_j(score(i, j)) v_j)

Segments have ``segment_length`` tokens from the first token of a row on, whatever the calls: outputs do not depend on
how a sequence is cut. The original trains with a memory that passes no gradient from one segment to the next: give it
one segment per call and detach the state, ``mixer(x, state.detach())``.

Source: Dai et al. 2019 (arXiv 1901.02860; 18.3 perplexity on WikiText-103, 0.99 bits per character on enwik8, abstract)
and ``RelPartialLearnableMultiHeadAttn`` in ``pytorch/mem_transformer.py`` of kimiyoung/transformer-xl at 44781ed2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype

from ...attention import CacheState, Pattern, View, attend_from_cache, attend_in_blocks, init_cache
from ...attention.pattern import visible
from ...layers.linear import Linear
from ...mixer import Mixer
from ...options import check_probability
from ...parameters import set_optimizer_options
from ...registry import register
from ...state import State
from ...types import StateKind

INITIAL_STD = 0.02
LONGEST_WAVE = 10000.0


@register(
    "transformer_xl",
    examples=(
        {"num_heads": 2, "segment_length": 5, "mem_length": 3},
        {"num_heads": 1, "segment_length": 4, "mem_length": 8},
    ),
)
class TransformerXL(Mixer):
    """Attention within segments and to a memory of the tokens before them (Transformer-XL).

    Args:
        d_model: width of inputs and outputs.
        num_heads: heads.
        head_dim: width of a head; ``d_model / num_heads`` by default.
        segment_length: tokens of a segment.
        mem_length: tokens before its segment that a token attends to.
        dropout: of the attention weights.

    Raises:
        ValueError: heads that do not divide the width, an odd width, lengths out of range.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        head_dim: int | None = None,
        segment_length: int = 128,
        mem_length: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(d_model)
        _check_sizes(d_model, num_heads, head_dim, segment_length, mem_length)
        check_probability("transformer_xl dropout", dropout)
        self.num_heads, self.head_dim = num_heads, head_dim or d_model // num_heads
        self.segment_length, self.mem_length, self.dropout = segment_length, mem_length, dropout
        self.pattern = Pattern(True, window=segment_length + mem_length)
        width = num_heads * self.head_dim
        self.qkv_proj = Linear(d_model, 3 * width, bias=False)
        self.r_proj = Linear(d_model, width, bias=False)
        self.content_bias = nn.Parameter(torch.empty(num_heads, self.head_dim))
        self.position_bias = nn.Parameter(torch.empty(num_heads, self.head_dim))
        self.o_proj = Linear(width, d_model, bias=False)
        set_optimizer_options(self, "content_bias", "position_bias", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """All from N(0, 0.02²)."""
        for projection in (self.qkv_proj, self.r_proj, self.o_proj):
            projection.weight.normal_(std=INITIAL_STD)
        self.content_bias.normal_(std=INITIAL_STD)
        self.position_bias.normal_(std=INITIAL_STD)

    @property
    def state_kind(self) -> StateKind:
        """Keys and values of a segment and its memory."""
        return "window"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self._merge(attend_in_blocks(*self._heads(x), mask, self.pattern, self._attend))

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        sizes = (self.num_heads, self.head_dim)
        return init_cache(batch_size, sizes, sizes, device, dtype)

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, CacheState)
        attended, after = attend_from_cache(*self._heads(x), state, mask, self.pattern, self._attend)
        return self._merge(attended), after

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        y, after = self._prefill(x_t[:, None], state, None)
        return y[:, 0], after

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv_proj(x).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(-3)
        return q, k, v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
        rows, reach = q.shape[:2], view.reach
        span = view.position % self.segment_length + self.mem_length
        span = span.expand(q.shape[0], -1, -1) if view.span is None else torch.minimum(span, view.span)
        seen = visible(view._replace(span=span)).expand(*rows, *view.offset.shape).flatten(0, 1)
        # (heads, rows, tokens, head_dim): another order fixes the number of blocks under compilers.
        q, k, v = (t.flatten(0, 1).permute(2, 0, 1, 3) for t in (q, k, v))
        content = (q + self.content_bias[:, None, None]) @ k.mT
        relative = (q + self.position_bias[:, None, None]) @ self._relative(reach, q).permute(1, 2, 0)[:, None]
        index = (-view.offset).clamp(0, reach - 1).expand(*relative.shape[:2], *view.offset.shape)
        scores = (content + relative.gather(-1, index)).to(accumulation_dtype(q)) * self.head_dim**-0.5
        weights = torch.softmax(scores.masked_fill(~seen, -torch.inf), dim=-1)
        weights = F.dropout(weights, self.dropout, self.training).to(v.dtype)
        y: Tensor = (weights @ v).permute(1, 2, 0, 3).unflatten(0, rows)
        return y

    def _relative(self, reach: int, like: Tensor) -> Tensor:
        """Projected positions of the distances below ``reach``, (reach, heads, head_dim)."""
        wide = accumulation_dtype(like)
        channel = torch.arange(0, self.d_model, 2, device=like.device, dtype=wide)
        rates = torch.pow(LONGEST_WAVE, -channel / self.d_model)
        angle = torch.arange(reach, device=like.device, dtype=wide)[:, None] * rates
        projected = self.r_proj(torch.cat([angle.sin(), angle.cos()], dim=-1).to(like.dtype))
        per_head: Tensor = projected.unflatten(-1, (self.num_heads, self.head_dim))
        return per_head

    def _merge(self, heads: Tensor) -> Tensor:
        y: Tensor = self.o_proj(heads.flatten(2))
        return y


def _check_sizes(d_model: int, heads: int, head_dim: int | None, segment: int, memory: int) -> None:
    if heads < 1 or (head_dim is None and d_model % heads) or (head_dim or 1) < 1 or d_model % 2:
        got = f"d_model={d_model}, num_heads={heads}, head_dim={head_dim}"
        wanted = "an even d_model, heads that divide it or a head_dim"
        raise argument_error("transformer_xl mixer", got, wanted, "change the heads or the width")
    if segment < 1 or memory < 0:
        got = f"segment_length={segment}, mem_length={memory}"
        raise argument_error(
            "transformer_xl mixer", got, "a segment of at least 1 and a memory of at least 0", "raise it"
        )
