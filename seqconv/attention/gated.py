"""Gated attention around a memory: what MEGA and TCNCA share.

With ``x' = norm(x)`` (pre-norm), ``e`` the output of the memory (a causal or bidirectional mixer that depends on the
whole sequence) for ``x'``, and φ the activation::

    v = φ(W_v x')          [u | z | r | c] = W e         q, k = silu(z) ⊙ g_1 + b_1, silu(z) ⊙ g_2 + b_2
    o = A(q, k) v          h = φ(c + W_h (silu(r) ⊙ o))   y = x + σ(u) ⊙ (h - x)

A attends inside chunks; the memory alone crosses their borders. The gate σ(u) is the residual connection.
Without ``gates`` neither u, r nor c exist: ``y = x + W_h o``, ``v = W_v x'`` and ``z = W e`` as they are.

Source: Ma et al. 2022 (arXiv 2209.10655), MovingAverageGatedAttention of facebookresearch/mega.
"""

from typing import Annotated, Any, ClassVar, TypedDict, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ..layers.activations import activate, check_activation
from ..layers.linear import Linear
from ..layers.norms import create_norm
from ..layers.residual import Dropout
from ..mixer import Mixer
from ..options import Default, check_probability, with_defaults
from ..packing import zero_padding
from ..parameters import set_optimizer_options
from ..state import State, state_class
from ..types import StateKind
from .bias import create_bias
from .cache import CacheState, attend_from_cache, init_cache
from .chunked import attend_in_blocks
from .pattern import Pattern, View
from .weights import FUNCTIONS, attention_weights

STANDARD_DEVIATION = 0.02
"""Of the initial weights; biases start at zero."""


@state_class
class GatedState(State):
    """State of the memory, and keys and values of the current chunk (of everything, without chunks)."""

    memory: State
    cache: CacheState


class GatedAttentionOptions(TypedDict, total=False):
    """Options of :class:`GatedAttention` that every mixer built on it has.

    Attributes:
        d_k: width of queries and keys; half of the width (rounded up to an even number) by default.
        d_v: width of values; twice the width by default.
        attention: ``"softmax"``, ``"laplace"`` or ``"relu2"``.
        position_bias: ``"simple"`` or ``"rotary"``.
        max_positions: tokens that can attend to each other, for the simple bias without chunks.
        activation: φ.
        norm: as :func:`~seqconv.layers.norms.create_norm`, one of single tokens if causal.
        prenorm: norm before instead of after.
        norm_affine: whether the norm has parameters.
        dropout: of the memory's output and of h.
        attention_dropout: of the weights.
        hidden_dropout: of v.
        tie_dropout: drop a channel at all tokens of a row together (not the weights).
    """

    d_k: Annotated[int | None, Default(None)]
    d_v: Annotated[int | None, Default(None)]
    attention: Annotated[str, Default("softmax")]
    position_bias: Annotated[str, Default("simple")]
    max_positions: Annotated[int, Default(1024)]
    activation: Annotated[str, Default("silu")]
    norm: Annotated[str, Default("layer")]
    prenorm: Annotated[bool, Default(True)]
    norm_affine: Annotated[bool, Default(True)]
    dropout: Annotated[float, Default(0.0)]
    attention_dropout: Annotated[float, Default(0.0)]
    hidden_dropout: Annotated[float, Default(0.0)]
    tie_dropout: Annotated[bool, Default(False)]


class GatedAttention(Mixer):
    """A memory, attention in chunks, norm and gated residual: base of the mixers that differ in their memory.

    Args:
        memory: mixer whose output the queries, keys and gates are made of; it decides whether all is causal.
        attention_chunk_size: tokens of a chunk; ``None``: attention over everything.
        gates: ``False`` leaves out all gates (see the module).
        count_padding: padding counts as tokens: chunks begin at the first column, causal laplace and relu² divide by
            all columns before, and a batch norm in training includes them.
        float32_table: as in :class:`~seqconv.attention.bias.RotaryBias`.
        **options: see :class:`GatedAttentionOptions`.

    Raises:
        ValueError: unknown names, sizes below 1, probabilities outside [0, 1), a norm over the length if causal.
    """

    residual_inside: ClassVar[bool] = True

    def __init__(
        self,
        memory: Mixer,
        *,
        attention_chunk_size: int | None = None,
        gates: bool = True,
        count_padding: bool = False,
        float32_table: bool = False,
        **options: Unpack[GatedAttentionOptions],
    ) -> None:
        super().__init__(memory.d_model, causal=memory.causal)
        o = with_defaults(GatedAttentionOptions, options, self.name)
        d_model = memory.d_model
        d_k = 2 * ((d_model + 3) // 4) if o["d_k"] is None else o["d_k"]
        d_v = 2 * d_model if o["d_v"] is None else o["d_v"]
        if o["attention"] not in FUNCTIONS:
            raise unknown_name("gated attention", "attention", o["attention"], FUNCTIONS)
        if min(d_k, d_v) < 1:
            got = f"d_k={d_k}, d_v={d_v}"
            raise argument_error("gated attention", got, "widths of at least 1", "correct the widths")
        check_probability("attention_dropout", o["attention_dropout"])
        self.attention, self.attention_dropout = o["attention"], o["attention_dropout"]
        self.activation = check_activation("gated attention", o["activation"]) if gates else "identity"
        self.pattern = Pattern(memory.causal, chunk=attention_chunk_size, count_padding=count_padding)
        self.gates, self.prenorm, self.sizes = gates, o["prenorm"], (d_model, d_k, d_v)
        self.norm = _create_norm(o["norm"], d_model, o["norm_affine"], memory.causal, count_padding)
        self.memory = memory
        self.v_proj = Linear(d_model, d_v)
        self.mx_proj = Linear(d_model, 2 * d_model + d_k + d_v if gates else d_k)
        self.h_proj = Linear(d_v, d_model)
        self.qk_scale, self.qk_shift = (nn.Parameter(torch.empty(2, d_k)) for _ in range(2))
        set_optimizer_options(self, "qk_scale", "qk_shift", weight_decay=0.0)
        reach = o["max_positions"] if attention_chunk_size is None else attention_chunk_size
        self.rel_pos_bias = create_bias(o["position_bias"], d_k, reach, float32_table=float32_table)
        self.dropout = Dropout(o["dropout"], tied=o["tie_dropout"])
        self.hidden_dropout = Dropout(o["hidden_dropout"], tied=o["tie_dropout"])
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Weights of the projections and g ~ N(0, 0.02²), biases and b zero."""
        for projection in (self.v_proj, self.mx_proj, self.h_proj):
            nn.init.normal_(projection.weight, std=STANDARD_DEVIATION)
            nn.init.zeros_(projection.bias)
        self.qk_scale.normal_(std=STANDARD_DEVIATION)
        self.qk_shift.zero_()

    @property
    def state_kind(self) -> StateKind:
        """Bounded by the chunk; growing without one, or if the memory's is."""
        if not self.pattern.causal:
            return "none"
        bounded = self.pattern.chunk is not None and self.memory.state_kind != "growing"
        return "window" if bounded else "growing"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        normed = self._enter(x, mask)
        qkv, gates = self._project(normed, self.memory(normed, mask=mask))
        return self._leave(x, attend_in_blocks(*qkv, mask, self.pattern, self._attend), gates, mask)

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        _, d_k, d_v = self.sizes
        memory = self.memory.init_state(batch_size, max_length=max_length, device=device, dtype=dtype)
        return GatedState(memory, init_cache(batch_size, (d_k,), (d_v,), device, dtype))

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, GatedState)
        normed = self._enter(x, mask)
        if mask is not None:
            state.memory.not_begun = state.not_begun
        remembered, memory = self.memory.prefill(normed, state.memory, mask=mask)
        return self._continue(x, normed, remembered, GatedState(memory, state.cache), mask)

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, GatedState)
        normed = self._enter(x_t, None)
        remembered, memory = self.memory.step(normed, state.memory)
        before = GatedState(memory, state.cache)
        y, after = self._continue(x_t[:, None], normed[:, None], remembered[:, None], before, None)
        return y[:, 0], after

    def _continue(
        self, x: Tensor, normed: Tensor, remembered: Tensor, state: GatedState, mask: Tensor | None
    ) -> tuple[Tensor, State]:
        qkv, gates = self._project(normed, remembered)
        attended, cache = attend_from_cache(*qkv, state.cache, mask, self.pattern, self._attend)
        return self._leave(x, attended, gates, mask), GatedState(state.memory, cache)

    def _enter(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return zero_padding(self.norm(x, mask), mask) if self.prenorm else x

    def _project(self, normed: Tensor, remembered: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Any]:
        """Queries, keys and values; and (u, r, c), ``None`` without gates."""
        d_model, d_k, d_v = self.sizes
        v = self.hidden_dropout(activate(self.activation, self.v_proj(normed)))
        projected, gates = self.mx_proj(self.dropout(remembered)), None
        if self.gates:
            u, zr, candidate = projected.split([d_model, d_k + d_v, d_model], dim=-1)
            projected, r = F.silu(zr).split([d_k, d_v], dim=-1)
            gates = (torch.sigmoid(u), r, candidate)
        q, k = (projected[..., None, :] * self.qk_scale + self.qk_shift).unbind(-2)
        return (q, k, v), gates

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
        weights = attention_weights(self.attention, q, k, view, self.rel_pos_bias)
        weights = F.dropout(weights, self.attention_dropout, self.training)
        return weights.to(v.dtype) @ v

    def _leave(self, x: Tensor, attended: Tensor, gates: Any, mask: Tensor | None) -> Tensor:
        if gates is None:
            y: Tensor = x + self.dropout(self.h_proj(attended))
        else:
            u, r, candidate = gates
            h = self.dropout(activate(self.activation, candidate + self.h_proj(attended * r)))
            y = x + u * (h - x)
        return y if self.prenorm else self.norm(y, mask)


def _create_norm(name: str, d_model: int, affine: bool, causal: bool, count_padding: bool) -> nn.Module:
    options: dict[str, Any] = {} if affine or name == "none" else {"affine": False}
    if name == "batch":
        options["masked"] = not count_padding
    norm = create_norm(name, d_model, **options)
    if causal and not norm.per_token:
        remedy = "take norm='layer', 'rms', 'scale' or 'batch', or bidirectional=True"
        raise argument_error(
            "gated attention", f"norm={name!r}, which depends on the whole sequence", "norms of tokens", remedy
        )
    return norm
