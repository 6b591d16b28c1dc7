"""MultiresConv: a wavelet tree as one long convolution, GELU, and a gated projection over the channels.

Equation: ``y = GLU(W dropout(GELU(h * x)) + b)`` with ``h`` of
:class:`~seqconv.filters.explicit.multires.MultiresFilter`.

Source: Shi et al. 2023, "Sequence Modeling with Multiresolution Convolutional Memory" (arXiv 2305.01638);
layers/multireslayer.py and classification.py of thjashin/multires-conv (commit 828089f2). Published: sequential
CIFAR-10 93.15, ListOps 62.75 (the paper's abstract page).
"""

from typing import Annotated, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from ...convolution.long_convolution import LongConvolution
from ...filters.explicit.multires import MultiresFilter, MultiresFilterOptions
from ...layers.linear import Linear
from ...layers.residual import Dropout
from ...mixer import Mixer
from ...options import Default, select_options, with_defaults
from ...registry import register
from ...state import State
from ...types import StateKind


class MultiresOptions(MultiresFilterOptions, total=False):
    """Options of :class:`MultiresConv` and of its filter.

    Attributes:
        l_max: lags that the tree reaches at least, where ``levels`` are not given.
        project: the gated projection; without it the layer mixes no channels.
        dropout: probability, of whole channels of a sequence, after GELU and after the projection.
    """

    l_max: Annotated[int, Default(1024)]
    project: Annotated[bool, Default(True)]
    dropout: Annotated[float, Default(0.0)]


@register(
    "multires",
    examples=(
        {"l_max": 20, "kernel_size": 4, "wavelet": "db2"},
        {"l_max": 64, "tree": "uniform", "memory_size": 9, "independent_skip": True},
        {"levels": 3, "kernel_size": 3, "tree": "uniform", "memory_size": 5},
    ),
)
class MultiresConv(Mixer):
    """Multiresolution convolution: a wavelet tree with learned filters shared by its levels.

    Args:
        d_model: width of inputs and outputs.
        **options: see :class:`MultiresOptions` and :class:`~seqconv.filters.explicit.multires.MultiresFilterOptions`.

    Raises:
        ValueError: as the filter.
    """

    def __init__(self, d_model: int, **options: Unpack[MultiresOptions]) -> None:
        o = with_defaults(MultiresOptions, options, self.name)
        super().__init__(d_model)
        filter = MultiresFilter(d_model, l_max=o["l_max"], **select_options(MultiresFilterOptions, o))
        self.convolution = LongConvolution(filter)
        self.dropout = Dropout(o["dropout"], tied=True)
        self.out_proj = Linear(d_model, 2 * d_model) if o["project"] else None

    @property
    def state_kind(self) -> StateKind:
        """That of the convolution."""
        return self.convolution.state_kind

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self._mix(self.convolution(x))

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        return self.convolution.init_state(batch_size, max_length)

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        y, state = self.convolution.prefill(x, state)
        return self._mix(y), state

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self.convolution.step(x_t, state)
        return self._mix(y), state

    def _mix(self, y: Tensor) -> Tensor:
        v: Tensor = self.dropout(F.gelu(y))
        if self.out_proj is None:
            return v
        mixed: Tensor = self.dropout(F.glu(self.out_proj(v), dim=-1))
        return mixed
