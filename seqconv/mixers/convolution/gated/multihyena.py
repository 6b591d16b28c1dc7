"""MultiHyena: heads with one long filter each, which convolves the outer products of two projections.

Equation: ``(q, v, k) = shortconv(W_in u)``, each cut into heads of n = width/num_heads channels; then per head h::

    Z_t = k_t v_t^T  (n x n),   S = h_h * Z + D_h Z  along t,   y_t = S_t^T q_t,   out_t = W_out [y_t of all heads]

so that only ``num_heads`` filters are there to be learned, and to be distilled. With n = 1 it is Hyena of order 2.

Source: Massaroli et al. 2023, "Laughing Hyena Distillery" (arXiv 2310.18780); MultiHeadHyenaOperator in
mad/model/layers/hyena.py of athms/mad-lab (commit 0f49a452), where n is called ``num_heads``.
"""

from typing import Unpack

import torch
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ....convolution.long_convolution import LongConvolution
from ....convolution.outer_products import convolve_outer, convolve_outer_from, split_heads
from ....filters.implicit.hyena import HyenaFilter, HyenaFilterOptions
from ....layers.linear import Linear
from ....layers.short_convolution import ShortConvolution
from ....mixer import Mixer
from ....packing import zero_padding
from ....parameters import set_optimizer_options
from ....registry import register
from ....state import State, state_class
from ....types import StateKind


@state_class
class MultiHyenaState(State):
    """Last inputs of the short convolution, and the state of the long one over all outer products."""

    short: Tensor
    long: State


@register(
    "multihyena",
    examples=(
        {"num_heads": 2, "l_max": 16, "filter_order": 8},
        {"num_heads": 4, "expand": 2, "proj_groups": 3, "l_max": 50, "emb_dim": 5, "w": 3.0},
    ),
)
class MultiHyena(Mixer):
    """Hyena with tied filters and outer products within heads.

    Args:
        d_model: width of inputs and outputs.
        l_max: taps of the long filters; longer sequences are mixed within this window.
        num_heads: heads, and filters.
        expand: width between the projections over d_model.
        d_conv: taps of the short convolution.
        proj_groups: W_in gives 1/proj_groups of the channels, each used ``proj_groups`` times.
        **filter: see :class:`~seqconv.filters.implicit.hyena.HyenaFilterOptions`.

    Raises:
        ValueError: heads or projection groups that do not divide the width.
    """

    def __init__(
        self,
        d_model: int,
        *,
        l_max: int = 1024,
        num_heads: int = 8,
        expand: int = 1,
        d_conv: int = 3,
        proj_groups: int = 1,
        **filter: Unpack[HyenaFilterOptions],
    ) -> None:
        super().__init__(d_model)
        width = d_model * expand
        for name, parts, whole in (("num_heads", num_heads, width), ("proj_groups", proj_groups, 3 * width)):
            if parts < 1 or whole < 1 or whole % parts:
                raise argument_error("multihyena mixer", f"{name}={parts}", f"a divisor of {whole}", f"change {name}")
        self.num_heads, self.head_dim, self.proj_groups = num_heads, width // num_heads, proj_groups
        self.in_proj = Linear(d_model, 3 * width // proj_groups)
        self.short_conv = ShortConvolution(3 * width, d_conv, activation=None)
        self.convolution = LongConvolution(HyenaFilter(num_heads, l_max=l_max, **filter), heads=self.head_dim**2)
        self.D = nn.Parameter(torch.empty(num_heads))
        set_optimizer_options(self, "D", weight_decay=0.0)
        self.out_proj = Linear(width, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the skips from N(0, 1)."""
        nn.init.normal_(self.D)

    @property
    def state_kind(self) -> StateKind:
        """That of the long convolution."""
        return self.convolution.state_kind

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        mixed, _ = self.short_conv(zero_padding(self._project(x), mask))
        q, k, v = self._heads(zero_padding(mixed, mask))
        return self._finish(convolve_outer(q, k, v, self.convolution, self.D))

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        short = self.short_conv.init_state(batch_size, device, dtype)
        return MultiHyenaState(short, self.convolution.init_state(batch_size, max_length))

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, MultiHyenaState)
        mixed, short = self.short_conv(zero_padding(self._project(x), mask), state.short)
        q, k, v = self._heads(zero_padding(mixed, mask))
        y, long = convolve_outer_from(q, k, v, self.convolution, self.D, state.long)
        return self._finish(y), MultiHyenaState(short, long)

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, MultiHyenaState)
        mixed, short = self.short_conv.step(self._project(x_t), state.short)
        q, k, v = self._heads(mixed)
        y, long = convolve_outer_from(q, k, v, self.convolution, self.D, state.long)
        return self._finish(y), MultiHyenaState(short, long)

    def _project(self, x: Tensor) -> Tensor:
        projected: Tensor = self.in_proj(x)
        return projected.repeat(*[1] * (x.dim() - 1), self.proj_groups)

    def _heads(self, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v as (..., head_dim, num_heads): the filter belongs to the last axis."""
        q, v, k = (split_heads(part, self.num_heads) for part in mixed.chunk(3, dim=-1))
        return q, k, v

    def _finish(self, y: Tensor) -> Tensor:
        out: Tensor = self.out_proj(y.transpose(-1, -2).flatten(-2))
        return out
