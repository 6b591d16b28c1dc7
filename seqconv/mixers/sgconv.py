"""SGConv: a multi-scale long convolution, a skip, a nonlinearity and a linear map over the channels.

Equation, with C filters per channel: ``v = φ(norm(GELU(h * x + D ⊙ x)))`` for the C d_model sequences, then
``y = GLU(W v + b)`` back to d_model. As many filters again hear the future from lag 1 on if ``bidirectional``.

Source: Li et al. 2022 (arXiv 2210.09298) and the code of ctlllll/SGConv; the layer around the filter is S4's.
"""

from typing import Any

import torch
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ..convolution.long_convolution import LongConvolution
from ..filters.sgconv import SGConvFilter
from ..layers.activations import activate, check_activation
from ..layers.norms import create_norm
from ..layers.residual import Dropout
from ..mixer import Mixer
from ..registry import register
from ..state import State
from ..types import StateKind

NORMS = ("none", "layer", "layer_scalar")


@register(
    "sgconv",
    examples=(
        {"l_max": 16, "kernel_dim": 4, "channels": 2, "norm": "layer", "gate": "sigmoid"},
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
        bidirectional: hear the future too, from lag 1 on, through kernels of its own.
        activation: after the convolution.
        norm: ``"none"``, ``"layer"`` or ``"layer_scalar"``, after the activation.
        output_activation: after the linear map; ``"glu"`` doubles the map's width and gates with half of it.
        gate: activation of a second set of filters that multiplies the first (``None``: no second set).
        dropout: probability, after the activation.
        linear: the convolution and the skip alone, without anything behind them.
        kernel_dim, combine, upsampling, init, decay, decay_min, decay_max, n_scales, init_scale, rounded_log, lr: as in
            :class:`~seqconv.filters.sgconv.SGConvFilter`.

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
        output_activation: str = "glu",
        gate: str | None = None,
        dropout: float = 0.0,
        linear: bool = False,
        kernel_dim: int = 64,
        combine: str = "cat",
        upsampling: str = "linear",
        init: str = "randn",
        decay: str = "scale",
        decay_min: float = 2.0,
        decay_max: float = 2.0,
        n_scales: int | None = None,
        init_scale: int = 0,
        rounded_log: bool = False,
        lr: float | None = 1e-3,
    ) -> None:
        super().__init__(d_model, causal=not bidirectional)
        if channels < 1 or (linear and channels > 1):
            got = f"channels={channels}, linear={linear}"
            remedy = "set linear=False, whose output map brings the channels together"
            raise argument_error("sgconv mixer", got, "at least one channel, exactly one if linear", remedy)
        if norm not in NORMS:
            raise unknown_name("sgconv mixer", "norm", norm, NORMS)
        check_activation("sgconv mixer", activation)
        check_activation("sgconv mixer", output_activation, gated=True)
        self.activation, self.output_activation = activation, output_activation
        self.gate = None if gate is None else check_activation("sgconv mixer", gate)
        self.copies = channels if gate is None else 2 * channels

        groups = 2 * self.copies if bidirectional else self.copies
        filter = SGConvFilter(
            groups * d_model,
            l_max=l_max,
            groups=groups,
            kernel_dim=kernel_dim,
            combine=combine,
            upsampling=upsampling,
            init=init,
            decay=decay,
            decay_min=decay_min,
            decay_max=decay_max,
            n_scales=n_scales,
            init_scale=init_scale,
            rounded_log=rounded_log,
            lr=lr,
        )
        self.convolution = LongConvolution(filter, two_sided=bidirectional)
        self.skip = nn.Parameter(torch.randn(self.copies * d_model))
        self.norm = create_norm(norm, channels * d_model)
        self.dropout = Dropout(dropout)
        width = 2 * d_model if output_activation == "glu" else d_model
        self.output = None if linear else nn.Linear(channels * d_model, width)

    @property
    def state_kind(self) -> StateKind:
        """That of the convolution: growing, unless its filter has been replaced by one with a recurrence."""
        return self.convolution.state_kind

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self._mix(self.convolution(self._copies(x), skip=self.skip))

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        return self.convolution.init_state(batch_size, max_length)

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        y, state = self.convolution.prefill(self._copies(x), state, skip=self.skip)
        return self._mix(y), state

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self.convolution.step(self._copies(x_t), state, skip=self.skip)
        return self._mix(y), state

    def _copies(self, x: Tensor) -> Tensor:
        return x if self.copies == 1 else x.repeat(*[1] * (x.dim() - 1), self.copies)

    def _mix(self, y: Tensor) -> Tensor:
        if self.gate is not None:
            value, gate = y.chunk(2, dim=-1)
            y = value * activate(self.gate, gate)
        if self.output is None:
            return y
        v: Any = self.dropout(activate(self.activation, y))
        return activate(self.output_activation, self.output(self.norm(v)))
