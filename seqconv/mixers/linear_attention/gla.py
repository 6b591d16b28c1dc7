"""Gated linear attention: linear attention whose state decays by a factor per key channel and token.

Equation, per head, with a state ``S`` of (d_k, d_v)::

    q, k, v = W_q x, W_k x, W_v x            (optionally through a short convolution with SiLU)
    log α = logsigmoid(W_2 W_1 x + b) / τ    (optionally bounded below)
    S_t = diag(α_t) S_{t-1} + k_t v_t^T      o_t = d_k^{-1/2} S_t^T q_t
    y = W_o (norm(o) ⊙ φ(W_g x))             norm over each head

Source: Yang et al. 2024 (arXiv 2312.06635) and the code of fla-org/flash-linear-attention. With fewer key-value
heads than query heads, neighbouring query heads read the same state.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels import gated_linear_attention, gated_linear_attention_step
from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype

from ...layers.activations import activate, check_activation
from ...layers.norms import RMSNorm
from ...layers.short_convolution import ShortConvolution
from ...mixer import Mixer
from ...packing import zero_padding
from ...registry import register
from ...state import State, state_class
from ...types import StateKind


@state_class
class GatedLinearAttentionState(State):
    """The matrix state of every key-value head; the last inputs of the short convolution, if there is one."""

    memory: Float[Tensor, "batch kv_heads d_k d_v"]
    conv: Float[Tensor, "batch reach channels"] | None


@register(
    "gla",
    examples=(
        {"num_heads": 2, "expand_k": 1.0, "gate_logit_normalizer": 1, "feature_map": "relu"},
        {"expand_v": 2.0, "num_heads": 4, "num_kv_heads": 2, "d_conv": 4, "conv_bias": True, "clamp_min": -0.05},
        {"num_heads": 2, "use_output_gate": False, "norm_affine": False, "gate_low_rank_dim": 3},
    ),
)
class GatedLinearAttention(Mixer):
    """Linear attention with a data-dependent decay per key channel.

    Args:
        d_model: width of inputs and outputs.
        expand_k: key channels of all heads per input channel.
        expand_v: value channels of all heads per input channel.
        num_heads: query heads.
        num_kv_heads: key-value heads; ``num_heads`` if not given.
        feature_map: activation of queries and keys; none if not given.
        d_conv: taps of a short convolution over queries, keys and values, with SiLU; none if not given.
        conv_bias: whether it has a bias.
        use_output_gate: gate the normalised output.
        gate_activation: activation of the output gate.
        norm_affine: whether the norm has a weight.
        norm_eps: ε of the norm.
        gate_logit_normalizer: τ; the larger, the slower the initial decay.
        gate_low_rank_dim: width of the bottleneck in front of the decay.
        clamp_min: least logarithm of the decay.

    Raises:
        ValueError: an unknown activation; heads that do not divide the widths.
    """

    def __init__(
        self,
        d_model: int,
        *,
        expand_k: int | float = 0.5,
        expand_v: int | float = 1.0,
        num_heads: int = 4,
        num_kv_heads: int | None = None,
        feature_map: str | None = None,
        d_conv: int | None = None,
        conv_bias: bool = False,
        use_output_gate: bool = True,
        gate_activation: str = "silu",
        norm_affine: bool = True,
        norm_eps: float = 1e-5,
        gate_logit_normalizer: int | float = 16,
        gate_low_rank_dim: int = 16,
        clamp_min: float | None = None,
    ) -> None:
        super().__init__(d_model)
        self.heads, self.kv_heads = num_heads, num_heads if num_kv_heads is None else num_kv_heads
        d_key, d_value = int(d_model * expand_k), int(d_model * expand_v)
        _check_heads(self.heads, self.kv_heads, d_key, d_value)
        self.d_k, self.d_v = d_key // num_heads, d_value // num_heads
        self.feature_map = "identity" if feature_map is None else check_activation("gla mixer", feature_map)
        self.gate_activation = check_activation("gla mixer", gate_activation)
        self.gate_logit_normalizer, self.clamp_min = gate_logit_normalizer, clamp_min
        self.widths = [d_key, self.kv_heads * self.d_k, self.kv_heads * self.d_v]
        self.q_proj = nn.Linear(d_model, self.widths[0], bias=False)
        self.k_proj = nn.Linear(d_model, self.widths[1], bias=False)
        self.v_proj = nn.Linear(d_model, self.widths[2], bias=False)
        self.conv1d = None if d_conv is None else ShortConvolution(sum(self.widths), d_conv, bias=conv_bias)
        self.gk_proj = nn.Sequential(
            nn.Linear(d_model, gate_low_rank_dim, bias=False), nn.Linear(gate_low_rank_dim, self.widths[1])
        )
        self.g_proj = nn.Linear(d_model, d_value, bias=False) if use_output_gate else None
        self.g_norm = RMSNorm(self.d_v, eps=norm_eps, affine=norm_affine)
        self.o_proj = nn.Linear(d_value, d_model, bias=False)

    @property
    def state_kind(self) -> StateKind:
        """The state has a fixed size."""
        return "constant"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self._attend(x, None, mask)[0]

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        wide = torch.promote_types(dtype, torch.float32)
        memory = torch.zeros(batch_size, self.kv_heads, self.d_k, self.d_v, device=device, dtype=wide)
        return GatedLinearAttentionState(
            memory, None if self.conv1d is None else self.conv1d.init_state(batch_size, device, dtype)
        )

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, GatedLinearAttentionState)
        return self._attend(x, state, mask)

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, GatedLinearAttentionState)
        qkv, conv = self._project(x_t), None
        if self.conv1d is not None:
            assert state.conv is not None
            qkv, conv = self.conv1d.step(qkv, state.conv)
        q, k, v = self._heads(qkv)
        o, memory = gated_linear_attention_step(q, k, v, self._log_decay(x_t), state=state.memory)
        return self._output(o, x_t), GatedLinearAttentionState(memory, conv)

    def _attend(self, x: Tensor, state: GatedLinearAttentionState | None, mask: Tensor | None) -> tuple[Tensor, State]:
        qkv, conv = self._project(x), None
        if self.conv1d is not None:
            qkv, conv = self.conv1d(qkv, None if state is None else state.conv)
        q, k, v = self._heads(qkv)
        pair = gated_linear_attention(
            q, zero_padding(k, mask), v, self._log_decay(x),
            initial_state=None if state is None else state.memory, return_final_state=True,
        )  # fmt: skip
        assert isinstance(pair, tuple)
        return self._output(pair[0], x), GatedLinearAttentionState(pair[1], conv)

    def _project(self, x: Tensor) -> Tensor:
        return torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], dim=-1)

    def _heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = qkv.split(self.widths, dim=-1)
        q, k = activate(self.feature_map, q), activate(self.feature_map, k)
        return q.unflatten(-1, (self.heads, -1)), *(t.unflatten(-1, (self.kv_heads, -1)) for t in (k, v))

    def _log_decay(self, x: Tensor) -> Tensor:
        logits = self.gk_proj(x)
        log_decay = F.logsigmoid(logits.to(accumulation_dtype(logits))) / self.gate_logit_normalizer
        if self.clamp_min is not None:
            log_decay = log_decay.clamp(min=self.clamp_min)
        per_head: Tensor = log_decay.unflatten(-1, (self.kv_heads, -1))
        return per_head

    def _output(self, o: Tensor, x: Tensor) -> Tensor:
        o = self.g_norm(o).flatten(-2)
        if self.g_proj is not None:
            o = o * activate(self.gate_activation, self.g_proj(x))
        y: Tensor = self.o_proj(o)
        return y


def _check_heads(heads: int, kv_heads: int, d_key: int, d_value: int) -> None:
    if min(heads, kv_heads) < 1 or heads % kv_heads:
        got = f"num_heads={heads}, num_kv_heads={kv_heads}"
        raise argument_error("gla mixer", got, "num_kv_heads that divides num_heads", "change num_kv_heads")
    if min(d_key, d_value) < heads or d_key % heads or d_value % heads:
        got = f"{d_key} key and {d_value} value channels for {heads} heads"
        raise argument_error("gla mixer", got, "multiples of the heads", "change num_heads, expand_k or expand_v")
