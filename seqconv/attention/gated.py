"""Gated attention around a memory: what MEGA and TCNCA share.

With ``x' = norm(x)`` (pre-norm), ``e`` the output of the memory (a causal or bidirectional mixer that hears the
whole sequence) for ``x'``, and φ the activation::

    v = φ(W_v x')          [u | z | r | c] = W e         q, k = silu(z) ⊙ g_1 + b_1, silu(z) ⊙ g_2 + b_2
    o = A(q, k) v          h = φ(c + W_h (silu(r) ⊙ o))   y = x + σ(u) ⊙ (h - x)

A attends inside chunks; the memory alone crosses their borders. The gate σ(u) is the residual connection.
Without ``gates`` neither u, r nor c exist: ``y = x + W_h o``, ``v = W_v x'`` and ``z = W e`` as they are.

Source: Ma et al. 2022 (arXiv 2209.10655), MovingAverageGatedAttention of facebookresearch/mega.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ..layers.activations import activate, check_activation
from ..layers.norms import create_norm
from ..layers.residual import Dropout, check_probability
from ..mixer import Mixer
from ..packing import zero_padding
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


class GatedAttention(nn.Module):
    """A memory, attention in chunks, norm and gated residual.

    Args:
        memory: mixer whose output the queries, keys and gates are made of; it decides whether all is causal.
        d_k: width of queries and keys; half of the width (rounded up to an even number) by default.
        d_v: width of values; twice the width by default.
        attention: ``"softmax"``, ``"laplace"`` or ``"relu2"``.
        position_bias: ``"simple"`` or ``"rotary"``.
        max_positions: tokens that can attend to each other, for the simple bias without chunks.
        chunk_size: tokens of a chunk; ``None``: attention over everything.
        gates: ``False`` leaves out all gates (see the module).
        activation: φ.
        norm: as :func:`~seqconv.layers.norms.create_norm`, one that hears single tokens if causal.
        prenorm: norm before instead of after.
        norm_affine: whether the norm has parameters.
        dropout: of the memory's output and of h.
        attention_dropout: of the weights.
        hidden_dropout: of v.
        tied_dropout: drop a channel at all tokens of a row together (not the weights).
        count_padding: padding counts as tokens: chunks begin at the first column, causal laplace and relu² divide by
            all columns before, and a batch norm in training hears them.
        float32_table: as in :class:`~seqconv.attention.bias.RotaryBias`.

    Raises:
        ValueError: unknown names, sizes below 1, probabilities outside [0, 1), a norm over the length if causal.
    """

    def __init__(
        self,
        memory: Mixer,
        *,
        d_k: int | None,
        d_v: int | None,
        attention: str,
        position_bias: str,
        max_positions: int,
        chunk_size: int | None,
        gates: bool = True,
        activation: str = "silu",
        norm: str = "layer",
        prenorm: bool = True,
        norm_affine: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        tied_dropout: bool = False,
        count_padding: bool = False,
        float32_table: bool = False,
    ) -> None:
        super().__init__()
        d_model = memory.d_model
        d_k = 2 * ((d_model + 3) // 4) if d_k is None else d_k
        d_v = 2 * d_model if d_v is None else d_v
        if attention not in FUNCTIONS:
            raise unknown_name("gated attention", "attention", attention, FUNCTIONS)
        if min(d_k, d_v) < 1:
            raise argument_error(
                "gated attention", f"d_k={d_k}, d_v={d_v}", "widths of at least 1", "correct the widths"
            )
        check_probability("attention_dropout", attention_dropout)
        self.attention, self.attention_dropout = attention, attention_dropout
        self.activation = check_activation("gated attention", activation) if gates else "identity"
        self.pattern = Pattern(memory.causal, chunk=chunk_size, count_padding=count_padding)
        self.gates, self.prenorm, self.sizes = gates, prenorm, (d_model, d_k, d_v)
        self.norm = _create_norm(norm, d_model, norm_affine, memory.causal, count_padding)
        self.memory = memory
        self.value = nn.Linear(d_model, d_v)
        self.project = nn.Linear(d_model, 2 * d_model + d_k + d_v if gates else d_k)
        self.output = nn.Linear(d_v, d_model)
        for linear in (self.value, self.project, self.output):
            nn.init.normal_(linear.weight, std=STANDARD_DEVIATION)
            nn.init.zeros_(linear.bias)
        self.scale = nn.Parameter(STANDARD_DEVIATION * torch.randn(2, d_k))
        self.shift = nn.Parameter(torch.zeros(2, d_k))
        reach = max_positions if chunk_size is None else chunk_size
        self.bias = create_bias(position_bias, d_k, reach, float32_table=float32_table)
        self.dropout = Dropout(dropout, tied=tied_dropout)
        self.hidden_dropout = Dropout(hidden_dropout, tied=tied_dropout)

    @property
    def state_kind(self) -> StateKind:
        """Bounded by the chunk; growing without one, or if the memory's is."""
        if not self.pattern.causal:
            return "none"
        bounded = self.pattern.chunk is not None and self.memory.state_kind != "growing"
        return "window" if bounded else "growing"

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """All tokens in parallel, as ``Mixer._forward``."""
        normed = self._enter(x, mask)
        qkv, gates = self._project(normed, self.memory(normed, mask=mask))
        return self._leave(x, attend_in_blocks(*qkv, mask, self.pattern, self._attend), gates, mask)

    def init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        """The state before the first token, as ``Mixer._init_state``."""
        _, d_k, d_v = self.sizes
        memory = self.memory.init_state(batch_size, max_length=max_length, device=device, dtype=dtype)
        return GatedState(memory, init_cache(batch_size, (d_k,), (d_v,), device, dtype))

    def prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        """Tokens from ``state``, as ``Mixer._prefill``."""
        assert isinstance(state, GatedState)
        normed = self._enter(x, mask)
        heard, memory = self.memory.prefill(normed, state.memory, mask=mask)
        return self._continue(x, normed, heard, GatedState(memory, state.cache), mask)

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        """One token from ``state``, as ``Mixer._step``."""
        assert isinstance(state, GatedState)
        normed = self._enter(x_t, None)
        heard, memory = self.memory.step(normed, state.memory)
        before = GatedState(memory, state.cache)
        y, after = self._continue(x_t[:, None], normed[:, None], heard[:, None], before, None)
        return y[:, 0], after

    def _continue(
        self, x: Tensor, normed: Tensor, heard: Tensor, state: GatedState, mask: Tensor | None
    ) -> tuple[Tensor, State]:
        qkv, gates = self._project(normed, heard)
        attended, cache = attend_from_cache(*qkv, state.cache, mask, self.pattern, self._attend)
        return self._leave(x, attended, gates, mask), GatedState(state.memory, cache)

    def _enter(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return zero_padding(self.norm(x, mask), mask) if self.prenorm else x

    def _project(self, normed: Tensor, heard: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Any]:
        """Queries, keys and values; and (u, r, c), ``None`` without gates."""
        d_model, d_k, d_v = self.sizes
        v = self.hidden_dropout(activate(self.activation, self.value(normed)))
        projected, gates = self.project(self.dropout(heard)), None
        if self.gates:
            u, zr, candidate = projected.split([d_model, d_k + d_v, d_model], dim=-1)
            projected, r = F.silu(zr).split([d_k, d_v], dim=-1)
            gates = (torch.sigmoid(u), r, candidate)
        q, k = (projected[..., None, :] * self.scale + self.shift).unbind(-2)
        return (q, k, v), gates

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
        weights = attention_weights(self.attention, q, k, view, self.bias)
        weights = F.dropout(weights, self.attention_dropout, self.training)
        return weights.to(v.dtype) @ v

    def _leave(self, x: Tensor, attended: Tensor, gates: Any, mask: Tensor | None) -> Tensor:
        if gates is None:
            y: Tensor = x + self.dropout(self.output(attended))
        else:
            u, r, candidate = gates
            h = self.dropout(activate(self.activation, candidate + self.output(attended * r)))
            y = x + u * (h - x)
        return y if self.prenorm else self.norm(y, mask)


class GatedAttentionMixer(Mixer):
    """Base of the mixers that are gated attention around a memory; they differ in the memory and their options.

    Args:
        gated: the whole layer; norm and residual connection are inside.
    """

    residual_inside: ClassVar[bool] = True

    def __init__(self, gated: GatedAttention) -> None:
        super().__init__(gated.memory.d_model, causal=gated.memory.causal)
        self.gated = gated

    @property
    def state_kind(self) -> StateKind:
        """Bounded by the chunk if there are chunks, growing otherwise."""
        return self.gated.state_kind

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.gated(x, mask)  # type: ignore[no-any-return]

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        return self.gated.init_state(batch_size, max_length, device, dtype)

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        return self.gated.prefill(x, state, mask)

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        return self.gated.step(x_t, state)


def _create_norm(name: str, d_model: int, affine: bool, causal: bool, count_padding: bool) -> nn.Module:
    options: dict[str, Any] = {} if affine or name == "none" else {"affine": False}
    if name == "batch":
        options["masked"] = not count_padding
    norm = create_norm(name, d_model, **options)
    if causal and not norm.per_token:
        remedy = "take norm='layer', 'rms', 'scale' or 'batch', or bidirectional=True"
        raise argument_error(
            "gated attention", f"norm={name!r}, which hears the whole sequence", "norms of tokens", remedy
        )
    return norm
