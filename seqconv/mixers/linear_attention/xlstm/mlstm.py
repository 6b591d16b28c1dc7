"""mLSTM: a matrix memory with exponential gates inside an up-projected, gated block (xLSTM).

Equation, with the cell of :mod:`~seqconv.mixers.linear_attention.xlstm.mlstm_cell` per head::

    a, z = W_up x                     u = silu(conv(a))
    q, k, v = W_q u, W_k u, W_v a     block-diagonal, in blocks of a few channels
    i, f = W_i [q, k, v] + b_i, W_f [q, k, v] + b_f          one number per head
    h = layer norm of mlstm(q, k, v, i, f) over each head
    y = W_down ((h + s ⊙ u) ⊙ silu(z))

Source: Beck et al. 2024 (arXiv 2405.04517), the layer of NX-AI/xlstm at 032a6fb (``xlstm/blocks/mlstm``). Published
result: perplexity 13.43 of xLSTM[1:0] with 0.4 billion parameters on 15 billion tokens of SlimPajama (table 1). Its
sequence form starts without a stabiliser, its step form from m = 0, which differ by parts in a million through ε; here
all forms start as the sequence form does.

Initialisation as there: projections N(0, 2/(5 d_model)), W_down N(0, (2/(depth √d_model))²), gate weights zero, forget
biases from 3 to 6 over the heads, input biases N(0, 0.1²), the skip s one.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ....layers.heads import HeadLayerNorm, HeadwiseLinear
from ....layers.linear import Linear
from ....layers.short_convolution import ShortConvolution
from ....mixer import Mixer
from ....options import check_probability
from ....packing import zero_padding
from ....parameters import set_optimizer_options
from ....registry import register
from ....state import State, state_class
from ....types import LayerContext, StateKind
from .mlstm_cell import mlstm, mlstm_step

FORGET_BIAS = (3.0, 6.0)
"""Initial biases of the forget gates, from the first head to the last."""
INPUT_BIAS_STD = 0.1


@state_class
class MLSTMState(State):
    """The scaled memory, its normaliser as last column, of every head; the stabiliser; inputs of the convolution."""

    memory: Float[Tensor, "batch heads d_k columns"]
    stabilizer: Float[Tensor, "batch heads"]
    conv: Float[Tensor, "batch reach channels"]


@register(
    "mlstm",
    examples=(
        {"num_heads": 2, "expand": 1.5, "qkv_block": 3, "bias": True},
        {"num_heads": 1, "d_conv": 2, "dropout": 0.1},
    ),
)
class MLSTM(Mixer):
    """Linear attention with exponential gates and a normaliser, in an up-projected block.

    Args:
        d_model: width of inputs and outputs.
        num_heads: heads of the memory, a divisor of ``expand · d_model``.
        expand: inner channels per input channel.
        qkv_block: channels of a block of the query, key and value projections.
        d_conv: taps of the short convolution in front of queries and keys.
        bias: whether the up- and down-projection have biases.
        dropout: of the outputs.
        norm_eps: ε of the norm.
        layer: where the mixer is in a stack.

    Raises:
        ValueError: heads or blocks that do not divide the inner channels.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        expand: int | float = 2.0,
        qkv_block: int = 4,
        d_conv: int = 4,
        bias: bool = False,
        dropout: float = 0.0,
        norm_eps: float = 1e-5,
        layer: LayerContext | None = None,
    ) -> None:
        super().__init__(d_model)
        inner, self.layer = int(expand * d_model), layer
        if num_heads < 1 or qkv_block < 1 or inner < 1 or inner % num_heads or inner % qkv_block:
            got = f"num_heads={num_heads}, qkv_block={qkv_block} for {inner} inner channels"
            raise argument_error("mlstm mixer", got, "divisors of the inner channels", "change num_heads or qkv_block")
        self.heads, std = (num_heads, inner // num_heads), (2 / (5 * d_model)) ** 0.5
        self.up_proj = Linear(d_model, 2 * inner, bias=bias)
        self.conv1d = ShortConvolution(inner, d_conv)
        self.q_proj, self.k_proj, self.v_proj = (
            HeadwiseLinear(inner, inner // qkv_block, init_std=std) for _ in range(3)
        )
        self.i_proj, self.f_proj = Linear(3 * inner, num_heads), Linear(3 * inner, num_heads)
        self.norm = HeadLayerNorm(*self.heads, eps=norm_eps)
        self.skip = nn.Parameter(torch.empty(inner))
        set_optimizer_options(self, "skip", weight_decay=0.0)
        self.down_proj = Linear(inner, d_model, bias=bias)
        check_probability("dropout", dropout)
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Small projections, gates that depend on their biases alone."""
        depth = 1 if self.layer is None else self.layer.depth
        self.up_proj.weight.normal_(std=(2 / (5 * self.d_model)) ** 0.5)
        self.down_proj.weight.normal_(std=2 / (depth * self.d_model**0.5))
        for projection in (self.up_proj, self.down_proj):
            if projection.bias is not None:
                projection.bias.zero_()
        reset_gates(self.i_proj, self.f_proj)
        self.i_proj.bias.normal_(std=INPUT_BIAS_STD)
        self.skip.fill_(1.0)

    @property
    def state_kind(self) -> StateKind:
        """The state has a fixed size."""
        return "constant"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self._prefill(x, self._init_state(x.shape[0], None, x.device, x.dtype), mask)[0]

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        wide, (heads, width) = torch.promote_types(dtype, torch.float32), self.heads
        memory = torch.zeros(batch_size, heads, width, width + 1, device=device, dtype=wide)
        stabilizer = torch.full((batch_size, heads), -torch.inf, device=device, dtype=wide)
        return MLSTMState(memory, stabilizer, self.conv1d.init_state(batch_size, device, dtype))

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, MLSTMState)
        a, z = self.up_proj(x).chunk(2, dim=-1)
        a = zero_padding(a, mask)
        u, conv = self.conv1d(a, state.conv.to(a.dtype))
        h, memory, stabilizer = mlstm(*self._cell_inputs(a, u), state.memory, state.stabilizer, mask)
        return self._output(h, u, z), MLSTMState(memory, stabilizer, conv)

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, MLSTMState)
        a, z = self.up_proj(x_t).chunk(2, dim=-1)
        u, conv = self.conv1d.step(a, state.conv.to(a.dtype))
        h, memory, stabilizer = mlstm_step(*self._cell_inputs(a, u), state.memory, state.stabilizer)
        return self._output(h, u, z), MLSTMState(memory, stabilizer, conv)

    def _cell_inputs(self, a: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        qkv = self.q_proj(u), self.k_proj(u), self.v_proj(a)
        together = torch.cat(qkv, dim=-1)
        q, k, v = (t.unflatten(-1, self.heads) for t in qkv)
        return q, k, v, self.i_proj(together), self.f_proj(together)

    def _output(self, h: Tensor, u: Tensor, z: Tensor) -> Tensor:
        inner = (self.norm(h).flatten(-2) + self.skip * u) * F.silu(z)
        y: Tensor = self.dropout(self.down_proj(inner.to(z.dtype)))
        return y


def reset_gates(input_gate: nn.Linear, forget_gate: nn.Linear) -> None:
    """Zero weights, and forget biases that let the heads keep their memory longer and longer."""
    for gate in (input_gate, forget_gate):
        gate.weight.zero_()
    forget_gate.bias.copy_(torch.linspace(*FORGET_BIAS, forget_gate.out_features))
