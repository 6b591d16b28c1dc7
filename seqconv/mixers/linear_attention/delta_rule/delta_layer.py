"""The layer around the delta rule, written once for DeltaNet, its gated forms, DeltaProduct, Kimi delta attention.

Equation, per value head, with a state ``S`` of (d_k, d_v), ``β`` in (0, 1) or (0, 2), and a decay ``α`` of the mixer::

    q, k, v = silu(conv(W_q x, W_k x, W_v x))       q, k of unit length per head
    S' = diag(α_t) S_{t-1}                          β_t = σ(W_b x), twice that with negative eigenvalues
    S_t = S' + k_t β_t (v_t - S'^T k_t)^T           o_t = d_k^{-1/2} S_t^T q_t
    y = W_o (norm(o) ⊙ gate(x))                     norm over each head

Source: Schlag et al. 2021 (arXiv 2102.11174), Yang et al. 2024 (arXiv 2406.06484) and ``fla/layers/delta_net.py`` of
fla-org/flash-linear-attention at 0315a70e. With more value heads than heads, neighbouring value heads read the
same queries and keys.
"""

from abc import abstractmethod
from typing import Annotated, TypedDict, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from seqconv_kernels import delta_rule, delta_rule_step
from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype

from ....layers.linear import Linear
from ....layers.norms import RMSNorm
from ....layers.short_convolution import ShortConvolution
from ....mixer import ScanMixer
from ....options import Default, with_defaults
from ....packing import zero_padding
from ....state import State, state_class

NORM_EPS = 1e-6
"""Added to the squared length of queries and keys, as in the original."""


class DeltaLayerOptions(TypedDict, total=False):
    """Options of :class:`DeltaLayer`.

    Attributes:
        num_heads: heads of queries and keys.
        num_v_heads: value heads, a multiple of ``num_heads``, which is the default.
        head_dim: channels of a query or key head; d_model / num_heads if not given.
        head_v_dim: channels of a value head; ``head_dim`` if not given.
        d_conv: taps of the short convolution over queries, keys and values; ``None`` for none.
        conv_bias: whether it has a bias.
        norm_eps: ε of the output norm.
    """

    num_heads: Annotated[int, Default(4)]
    num_v_heads: Annotated[int | None, Default(None)]
    head_dim: Annotated[int | None, Default(None)]
    head_v_dim: Annotated[int | None, Default(None)]
    d_conv: Annotated[int | None, Default(4)]
    conv_bias: Annotated[bool, Default(False)]
    norm_eps: Annotated[float, Default(1e-5)]


@state_class
class DeltaState(State):
    """The matrix state of every value head; the last inputs of the short convolution, if there is one."""

    memory: Float[Tensor, "batch v_heads d_k d_v"]
    conv: Float[Tensor, "batch reach channels"] | None


class DeltaLayer(ScanMixer[DeltaState]):
    """Everything of a delta-rule layer but its decay and its output gate.

    Args:
        d_model: width of inputs and outputs.
        allow_neg_eigval: β up to 2, so that the transition matrix has eigenvalues down to -1 (Grazzi et al. 2024).
        sub_steps: keys, values and strengths per token, which are written one after the other.
        **options: see :class:`DeltaLayerOptions`.

    Raises:
        ValueError: sizes below 1, or value heads that are no multiple of the heads.
    """

    def __init__(
        self, d_model: int, *, allow_neg_eigval: bool = False, sub_steps: int = 1, **options: Unpack[DeltaLayerOptions]
    ) -> None:
        super().__init__(d_model)
        o = with_defaults(DeltaLayerOptions, options, self.name)
        self.heads, self.v_heads = o["num_heads"], o["num_v_heads"] or o["num_heads"]
        self.d_k = o["head_dim"] or d_model // max(self.heads, 1)
        self.d_v = o["head_v_dim"] or self.d_k
        self._check_sizes()
        self.allow_neg_eigval = allow_neg_eigval
        self.sub_steps, keys, self.d_inner = sub_steps, self.heads * self.d_k, self.v_heads * self.d_v
        self.widths = [keys, sub_steps * keys, sub_steps * self.d_inner]
        self.q_proj, self.k_proj, self.v_proj = (Linear(d_model, width, bias=False) for width in self.widths)
        self.b_proj = Linear(d_model, self._strengths(), bias=False)
        taps = o["d_conv"]
        self.conv1d = None if taps is None else ShortConvolution(sum(self.widths), taps, bias=o["conv_bias"])
        self.o_norm = RMSNorm(self.d_v, eps=o["norm_eps"])
        self.o_proj = Linear(self.d_inner, d_model, bias=False)

    @abstractmethod
    def _log_decay(self, x: Float[Tensor, "*tokens d_model"]) -> Tensor | None:
        """Logarithm of the decay, (*tokens, v_heads) or, per channel of its key, (*tokens, v_heads, d_k)."""

    @abstractmethod
    def _output_gate(self, x: Float[Tensor, "*tokens d_model"]) -> Float[Tensor, "*tokens values"] | None:
        """What multiplies the normalised output; ``None`` for none."""

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        wide = torch.promote_types(dtype, torch.float32)
        memory = torch.zeros(batch_size, self.v_heads, self.d_k, self.d_v, device=device, dtype=wide)
        return DeltaState(memory, None if self.conv1d is None else self.conv1d.init_state(batch_size, device, dtype))

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, DeltaState)
        qkv, conv = self._project(x_t), None
        if self.conv1d is None:
            qkv = F.silu(qkv)
        else:
            assert state.conv is not None
            qkv, conv = self.conv1d.step(qkv, state.conv)
        q, k, v = self._split_heads(qkv)
        o, memory = self._recur(q, k, v, x_t, state.memory)
        return self._output(o, x_t), DeltaState(memory, conv)

    def _scan_from(self, x: Tensor, state: DeltaState | None, mask: Tensor | None) -> tuple[Tensor, State]:
        qkv, conv = self._project(x), None
        if self.conv1d is None:
            qkv = F.silu(qkv)
        else:
            qkv, conv = self.conv1d(qkv, None if state is None else state.conv)
        q, k, v = self._split_heads(qkv)
        # A key of zero writes nothing: padding before the first token leaves the zero state as it is.
        o, memory = self._scan(q, zero_padding(k, mask), v, x, None if state is None else state.memory)
        return self._output(o, x), DeltaState(memory, conv)

    def _scan(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """The recurrence over whole sequences: outputs per value head and the last state."""
        pair = delta_rule(
            q, k, v, self._beta(x), self._log_decay(x), initial_state=memory, return_final_state=True
        )  # fmt: skip
        assert isinstance(pair, tuple)
        return pair

    def _recur(self, q: Tensor, k: Tensor, v: Tensor, x_t: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """The recurrence over one token."""
        return delta_rule_step(q, k, v, self._beta(x_t), self._log_decay(x_t), state=memory)

    def _strengths(self) -> int:
        """Width of what ``b_proj`` computes."""
        return self.sub_steps * self.v_heads

    def _project(self, x: Tensor) -> Tensor:
        return torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], dim=-1)

    def _split_heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys of unit length, (…, heads, d_k), and values, (…, v_heads, d_v), sub-steps among heads."""
        q, k, v = qkv.split(self.widths, dim=-1)
        q, k = (unit_length(t.unflatten(-1, (-1, self.d_k))) for t in (q, k))
        return q, k, v.unflatten(-1, (-1, self.d_v))

    def _beta(self, x: Tensor) -> Tensor:
        beta = torch.sigmoid(self.b_proj(x))
        return 2.0 * beta if self.allow_neg_eigval else beta

    def _output(self, o: Tensor, x: Tensor) -> Tensor:
        o, gate = self.o_norm(o).flatten(-2), self._output_gate(x)
        y: Tensor = self.o_proj(o if gate is None else o * gate)
        return y

    def _check_sizes(self) -> None:
        if min(self.heads, self.v_heads, self.d_k, self.d_v) < 1 or self.v_heads % self.heads:
            got = f"num_heads={self.heads}, num_v_heads={self.v_heads}, head_dim={self.d_k}, head_v_dim={self.d_v}"
            wanted = "sizes of at least 1, num_v_heads a multiple of num_heads"
            raise argument_error(f"{self.name} mixer", got, wanted, "change num_v_heads, or give head_dim")


def unit_length(x: Tensor) -> Tensor:
    """Vectors of the last axis over their length, ``x / √(Σ x² + 1e-6)``."""
    wide = x.to(accumulation_dtype(x))
    return (wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + NORM_EPS)).to(x.dtype)
