"""sLSTM: a recurrent cell with exponential gates, a normaliser and a stabiliser, and memory mixing within heads.

Equation, per head with recurrent weights R of (head_dim, head_dim) per gate; ``u = silu(conv(x))``::

    i, f = W_i u, W_f u        z, o = W_z x, W_o x            block-diagonal, one block per head
    gates += R h_{t-1} + b
    m_t = max(i, log σ(f) + m_{t-1})                           stabiliser; the first token has m = i
    c_t = e^{log σ(f) + m_{t-1} - m_t} c_{t-1} + e^{i - m_t} tanh(z)
    n_t = e^{log σ(f) + m_{t-1} - m_t} n_{t-1} + e^{i - m_t}
    h_t = σ(o) c_t / n_t        y = layer norm of h over each head

Source: Beck et al. 2024 (arXiv 2405.04517), the layer of NX-AI/xlstm at 032a6fb (``xlstm/blocks/slstm``). Published
result: solves parity and other state-tracking tasks at lengths beyond training, which Transformers and mLSTM do not
(figure 6 of the paper). A block of the paper adds a channel mix of width 4/3 after the layer.

Initialisation as there: input maps N(0, 2/(5 d_model)), recurrent weights zero, the forget bias of channel j of d and
layer l of L: ``5 - 12 (j/(d - 1))^{0.3 + 1.3 l/(L - 1)}``, the other biases zero.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels import rnn, rnn_step
from seqconv_kernels.rnn.cells import CELLS

from ...layers.heads import HeadLayerNorm, HeadwiseLinear
from ...layers.short_convolution import ShortConvolution
from ...mixer import ScanMixer
from ...options import check_probability
from ...parameters import set_optimizer_options
from ...registry import register
from ...state import State, state_class
from ...types import LayerContext
from .recurrent_layer import first_tokens, head_width

GATES, STATES, _ = CELLS["slstm"]


@state_class
class SLSTMState(State):
    """The states h, c, n and m of the cell; the last inputs of the short convolution, if there is one."""

    cell: Float[Tensor, "batch states heads head_dim"]
    conv: Float[Tensor, "batch reach channels"] | None


@register("slstm", examples=({"num_heads": 2, "d_conv": None}, {"num_heads": 1, "d_conv": 2, "dropout": 0.1}))
class SLSTM(ScanMixer[SLSTMState]):
    """Recurrent network with exponential gates and normalised memory.

    Args:
        d_model: width of inputs and outputs.
        num_heads: blocks of all matrices, a divisor of d_model.
        d_conv: taps of the short convolution in front of the input and forget gates; ``None`` for none.
        dropout: of the cell's outputs, before the norm.
        norm_eps: ε of the norm.
        layer: where the mixer is in a stack.

    Raises:
        ValueError: heads that do not divide the width.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        d_conv: int | None = 4,
        dropout: float = 0.0,
        norm_eps: float = 1e-5,
        layer: LayerContext | None = None,
    ) -> None:
        super().__init__(d_model)
        width, std = head_width(self.name, d_model, num_heads), (2 / (5 * d_model)) ** 0.5
        self.heads, self.layer = (num_heads, width), layer
        self.conv1d = None if d_conv is None else ShortConvolution(d_model, d_conv)
        self.i_proj, self.f_proj, self.z_proj, self.o_proj = (
            HeadwiseLinear(d_model, num_heads, init_std=std) for _ in range(GATES)
        )
        self.recurrent_weight = nn.Parameter(torch.empty(GATES, num_heads, width, width))
        self.recurrent_bias = nn.Parameter(torch.empty(GATES, num_heads, width))
        self.keep_float32("recurrent_bias")
        set_optimizer_options(self, "recurrent_bias", weight_decay=0.0)
        check_probability("dropout", dropout)
        self.dropout = nn.Dropout(dropout)
        self.norm = HeadLayerNorm(num_heads, width, eps=norm_eps)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """No recurrence, and forget biases from 5 down to -7 in each head, by a power that grows with the depth."""
        depth = 0.0 if self.layer is None or self.layer.depth < 2 else self.layer.index / (self.layer.depth - 1)
        channels = torch.linspace(0, 1, self.heads[1], device=self.recurrent_bias.device)
        self.recurrent_weight.zero_()
        self.recurrent_bias.zero_()
        self.recurrent_bias[1] = 5 - 12 * channels ** (0.3 + 1.3 * depth)

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        wide = torch.promote_types(dtype, torch.float32)
        cell = torch.zeros(batch_size, STATES, *self.heads, device=device, dtype=wide)
        return SLSTMState(cell, None if self.conv1d is None else self.conv1d.init_state(batch_size, device, dtype))

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, SLSTMState)
        u, conv = x_t, None
        if self.conv1d is not None:
            assert state.conv is not None
            u, conv = self.conv1d.step(x_t, state.conv)
        gates = self._gates(x_t, u)
        h, cell = rnn_step(gates, self.recurrent_weight, self.recurrent_bias, cell="slstm", state=state.cell)
        return self._output(h), SLSTMState(cell, conv)

    def _scan_from(self, x: Tensor, state: SLSTMState | None, mask: Tensor | None) -> tuple[Tensor, State]:
        u, conv = x, None
        if self.conv1d is not None:
            u, conv = self.conv1d(x, None if state is None else state.conv)
        pair = rnn(
            self._gates(x, u), self.recurrent_weight, self.recurrent_bias, cell="slstm",
            initial_state=None if state is None else state.cell, return_final_state=True, starts=first_tokens(mask),
        )  # fmt: skip
        assert isinstance(pair, tuple)
        return self._output(pair[0]), SLSTMState(pair[1], conv)

    def _gates(self, x: Tensor, u: Tensor) -> Tensor:
        """(…, gates, heads, head_dim) in the order i, f, z, o."""
        gates = torch.stack([self.i_proj(u), self.f_proj(u), self.z_proj(x), self.o_proj(x)], dim=-2)
        per_head: Tensor = gates.unflatten(-1, self.heads)
        return per_head

    def _output(self, h: Tensor) -> Tensor:
        y: Tensor = self.norm(self.dropout(h)).flatten(-2)
        return y
