"""The mLSTM layer of xLSTM-7B: a matrix memory with exponential gates, between plain projections.

Equation, with the cell of :mod:`~seqconv.mixers.linear_attention.xlstm.mlstm_cell` per head::

    q, k, v, o = W_q x, W_k x, W_v x, W_o x
    i, f = cap(W_i x + b_i), cap(W_f x + b_f)        cap(a) = c tanh(a / c)
    h = layer norm of mlstm(q, k, v, i, f) over each head
    y = W_out (h ⊙ σ(o))

Against the mLSTM of the first paper (:mod:`~seqconv.mixers.linear_attention.xlstm.mlstm`) it has no convolution, no
up-projection and no skip; the channel mix of its block is a SwiGLU. Source: Beck et al. 2025, *xLSTM 7B* (arXiv
2503.13427), ``xlstm/xlstm_large/model.py`` of NX-AI/xlstm at 032a6fb and transformers 5.23.0. Published result: the
fastest in generation of the models of 7 billion parameters that the paper compares, at comparable quality.

Initialisation as there: projections N(0, 2/(5 d_model)), W_out N(0, (2/(depth √d_model))²), gate weights zero, input
biases -10, forget biases from 3 to 6 over the heads.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ....layers.heads import HeadLayerNorm
from ....layers.linear import Linear
from ....mixer import Mixer
from ....registry import register
from ....state import State, state_class
from ....types import LayerContext, StateKind
from .mlstm import reset_gates
from .mlstm_cell import EPS, mlstm, mlstm_step

INPUT_BIAS = -10.0


@state_class
class XLSTMLargeState(State):
    """The scaled memory, its normaliser as last column, of every head, and the stabiliser, which starts at zero."""

    memory: Float[Tensor, "batch heads d_k columns"]
    stabilizer: Float[Tensor, "batch heads"]


@register(
    "xlstm_large",
    examples=(
        {"num_heads": 2, "expand_k": 1.0, "expand_v": 2.0, "bias": True},
        {"num_heads": 1, "gate_soft_cap": None},
    ),
)
class XLSTMLarge(Mixer):
    """Linear attention with exponential gates and a normaliser, as in xLSTM-7B.

    Args:
        d_model: width of inputs and outputs.
        num_heads: heads, which divide the key and the value channels.
        expand_k: key channels of all heads per input channel.
        expand_v: value channels of all heads per input channel.
        gate_soft_cap: c, the largest magnitude of a gate before its activation; ``None`` for no cap.
        bias: whether projections and norm have biases; those of the gates always do.
        norm_eps: ε of the norm.
        eps: ε of the cell's denominator.
        layer: where the mixer is in a stack.

    Raises:
        ValueError: heads that do not divide the key or value channels.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        expand_k: int | float = 0.5,
        expand_v: int | float = 1.0,
        gate_soft_cap: int | float | None = 15.0,
        bias: bool = False,
        norm_eps: float = 1e-6,
        eps: float = EPS,
        layer: LayerContext | None = None,
    ) -> None:
        super().__init__(d_model)
        d_key, d_value = int(d_model * expand_k), int(d_model * expand_v)
        if num_heads < 1 or min(d_key, d_value) < num_heads or d_key % num_heads or d_value % num_heads:
            got = f"{d_key} key and {d_value} value channels for {num_heads} heads"
            raise argument_error("xlstm_large mixer", got, "multiples of the heads", "change num_heads")
        self.heads, self.gate_soft_cap, self.eps, self.layer = num_heads, gate_soft_cap, eps, layer
        self.d_k, self.d_v = d_key // num_heads, d_value // num_heads
        self.q_proj, self.k_proj = (Linear(d_model, d_key, bias=bias) for _ in range(2))
        self.v_proj, self.o_proj = (Linear(d_model, d_value, bias=bias) for _ in range(2))
        self.i_proj, self.f_proj = Linear(d_model, num_heads), Linear(d_model, num_heads)
        self.norm = HeadLayerNorm(num_heads, self.d_v, eps=norm_eps, bias=bias)
        self.out_proj = Linear(d_value, d_model, bias=bias)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Small projections, input gates that are nearly closed."""
        depth = 1 if self.layer is None else self.layer.depth
        inward = (self.q_proj, self.k_proj, self.v_proj, self.o_proj)
        for projection in inward:
            projection.weight.normal_(std=(2 / (5 * self.d_model)) ** 0.5)
        self.out_proj.weight.normal_(std=2 / (depth * self.d_model**0.5))
        for projection in (*inward, self.out_proj):
            if projection.bias is not None:
                projection.bias.zero_()
        reset_gates(self.i_proj, self.f_proj)
        self.i_proj.bias.fill_(INPUT_BIAS)

    @property
    def state_kind(self) -> StateKind:
        """The state has a fixed size."""
        return "constant"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self._prefill(x, self._init_state(x.shape[0], None, x.device, x.dtype), mask)[0]

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        wide = torch.promote_types(dtype, torch.float32)
        memory = torch.zeros(batch_size, self.heads, self.d_k, self.d_v + 1, device=device, dtype=wide)
        return XLSTMLargeState(memory, torch.zeros(batch_size, self.heads, device=device, dtype=wide))

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, XLSTMLargeState)
        h, *after = mlstm(*self._cell_inputs(x), state.memory, state.stabilizer, mask, eps=self.eps)
        return self._output(h, x), XLSTMLargeState(*after)

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, XLSTMLargeState)
        h, *after = mlstm_step(*self._cell_inputs(x_t), state.memory, state.stabilizer, eps=self.eps)
        return self._output(h, x_t), XLSTMLargeState(*after)

    def _cell_inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)) for p in (self.q_proj, self.k_proj, self.v_proj))
        return q, k, v, self._capped(self.i_proj(x)), self._capped(self.f_proj(x))

    def _capped(self, gate: Tensor) -> Tensor:
        if self.gate_soft_cap is None:
            return gate
        return self.gate_soft_cap * torch.tanh(gate / self.gate_soft_cap)

    def _output(self, h: Tensor, x: Tensor) -> Tensor:
        y: Tensor = self.out_proj(self.norm(h).flatten(-2) * torch.sigmoid(self.o_proj(x)))
        return y
