"""The layer around linear attention, written once for all mixers whose state is a sum of decayed outer products.

Equation, per head, with a state ``S`` of (d_k, d_v) and a decay ``α`` of the mixer (one per channel of the key or per
head, for every token or constant, or none)::

    q, k, v = act(conv(W_q x, W_k x, W_v x))        activation and convolution if the mixer has them
    S_t = diag(α_t) S_{t-1} + k_t v_t^T             o_t = scale S_t^T q_t

:class:`LinearAttentionLayer` holds projections, short convolution, states and the three forms;
:class:`GatedAttentionLayer` adds the norm per head and the output gate of GLA, which simple GLA and RetNet share.
"""

from abc import abstractmethod
from typing import Annotated, Literal, NamedTuple, TypedDict, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from seqconv_kernels import gated_linear_attention, gated_linear_attention_step
from seqconv_kernels._core.errors import argument_error

from ...layers.activations import activate, check_activation
from ...layers.linear import Linear
from ...layers.norms import RMSNorm
from ...layers.short_convolution import ShortConvolution
from ...mixer import ScanMixer
from ...options import Default, with_defaults
from ...packing import zero_padding
from ...state import State, state_class


@state_class
class LinearAttentionState(State):
    """The matrix state of every head; the last inputs of the short convolution and the position, if there are any."""

    memory: Float[Tensor, "batch state_heads d_k d_v"]
    conv: Float[Tensor, "batch reach channels"] | None
    position: Int[Tensor, " batch"] | None


class Heads(NamedTuple):
    """What the op takes.

    Attributes:
        q, k, v: (…, heads, width).
        log_decay: (…, heads of k) or (…, heads of k, d_k); ``None`` for a constant one or none.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor | None


class LinearAttentionLayer(ScanMixer[LinearAttentionState]):
    """Everything but the decay and the output.

    Args:
        d_model: width of inputs and outputs.
        num_heads: query heads.
        num_kv_heads: key-value heads; ``num_heads`` if not given.
        d_key: channels of all query heads together.
        d_value: value channels that ``num_heads`` heads have together.
        d_conv: taps of a short convolution over queries, keys and values; none if not given.
        conv_bias: whether it has a bias.
        conv_activation: its activation.

    Raises:
        ValueError: heads that do not divide the widths.
    """

    scale: float | None = None
    """Of the queries; ``d_k^(-1/2)`` if ``None``."""
    counts_positions: bool = False
    """Whether the state holds the position of the next token."""

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int,
        num_kv_heads: int | None = None,
        d_key: int,
        d_value: int,
        d_conv: int | None = None,
        conv_bias: bool = False,
        conv_activation: Literal["silu"] | None = "silu",
    ) -> None:
        super().__init__(d_model)
        self.heads, self.kv_heads = num_heads, num_heads if num_kv_heads is None else num_kv_heads
        self._check_heads(d_key, d_value)
        self.d_k, self.d_v = d_key // num_heads, d_value // num_heads
        self.widths = [d_key, self.kv_heads * self.d_k, self.kv_heads * self.d_v]
        self.q_proj, self.k_proj, self.v_proj = (Linear(d_model, width, bias=False) for width in self.widths)
        self.conv1d = (
            None
            if d_conv is None
            else ShortConvolution(sum(self.widths), d_conv, bias=conv_bias, activation=conv_activation)
        )

    @abstractmethod
    def _output(self, o: Float[Tensor, "*tokens heads d_v"], x: Float[Tensor, "*tokens d_model"]) -> Tensor:
        """From what was read of the state to the output of the mixer."""

    def _log_decay(self, x: Float[Tensor, "*tokens d_model"]) -> Tensor | None:
        """Logarithm of the decay per token, (*tokens, state_heads) or (*tokens, state_heads, d_k)."""
        return None

    def _constant_decay(self, like: Tensor) -> Float[Tensor, " state_heads"] | None:
        """Logarithm of the decay per head, on the device of ``like``, where it is the same for all tokens."""
        return None

    def _heads(self, qkv: Tensor, x: Tensor, position: Int[Tensor, "batch #length"] | None) -> Heads:
        """Inputs of the op from the projections after the convolution, the inputs of the mixer and the positions."""
        q, k, v = qkv.split(self.widths, dim=-1)
        k, v = (t.unflatten(-1, (self.kv_heads, -1)) for t in (k, v))
        return Heads(q.unflatten(-1, (self.heads, -1)), k, v, self._log_decay(x))

    def _read(self, o: Tensor, position: Int[Tensor, "batch #length"] | None) -> Tensor:
        """What was read of the state, scaled if the mixer does; the positions have a length as ``o`` has."""
        return o

    def _state_size(self) -> tuple[int, int, int]:
        """Heads, rows and columns of the matrix states."""
        return self.kv_heads, self.d_k, self.d_v

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        wide = torch.promote_types(dtype, torch.float32)
        memory = torch.zeros(batch_size, *self._state_size(), device=device, dtype=wide)
        conv = None if self.conv1d is None else self.conv1d.init_state(batch_size, device, dtype)
        position = torch.zeros(batch_size, device=device, dtype=torch.int64) if self.counts_positions else None
        return LinearAttentionState(memory, conv, position)

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, LinearAttentionState)
        qkv, conv = self._project(x_t), None
        if self.conv1d is not None:
            assert state.conv is not None
            qkv, conv = self.conv1d.step(qkv, state.conv)
        if state.position is None:
            h = self._heads(qkv, x_t, None)
        else:  # positions are those of a length, here of one
            h = self._heads(qkv[:, None], x_t[:, None], state.position[:, None])
            h = Heads(h.q[:, 0], h.k[:, 0], h.v[:, 0], None if h.log_decay is None else h.log_decay[:, 0])
        decay = self._constant_decay(state.memory)
        o, memory = gated_linear_attention_step(*h, g_gamma=decay, state=state.memory, scale=self.scale)
        if state.position is not None:
            o = self._read(o[:, None], state.position[:, None])[:, 0]
        return self._output(o, x_t), LinearAttentionState(
            memory, conv, None if state.position is None else state.position + 1
        )

    def _scan_from(self, x: Tensor, state: LinearAttentionState | None, mask: Tensor | None) -> tuple[Tensor, State]:
        qkv, conv, length = self._project(x), None, x.shape[1]
        if self.conv1d is not None:
            qkv, conv = self.conv1d(zero_padding(qkv, mask), None if state is None else state.conv)
        start = x.new_zeros(x.shape[0], dtype=torch.int64) if self.counts_positions else None
        if state is not None:
            start = state.position
        position = None if start is None else _positions(start, length, mask)
        q, k, v, log_decay = self._heads(qkv, x, position)
        # A key of zero writes nothing: padding before the first token leaves the zero state as it is.
        pair = gated_linear_attention(
            q, zero_padding(k, mask), v, log_decay, g_gamma=self._constant_decay(x), scale=self.scale,
            initial_state=None if state is None else state.memory, return_final_state=True,
        )  # fmt: skip
        assert isinstance(pair, tuple)
        after = None if position is None else position[:, -1] + 1
        return self._output(self._read(pair[0], position), x), LinearAttentionState(pair[1], conv, after)

    def _project(self, x: Tensor) -> Tensor:
        return torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], dim=-1)

    def _check_heads(self, d_key: int, d_value: int) -> None:
        heads, operation = self.heads, f"{self.name} mixer"
        if min(heads, self.kv_heads) < 1 or heads % self.kv_heads:
            got = f"num_heads={heads}, num_kv_heads={self.kv_heads}"
            raise argument_error(operation, got, "num_kv_heads that divides num_heads", "change num_kv_heads")
        if min(d_key, d_value) < heads or d_key % heads or d_value % heads:
            got = f"{d_key} key and {d_value} value channels for {heads} heads"
            raise argument_error(operation, got, "multiples of the heads", "change num_heads, expand_k or expand_v")


def _positions(start: Tensor, length: int, mask: Tensor | None) -> Int[Tensor, "batch length"]:
    """Real tokens before each token; -1 before the first."""
    if mask is None:
        return start[:, None] + torch.arange(length, device=start.device)
    return start[:, None] + mask.to(torch.int64).cumsum(1) - 1


class GatedAttentionOptions(TypedDict, total=False):
    """Options of :class:`GatedAttentionLayer`.

    Attributes:
        num_kv_heads: key-value heads; ``num_heads`` if not given.
        feature_map: activation of queries and keys; none if not given.
        conv_bias: whether the short convolution has a bias.
        use_output_gate: gate the normalised output.
        gate_activation: activation of the output gate.
        norm_affine: whether the norm has a weight.
        norm_eps: ε of the norm.
    """

    num_kv_heads: Annotated[int | None, Default(None)]
    feature_map: Annotated[str | None, Default(None)]
    conv_bias: Annotated[bool, Default(False)]
    use_output_gate: Annotated[bool, Default(True)]
    gate_activation: Annotated[str, Default("silu")]
    norm_affine: Annotated[bool, Default(True)]
    norm_eps: Annotated[float, Default(1e-5)]


class GatedAttentionLayer(LinearAttentionLayer):
    """Linear attention with ``y = W_o (norm(o) ⊙ φ(W_g x))``, the norm over each head: everything but the decay.

    Args:
        d_model: width of inputs and outputs.
        expand_k: key channels of all heads per input channel.
        expand_v: value channels of all heads per input channel.
        num_heads: query heads.
        d_conv: taps of a short convolution over queries, keys and values, with SiLU; none if not given.
        **options: see :class:`GatedAttentionOptions`.

    Raises:
        ValueError: an unknown activation; heads that do not divide the widths.
    """

    def __init__(
        self,
        d_model: int,
        *,
        expand_k: int | float,
        expand_v: int | float,
        num_heads: int,
        d_conv: int | None,
        **options: Unpack[GatedAttentionOptions],
    ) -> None:
        o = with_defaults(GatedAttentionOptions, options, self.name)
        d_key, d_value, name = int(d_model * expand_k), int(d_model * expand_v), f"{self.name} mixer"
        super().__init__(
            d_model, num_heads=num_heads, num_kv_heads=o["num_kv_heads"], d_key=d_key, d_value=d_value,
            d_conv=d_conv, conv_bias=o["conv_bias"],
        )  # fmt: skip
        self.feature_map = "identity" if o["feature_map"] is None else check_activation(name, o["feature_map"])
        self.gate_activation = check_activation(name, o["gate_activation"])
        self.g_proj = Linear(d_model, d_value, bias=False) if o["use_output_gate"] else None
        self.g_norm = RMSNorm(self.d_v, eps=o["norm_eps"], affine=o["norm_affine"])
        self.o_proj = Linear(d_value, d_model, bias=False)

    def _heads(self, qkv: Tensor, x: Tensor, position: Tensor | None) -> Heads:
        q, k, v, log_decay = super()._heads(qkv, x, position)
        return Heads(activate(self.feature_map, q), activate(self.feature_map, k), v, log_decay)

    def _output(self, o: Tensor, x: Tensor) -> Tensor:
        o = self.g_norm(o).flatten(-2)
        if self.g_proj is not None:
            o = o * activate(self.gate_activation, self.g_proj(x))
        y: Tensor = self.o_proj(o)
        return y


def repeat_heads(heads: Heads, repeats: int) -> Heads:
    """Every key-value head for each of the query heads that share it: where decays differ between query heads."""
    if repeats == 1:
        return heads
    return heads._replace(k=heads.k.repeat_interleave(repeats, -2), v=heads.v.repeat_interleave(repeats, -2))
