"""gⁿConv of HorNet in one dimension and causal: a short convolution and gates of growing width.

Equation, with n = ``order`` and widths ``d_i = D / 2^(n-1-i)``, i = 0 .. n-1::

    [p, q] = W_in x   (d_0 and d_0 + ... + d_{n-1} channels),    [q_0, ..., q_{n-1}] = s (shortconv(q))
    p ← p ⊙ q_0,    p ← (W_i p + b_i) ⊙ q_{i+1}  for i = 0 .. n-2,    y = W_out p

The original is two-dimensional, with a centred 7 x 7 convolution, or a filter in the spectrum for half of the channels.

Source: Rao et al. 2022, "HorNet: Efficient High-Order Spatial Interactions with Recursive Gated Convolutions" (arXiv
2207.14284); hornet.py of raoyongming/HorNet (commit ac9e2105). Published, for images: ImageNet 82.8 with HorNet-T 7 x 7
(README).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ....layers.linear import Linear
from ....layers.short_convolution import ShortConvolution
from ....mixer import Mixer
from ....packing import zero_padding
from ....registry import register
from ....state import State
from ....types import StateKind
from ..lightconv import InputsState


@register("gnconv", examples=({"order": 2, "d_conv": 3}, {"order": 4, "d_conv": 5, "scale": 1.0}))
class GnConv(Mixer):
    """Recursive gated convolution of HorNet, causal in one dimension.

    Args:
        d_model: width of inputs and outputs.
        order: gates n.
        d_conv: taps of the short convolution.
        scale: s, factor of the convolution's outputs.

    Raises:
        ValueError: an order below 1, a width that ``2^(order-1)`` does not divide.
    """

    def __init__(self, d_model: int, *, order: int = 3, d_conv: int = 7, scale: float = 1 / 3) -> None:
        super().__init__(d_model)
        self.widths, self.scale = gate_widths(d_model, order), scale
        self.in_proj = Linear(d_model, 2 * d_model)
        self.short_conv = ShortConvolution(sum(self.widths), d_conv, activation=None)
        pairs = zip(self.widths, self.widths[1:], strict=False)
        self.gate_projs = nn.ModuleList(Linear(a, b) for a, b in pairs)
        self.out_proj = Linear(d_model, d_model)

    @property
    def state_kind(self) -> StateKind:
        """A window of inputs."""
        return "window"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        p, q = self._project(x, mask)
        return self.combine(p, self.short_conv(q)[0])

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        return InputsState(self.short_conv.init_state(batch_size, device, dtype))

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, InputsState)
        p, q = self._project(x, mask)
        mixed, past = self.short_conv(q, state.past)
        return self.combine(p, mixed), InputsState(past)

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, InputsState)
        p, q = self._project(x_t, None)
        mixed, past = self.short_conv.step(q, state.past)
        return self.combine(p, mixed), InputsState(past)

    def _project(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        p, q = self.in_proj(x).split([self.widths[0], sum(self.widths)], dim=-1)
        return p, zero_padding(q, mask)

    def combine(self, p: Tensor, mixed: Tensor) -> Tensor:
        """The gates and the output projection, from the first input and the outputs of the convolution."""
        first, *gates = (self.scale * mixed).split(self.widths, dim=-1)
        y: Tensor = self.out_proj(recursive_gates(p * first, gates, self.gate_projs))
        return y


def recursive_gates(p: Tensor, gates: Iterable[Tensor], projections: Iterable[nn.Module]) -> Tensor:
    """``p ← (W_i p + b_i) ⊙ q_{i+1}`` for each gate."""
    for project, gate in zip(projections, gates, strict=True):
        p = project(p) * gate
    return p


def gate_widths(d_model: int, order: int) -> list[int]:
    """``d_i``, the last of them ``d_model``.

    Raises:
        ValueError: an order below 1, a width that ``2^(order-1)`` does not divide.
    """
    if order < 1 or d_model % 2 ** max(0, order - 1):
        got, wanted = f"order={order}", f"at least 1, with 2^(order-1) a divisor of d_model={d_model}"
        raise argument_error("gnconv mixer", got, wanted, "lower the order")
    return [d_model // 2 ** (order - 1 - i) for i in range(order)]
