"""The layer around the convolution of S4 and S4D (Gu et al., 2022; state-spaces/s4), written once for both.

``y = W φ(dropout(h * u + D u))`` with ``W`` a projection followed by a GLU. Optional: a bottleneck in front, a gate
parallel to the convolution, several outputs (``channels``) per input, a second convolution with the future.
"""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, TypedDict, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import is_parametrized

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...convolution.long_convolution import LongConvolution
from ...filters.base import Filter
from ...filters.wrappers import TapDropout, TruncatedFilter
from ...layers.linear import Linear
from ...layers.residual import Dropout
from ...mixer import Mixer
from ...options import Default, with_defaults
from ...packing import zero_padding
from ...state import State, state_class
from ...types import StateKind


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
"""Initialisations of the projections' weights (biases then start at zero)."""


class S4LayerOptions(TypedDict, total=False):
    """Options of :class:`S4Layer`.

    Attributes:
        activation, gate_activation, mult_activation: keys of ``ACTIVATIONS``, ``None`` for none: after the
            convolution, on the gate, after the multiplication by the gate.
        final_activation: after the output projection; ``None`` leaves the output projection out.
        bottleneck: divide the width of the convolution by this.
        gate: multiply by a gate this many times as wide as the convolution.
        initializer: key of ``INITIALIZERS`` for the projections; ``None`` for PyTorch's own.
        weight_norm: weight normalisation of the projections.
        dropout, tie_dropout: after the convolution and before the output projection; tied over the tokens of a row.
        kernel_dropout: dropout of taps.
        channels: outputs of the convolution per input.
        swap_channels: order those outputs (feature, channel) instead of (channel, feature).
        bidirectional: also convolve with the future, strictly, with a second C.
        truncation: taps of the impulse response that are kept; ``None``: all. The state then holds as many inputs.
        recurrent_steps: with a truncation, decode by the recurrence of the whole response: in constant memory, exact
            for the first ``truncation`` tokens, an error after them.
    """

    activation: Annotated[str | None, Default("gelu")]
    final_activation: Annotated[str | None, Default("glu")]
    bottleneck: Annotated[int | None, Default(None)]
    gate: Annotated[int | None, Default(None)]
    gate_activation: Annotated[str | None, Default(None)]
    mult_activation: Annotated[str | None, Default(None)]
    initializer: Annotated[str | None, Default(None)]
    weight_norm: Annotated[bool, Default(False)]
    dropout: Annotated[float, Default(0.0)]
    tie_dropout: Annotated[bool, Default(False)]
    kernel_dropout: Annotated[float, Default(0.0)]
    channels: Annotated[int, Default(1)]
    swap_channels: Annotated[bool, Default(False)]
    bidirectional: Annotated[bool, Default(False)]
    truncation: Annotated[int | None, Default(None)]
    recurrent_steps: Annotated[bool, Default(False)]


@state_class
class CountedState(State):
    """State of the convolution, and the tokens so far, where only a number of them are exact."""

    inner: State
    tokens: int


class S4Layer(Mixer):
    """Everything of S4's layer but its filter.

    Args:
        d_model: width of inputs and outputs.
        make_filter: the filter of a number of inputs, with a number of impulse responses (heads) for each.
        **options: see :class:`S4LayerOptions`.

    Raises:
        ValueError: unknown names, sizes that do not divide, widths that do not fit without an output projection.
    """

    def __init__(
        self, d_model: int, make_filter: Callable[[int, int], Filter], **options: Unpack[S4LayerOptions]
    ) -> None:
        o = with_defaults(S4LayerOptions, options, self.name)
        super().__init__(d_model, causal=not o["bidirectional"])
        _check_options(self.name, d_model, o)
        self.inner = d_model // (o["bottleneck"] or 1)
        self.heads = o["channels"] * (2 if o["activation"] == "glu" else 1)
        self.swap_channels = o["swap_channels"]
        self.activation, self.mult_activation = _activation(o["activation"]), _activation(o["mult_activation"])
        self.gate_activation, self.final_activation = (
            _activation(o["gate_activation"]), _activation(o["final_activation"])
        )  # fmt: skip
        self._add_projections(o)
        self.conv_dropout = Dropout(o["dropout"], tied=o["tie_dropout"])
        self.dropout = Dropout(o["dropout"], tied=o["tie_dropout"])
        self.D = nn.Parameter(torch.empty(self.heads, self.inner))
        filter = make_filter(self.inner, self.heads * (2 if o["bidirectional"] else 1))
        self.exact_steps = o["truncation"] if o["recurrent_steps"] and filter.recurrent else None
        if o["truncation"] is not None:
            filter = TruncatedFilter(filter, o["truncation"], untruncated_steps=o["recurrent_steps"])
        filter = TapDropout(filter, o["kernel_dropout"]) if o["kernel_dropout"] else filter
        self.convolution = LongConvolution(filter, two_sided=o["bidirectional"])
        self.reset_parameters()

    def _add_projections(self, o: S4LayerOptions) -> None:
        """Input, gate and output projections, as far as the options ask for them."""
        width = o["channels"] * self.inner
        gated = None if o["gate"] is None else o["gate"] * self.inner

        def linear(width: int, out: int, activation: str | None) -> nn.Linear:
            return S4Linear(width, out * (2 if activation == "glu" else 1), o["initializer"], o["weight_norm"])

        self.in_proj = None if o["bottleneck"] is None else linear(self.d_model, self.inner, None)
        self.gate_proj = None if gated is None else linear(self.d_model, gated, o["gate_activation"])
        self.up_proj = None if gated in (None, width) else linear(width, gated, None)
        width = gated or width
        if o["final_activation"] is None and width != self.d_model:
            got = f"outputs of width {width} without an output projection"
            raise argument_error(self.name, got, f"d_model={self.d_model}", "set final_activation")
        self.out_proj = None if o["final_activation"] is None else linear(width, self.d_model, o["final_activation"])

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """D ~ N(0, 1)."""
        self.D.normal_()

    @property
    def state_kind(self) -> StateKind:
        """``"constant"``, or ``"none"`` if bidirectional."""
        return self.convolution.state_kind

    def _change_rate(self, rate: float) -> None:
        self.convolution.change_rate(rate)
        if self.exact_steps is not None:
            self.exact_steps = max(1, math.ceil(self.exact_steps / rate - 1e-9))

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        u = zero_padding(self._before(x), mask)
        return self._after(self.convolution(u, skip=self.D.flatten()), x)

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        state = self.convolution.init_state(batch_size, max_length)
        return state if self.exact_steps is None else CountedState(state, 0)

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        inner, count = self._counted(state, x.shape[1])
        u = zero_padding(self._before(x), mask)
        y, inner = self.convolution.prefill(u, inner, skip=self.D.flatten())
        return self._after(y, x), inner if count is None else CountedState(inner, count)

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        inner, count = self._counted(state, 1)
        y, inner = self.convolution.step(self._before(x_t), inner, skip=self.D.flatten())
        return self._after(y, x_t), inner if count is None else CountedState(inner, count)

    def _counted(self, state: State, length: int) -> tuple[State, int | None]:
        """The state of the convolution, and the tokens after ``length`` more where they are counted.

        Raises:
            ValueError: more tokens than the truncation, beyond which the recurrence is another function.
        """
        if not isinstance(state, CountedState):
            return state, None
        count = state.tokens + length
        if self.exact_steps is not None and count > self.exact_steps:
            got = f"{count} tokens with truncation={self.exact_steps} and recurrent_steps=True"
            remedy = "use forward, or build it with recurrent_steps=False (exact) or without truncation"
            raise argument_error(f"{self.name} decoding", got, f"at most {self.exact_steps} tokens", remedy)
        return state.inner, count

    def _before(self, x: Tensor) -> Tensor:
        """Inputs of the convolution: every input once per head."""
        u = x if self.in_proj is None else self.in_proj(x)
        return u if self.heads == 1 else torch.cat([u] * self.heads, dim=-1)

    def _after(self, y: Tensor, x: Tensor) -> Tensor:
        """From the outputs of the convolution and the inputs of the layer to its outputs."""
        if self.swap_channels:
            y = y.unflatten(-1, (self.heads, self.inner)).transpose(-1, -2).flatten(-2)
        y = self.activation(self.conv_dropout(y))
        if self.gate_proj is not None:
            y = y if self.up_proj is None else self.up_proj(y)
            y = y * self.gate_activation(self.gate_proj(x))
        y = self.dropout(self.mult_activation(y))
        return y if self.out_proj is None else self.final_activation(self.out_proj(y))


class S4Linear(Linear):
    """Linear layer with the initial values and the weight normalisation of S4's options.

    Args:
        width, out: features in and out.
        initializer: key of ``INITIALIZERS`` for the weight, the bias then starts at zero; ``None``: PyTorch's own.
        normalised: weight normalisation.
    """

    def __init__(self, width: int, out: int, initializer: str | None, normalised: bool) -> None:
        self.initializer = initializer  # read by reset_parameters, which nn.Linear's constructor calls
        super().__init__(width, out)
        if normalised:
            weight_norm(self)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Weight and bias by ``initializer``; under weight normalisation its direction and length."""
        weight = torch.empty(self.out_features, self.in_features, device=self.bias.device, dtype=self.bias.dtype)
        if self.initializer is None:
            bound = self.in_features**-0.5
            weight.uniform_(-bound, bound)
            self.bias.uniform_(-bound, bound)
        else:
            INITIALIZERS[self.initializer](weight)
            self.bias.zero_()
        if is_parametrized(self, "weight"):
            self.weight = weight  # the parametrisation takes it apart
        else:
            self.weight.copy_(weight)


def _activation(name: str | None) -> Callable[[Tensor], Tensor]:
    return _identity if name is None else ACTIVATIONS[name]


def _check_options(mixer: str, d_model: int, o: S4LayerOptions) -> None:
    bottleneck, gate, channels = o["bottleneck"], o["gate"], o["channels"]
    if bottleneck is not None and (bottleneck < 1 or d_model % bottleneck):
        got = f"bottleneck={bottleneck}"
        raise argument_error(mixer, got, f"a divisor of d_model={d_model}", "change the bottleneck")
    if channels < 1 or (gate is not None and gate < 1):
        raise argument_error(mixer, f"channels={channels}, gate={gate}", "at least 1", "correct the numbers")
    if o["initializer"] is not None and o["initializer"] not in INITIALIZERS:
        raise unknown_name(mixer, "initializer", o["initializer"], INITIALIZERS)
    for activation in (o["activation"], o["gate_activation"], o["mult_activation"], o["final_activation"]):
        if activation is not None and activation not in ACTIVATIONS:
            raise unknown_name(mixer, "activation", activation, ACTIVATIONS)
