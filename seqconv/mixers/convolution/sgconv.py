"""SGConv: a multi-scale long convolution, a skip, a nonlinearity and a linear map over the channels.

Equation, with C filters per channel: ``v = φ(norm(GELU(h * x + D ⊙ x)))`` for the C d_model sequences, then
``y = GLU(W v + b)`` back to d_model. If ``bidirectional``, as many filters again reach into the future from lag 1 on.

Source: Li et al. 2022 (arXiv 2210.09298) and ``GConv`` in gconv_standalone.py of ctlllll/SGConv (commit 97862df5); the
layer around the filter is S4's.
"""

from typing import Any, Unpack

import torch
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...convolution.long_convolution import LongConvolution
from ...filters.explicit.sgconv import SGConvFilter, SGConvFilterOptions
from ...layers.activations import activate, check_activation
from ...layers.linear import Linear
from ...layers.norms import create_norm
from ...layers.residual import Dropout
from ...mixer import Mixer
from ...parameters import set_optimizer_options
from ...registry import register
from ...state import State
from ...types import StateKind

NORMS = ("none", "layer", "layer_scalar")


@register(
    "sgconv",
    examples=(
        {"l_max": 16, "kernel_dim": 4, "channels": 2, "norm": "layer", "gate_act": "sigmoid"},
        {"l_max": 50, "kernel_dim": 8, "combine": "sum", "decay": "power", "decay_min": 0.5, "decay_max": 1.5},
        {"bidirectional": True, "kernel_dim": 16, "l_max": 32, "linear": True},
    ),
)
class SGConv(Mixer):
    """Multi-scale structured global convolution.

    Args:
        d_model: width of inputs and outputs.
        l_max: longest reach of the filter; taps beyond the next power of two times ``kernel_dim`` are zero.
        channels: filters per input channel.
        bidirectional: filters that reach into the future too, from lag 1 on, with kernels of their own.
        activation: after the convolution.
        norm: ``"none"``, ``"layer"`` or ``"layer_scalar"``, after the activation.
        final_act: after the output projection; ``"glu"`` doubles its width and gates with half of it.
        gate_act: activation of a second set of filters that multiplies the first (``None``: no second set).
        dropout: probability, after the activation.
        tie_dropout: drop whole channels of a sequence.
        linear: the convolution and the skip alone, without anything after them.
        **filter: see :class:`~seqconv.filters.explicit.sgconv.SGConvFilterOptions`.

    Raises:
        ValueError: an unknown word among the options; ``linear`` with more than one filter per channel.
    """

    def __init__(
        self,
        d_model: int,
        *,
        l_max: int = 1024,
        channels: int = 1,
        bidirectional: bool = False,
        activation: str = "gelu",
        norm: str = "none",
        final_act: str = "glu",
        gate_act: str | None = None,
        dropout: float = 0.0,
        tie_dropout: bool = False,
        linear: bool = False,
        **filter: Unpack[SGConvFilterOptions],
    ) -> None:
        super().__init__(d_model, causal=not bidirectional)
        if channels < 1 or (linear and channels > 1):
            got = f"channels={channels}, linear={linear}"
            remedy = "set linear=False, whose out_proj mixes the channels"
            raise argument_error("sgconv mixer", got, "at least one channel, exactly one if linear", remedy)
        if norm not in NORMS:
            raise unknown_name("sgconv mixer", "norm", norm, NORMS)
        check_activation("sgconv mixer", activation)
        check_activation("sgconv mixer", final_act, gated=True)
        self.activation, self.final_act = activation, final_act
        self.gate_act = None if gate_act is None else check_activation("sgconv mixer", gate_act)
        self.copies = channels if gate_act is None else 2 * channels

        groups = 2 * self.copies if bidirectional else self.copies
        long_filter = SGConvFilter(groups * d_model, l_max=l_max, groups=groups, **filter)
        self.convolution = LongConvolution(long_filter, two_sided=bidirectional)
        self.D = nn.Parameter(torch.empty(self.copies * d_model))
        set_optimizer_options(self, "D", weight_decay=0.0)
        self.norm = create_norm(norm, channels * d_model)
        self.dropout = Dropout(dropout, tied=tie_dropout)
        width = 2 * d_model if final_act == "glu" else d_model
        self.out_proj = None if linear else Linear(channels * d_model, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the skips from N(0, 1)."""
        nn.init.normal_(self.D)

    @property
    def state_kind(self) -> StateKind:
        """That of the convolution: growing, unless its filter has been replaced by one with a recurrence."""
        return self.convolution.state_kind

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self._mix(self.convolution(self._copies(x), skip=self.D))

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        return self.convolution.init_state(batch_size, max_length)

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        y, state = self.convolution.prefill(self._copies(x), state, skip=self.D)
        return self._mix(y), state

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self.convolution.step(self._copies(x_t), state, skip=self.D)
        return self._mix(y), state

    def _copies(self, x: Tensor) -> Tensor:
        return x if self.copies == 1 else x.repeat(*[1] * (x.dim() - 1), self.copies)

    def _mix(self, y: Tensor) -> Tensor:
        if self.gate_act is not None:
            value, gate = y.chunk(2, dim=-1)
            y = value * activate(self.gate_act, gate)
        if self.out_proj is None:
            return y
        v: Any = self.dropout(activate(self.activation, y))
        return activate(self.final_act, self.out_proj(self.norm(v)))
