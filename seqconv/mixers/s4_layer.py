"""The layer around the convolution of S4 and S4D (Gu et al., 2022; state-spaces/s4), written once for both.

``y = W φ(dropout(h * u + D u))`` with ``W`` a linear map followed by a GLU. Optional: a bottleneck in front, a gate
beside the convolution, several outputs (``channels``) per input, a second convolution that hears the future.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm as with_weight_norm

from seqconv_kernels._core.errors import argument_error, unknown_name

from ..convolution.long_convolution import LongConvolution
from ..filters.base import Filter
from ..filters.wrappers import TapDropout, TruncatedFilter
from ..layers.residual import Dropout
from ..mixer import Mixer
from ..packing import zero_padding
from ..state import State
from ..types import StateKind


def _identity(x: Tensor) -> Tensor:
    return x


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "id": _identity,
    "identity": _identity,
    "linear": _identity,
    "tanh": torch.tanh,
    "relu": F.relu,
    "gelu": F.gelu,
    "elu": F.elu,
    "swish": F.silu,
    "silu": F.silu,
    "glu": F.glu,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
}
"""Activations by the names of the original; ``glu`` halves the width."""

INITIALIZERS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "uniform": lambda w: nn.init.kaiming_uniform_(w, nonlinearity="linear"),
    "normal": lambda w: nn.init.kaiming_normal_(w, nonlinearity="linear"),
    "xavier": nn.init.xavier_normal_,
    "zero": nn.init.zeros_,
    "one": nn.init.ones_,
}
"""Initialisations of the linear maps' weights (biases then start at zero)."""


class S4Layer(Mixer):
    """Everything of S4's layer but its filter.

    Args:
        d_model: width of inputs and outputs.
        make_filter: the filter of a number of inputs, with a number of impulse responses (heads) for each.
        activation, gate_act, mult_act: keys of ``ACTIVATIONS``, ``None`` for none: behind the convolution, on the
            gate, behind the multiplication by the gate.
        final_act: behind the output map; ``None`` leaves the output map out.
        bottleneck: divide the width of the convolution by this.
        gate: multiply by a gate this many times as wide as the convolution.
        initializer: key of ``INITIALIZERS`` for the linear maps; ``None`` for PyTorch's own.
        weight_norm: weight normalisation of the linear maps.
        dropout, tie_dropout: behind the convolution and before the output map; tied over the tokens of a row.
        drop_kernel: dropout of taps.
        channels: outputs of the convolution per input.
        swap_channels: order those outputs (feature, channel) instead of (channel, feature).
        bidirectional: also hear the future, strictly, with a second C.
        l_max: length that the filter is tuned for, see the filter.
        truncate: cut the impulse response after ``l_max`` taps in ``forward``, as the original does.

    Raises:
        ValueError: unknown names, sizes that do not divide, widths that do not fit without an output map.
    """

    def __init__(
        self,
        d_model: int,
        make_filter: Callable[[int, int], Filter],
        *,
        activation: str | None,
        final_act: str | None,
        bottleneck: int | None,
        gate: int | None,
        gate_act: str | None,
        mult_act: str | None,
        initializer: str | None,
        weight_norm: bool,
        dropout: float,
        tie_dropout: bool,
        drop_kernel: float,
        channels: int,
        swap_channels: bool,
        bidirectional: bool,
        l_max: int | None,
        truncate: bool,
    ) -> None:
        super().__init__(d_model, causal=not bidirectional)
        self._check_options(bottleneck, gate, channels, initializer, activation, final_act, gate_act, mult_act)
        self.inner = d_model // (bottleneck or 1)
        self.heads = channels * (2 if activation == "glu" else 1)
        self.swap_channels = swap_channels
        self.activation, self.mult_activation = _activation(activation), _activation(mult_act)
        self.gate_activation, self.final_activation = _activation(gate_act), _activation(final_act)

        def linear(width: int, out: int, act: str | None) -> nn.Linear:
            return _linear(width, out * (2 if act == "glu" else 1), initializer, weight_norm)

        width, gated = channels * self.inner, None if gate is None else gate * self.inner
        self.input_linear = None if bottleneck is None else linear(d_model, self.inner, None)
        self.input_gate = None if gated is None else linear(d_model, gated, gate_act)
        self.output_gate = None if gated in (None, width) else linear(width, gated, None)
        width = gated or width
        if final_act is None and width != d_model:
            got = f"outputs of width {width} without an output map"
            raise argument_error(self.name, got, f"d_model={d_model}", "set final_act")
        self.output_linear = None if final_act is None else linear(width, d_model, final_act)
        self.dropout = Dropout(dropout, tied=tie_dropout)
        self.D = nn.Parameter(torch.randn(self.heads, self.inner))
        filter = make_filter(self.inner, self.heads * (2 if bidirectional else 1))
        filter = TruncatedFilter(filter, l_max) if truncate and l_max else filter
        filter = TapDropout(filter, drop_kernel) if drop_kernel else filter
        self.convolution = LongConvolution(filter, two_sided=bidirectional)

    @property
    def state_kind(self) -> StateKind:
        """``"constant"``, or ``"none"`` if bidirectional."""
        return self.convolution.state_kind

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        u = zero_padding(self._before(x), mask)
        return self._after(self.convolution(u, skip=self.D.flatten()), x)

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        return self.convolution.init_state(batch_size, max_length)

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        u = zero_padding(self._before(x), mask)
        y, state = self.convolution.prefill(u, state, skip=self.D.flatten())
        return self._after(y, x), state

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self.convolution.step(self._before(x_t), state, skip=self.D.flatten())
        return self._after(y, x_t), state

    def _before(self, x: Tensor) -> Tensor:
        """Inputs of the convolution: every input once per head."""
        u = x if self.input_linear is None else self.input_linear(x)
        return u if self.heads == 1 else torch.cat([u] * self.heads, dim=-1)

    def _after(self, y: Tensor, x: Tensor) -> Tensor:
        """From the outputs of the convolution and the inputs of the layer to its outputs."""
        if self.swap_channels:
            y = y.unflatten(-1, (self.heads, self.inner)).transpose(-1, -2).flatten(-2)
        y = self.activation(self.dropout(y))
        if self.input_gate is not None:
            y = y if self.output_gate is None else self.output_gate(y)
            y = y * self.gate_activation(self.input_gate(x))
        y = self.dropout(self.mult_activation(y))
        return y if self.output_linear is None else self.final_activation(self.output_linear(y))

    def _check_options(
        self, bottleneck: int | None, gate: int | None, channels: int, initializer: str | None, *activations: str | None
    ) -> None:
        if bottleneck is not None and (bottleneck < 1 or self.d_model % bottleneck):
            got = f"bottleneck={bottleneck}"
            raise argument_error(self.name, got, f"a divisor of d_model={self.d_model}", "change the bottleneck")
        if channels < 1 or (gate is not None and gate < 1):
            raise argument_error(self.name, f"channels={channels}, gate={gate}", "at least 1", "correct the numbers")
        if initializer is not None and initializer not in INITIALIZERS:
            raise unknown_name(self.name, "initializer", initializer, INITIALIZERS)
        for activation in activations:
            if activation is not None and activation not in ACTIVATIONS:
                raise unknown_name(self.name, "activation", activation, ACTIVATIONS)


def _activation(name: str | None) -> Callable[[Tensor], Tensor]:
    return _identity if name is None else ACTIVATIONS[name]


def _linear(width: int, out: int, initializer: str | None, weight_norm: bool) -> nn.Linear:
    made = nn.Linear(width, out)
    if initializer is not None:
        INITIALIZERS[initializer](made.weight)
        nn.init.zeros_(made.bias)
    if weight_norm:
        with_weight_norm(made)
    return made
