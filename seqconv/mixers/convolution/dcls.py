"""DCLS: a depthwise convolution whose taps have learned lags, then a projection.

Equation: ``y = W (h * x + b) + c`` with h of :class:`~seqconv.filters.explicit.dcls.DCLSFilter`, causal: all taps are
in the past.

Source: Khalfaoui-Hassani et al. 2023 (arXiv 2112.03740), for images, where the window is centred.
"""

from abc import ABC, abstractmethod
from typing import TypedDict, Unpack, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ...convolution.window import WindowConvolution
from ...filters.explicit.dcls import DCLSFilter
from ...filters.explicit.dcls_2d import DCLSFilter2d
from ...layers.linear import Linear
from ...mixer import Mixer
from ...registry import register
from ...state import State
from ...types import StateKind


class Taps(TypedDict):
    """Options of the filter that the convolutions alone hand on.

    Attributes:
        kernel_count, span, version: as in :class:`~seqconv.filters.explicit.dcls.DCLSFilter`.
    """

    kernel_count: int
    span: int
    version: str


class SpacedConvolution(nn.Module, ABC):
    """Base of the convolutions alone, with padding on all sides, as in the original.

    Args:
        filter: impulse responses of all outputs from the inputs of their group, output by output.
        outputs: channels, divided by the groups.
        padding: zeros on every side.
        groups: of channels that are not mixed with others.
        bias: added to the outputs.
    """

    def __init__(
        self, filter: DCLSFilter | DCLSFilter2d, outputs: int, *, padding: int, groups: int, bias: bool
    ) -> None:
        super().__init__()
        self.groups, self.padding, self.filter = groups, padding, filter
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the bias as PyTorch's convolutions do."""
        if self.bias is not None:
            bound = (self.filter.fan_in * self.filter.weight.shape[1]) ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(
        self, x: Float[Tensor, "batch *size inputs"], shared: Tensor | None = None
    ) -> Float[Tensor, "batch *_ outputs"]:
        """Convolve whole sequences or images; ``shared`` as in the filter, where it shares the places of its taps."""
        taps = self._window(shared).unflatten(0, (-1, self.filter.fan_in)).to(x.dtype)
        convolve = F.conv1d if x.dim() == 3 else F.conv2d
        y = convolve(x.movedim(-1, 1), taps, self.bias, padding=self.padding, groups=self.groups)
        return y.movedim(1, -1)

    @abstractmethod
    def _window(self, shared: Tensor | None) -> Float[Tensor, "channels *span"]:
        """The taps as PyTorch's convolutions read them."""


class DCLSConvolution(SpacedConvolution):
    """The convolution alone over sequences; the output has ``2 padding - span + 1`` tokens more than the input.

    Args:
        inputs, outputs: channels, each divided by the groups.
        padding, groups, bias: as in :class:`SpacedConvolution`.
        kernel_count, span, version: as in :class:`~seqconv.filters.explicit.dcls.DCLSFilter`.
    """

    filter: DCLSFilter

    def __init__(
        self, inputs: int, outputs: int, *, padding: int = 0, groups: int = 1, bias: bool = True, **taps: Unpack[Taps]
    ) -> None:
        fan_in = inputs // groups
        filter = DCLSFilter(outputs * fan_in, fan_in=fan_in, **taps)
        super().__init__(filter, outputs, padding=padding, groups=groups, bias=bias)

    def _window(self, shared: Tensor | None) -> Tensor:
        return cast(Tensor, self.filter(self.filter.span)).flip(-1)


@register("dcls", examples=({"span": 9, "kernel_count": 3, "version": "max"}, {"span": 40, "version": "v1"}))
class DCLS(Mixer):
    """Depthwise convolution with learned lags, then a projection.

    Args:
        d_model: width of inputs and outputs.
        span: lags of the window.
        kernel_count: taps.
        version: ``"gauss"``, ``"max"``, ``"v1"`` or ``"v0"``, how a tap between two lags is shared out.

    Raises:
        ValueError: as the filter.
    """

    def __init__(self, d_model: int, *, span: int = 17, kernel_count: int = 6, version: str = "gauss") -> None:
        super().__init__(d_model)
        self.convolution = WindowConvolution(
            DCLSFilter(d_model, kernel_count=kernel_count, span=span, version=version, uniform=True)
        )
        self.bias = nn.Parameter(torch.empty(d_model))
        self.out_proj = Linear(d_model, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the bias of the convolution to zero."""
        nn.init.zeros_(self.bias)

    @property
    def state_kind(self) -> StateKind:
        """A window of inputs."""
        return self.convolution.state_kind

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self._finish(self.convolution(x))

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        return self.convolution.init_state(batch_size)

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        y, after = self.convolution.prefill(x, state)
        return self._finish(y), after

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        y, after = self.convolution.step(x_t, state)
        return self._finish(y), after

    def _finish(self, y: Tensor) -> Tensor:
        out: Tensor = self.out_proj(y + self.bias)
        return out
