"""Filters over images of few taps at learned, real places (DCLS in two dimensions).

With taps i at rows r_i and columns c_i, counted from the middle of a square window of ``span`` by ``span`` cells, and φ
the interpolation of :mod:`~seqconv.filters.explicit.dcls` along either axis::

    h[a, b] = sum_i w_i φ_i(a - r_i) φ_i(b - c_i) / Z_i,   Z_i = 1 for "v0", else sum_{a,b} φ_i φ_i + 1e-7

Source: Khalfaoui-Hassani et al. 2023 (arXiv 2112.03740, 2306.00817); DCLS/construct/modules.py (ConstructKernel2d) of
K-H-Ismail/Dilated-Convolution-with-Learnable-Spacings-PyTorch (commit 096daf8f).
"""

from abc import ABC
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...parameters import KeepFloat32, set_optimizer_options, wide_default_dtype
from .dcls import INITIAL_WIDTH, VERSIONS, interpolation


class Taps2d(KeepFloat32, ABC):
    """Base of what has taps at learned places in a square window.

    Args:
        channels: number of impulse responses.
        kernel_count: taps.
        span: rows and columns of the window.
        version: ``"gauss"``, ``"max"``, ``"v1"`` or ``"v0"``.

    Raises:
        ValueError: an unknown version, a size below 1.
    """

    position: nn.Parameter | None
    sigma: nn.Parameter | None

    def __init__(self, channels: int, *, kernel_count: int, span: int, version: str = "gauss") -> None:
        super().__init__()
        if version not in VERSIONS:
            raise unknown_name(type(self).__name__, "version", version, VERSIONS)
        if min(channels, kernel_count, span) < 1:
            got = f"kernel_count={kernel_count}, span={span}"
            raise argument_error(type(self).__name__, got, "sizes of at least 1", "correct the sizes")
        self.channels, self.kernel_count, self.span, self.version = channels, kernel_count, span, version

    def _register_places(self) -> None:
        shape = (2, self.channels, self.kernel_count)
        self.position = nn.Parameter(torch.empty(shape, dtype=wide_default_dtype()))
        self.sigma = nn.Parameter(torch.empty_like(self.position)) if self.version in INITIAL_WIDTH else None
        set_optimizer_options(self, "position", weight_decay=0.0)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Places ~ N(0, 0.5²) along each axis, widths constant."""
        if self.position is not None:
            self.position.normal_(std=0.5)
            self.clamp_positions()
        if self.sigma is not None:
            self.sigma.fill_(INITIAL_WIDTH[self.version])

    @torch.no_grad()
    def clamp_positions(self) -> None:
        """Keep the taps in the window; the original calls it after every step of its optimiser."""
        if self.position is not None:
            self.position.clamp_(-(self.span // 2), self.span // 2)

    def interpolated(self) -> Float[Tensor, "2 channels kernel_count span"]:
        """φ of every tap at the rows, and at the columns, of the window."""
        position = cast(Tensor, self.position)
        cells = torch.arange(self.span, device=position.device, dtype=position.dtype) - self.span // 2
        return interpolation(self.version, cells - position[..., None], self.sigma)


class SharedTaps2d(Taps2d):
    """Places of taps that several filters share; each of them has weights of its own.

    Args:
        channels, kernel_count, span, version: as in :class:`Taps2d`.
    """

    def __init__(self, channels: int, *, kernel_count: int, span: int, version: str = "gauss") -> None:
        super().__init__(channels, kernel_count=kernel_count, span=span, version=version)
        self._register_places()
        self.reset_parameters()

    def forward(self) -> Float[Tensor, "2 channels kernel_count span"]:
        """What :meth:`DCLSFilter2d.forward` takes as ``shared``."""
        return self.interpolated()


class DCLSFilter2d(Taps2d):
    """Impulse responses of few taps at learned places.

    Args:
        channels, kernel_count, span, version: as in :class:`Taps2d`.
        fan_in: impulse responses that are summed into one output, for the initial weights.
        shared_positions: leave places and widths to a :class:`SharedTaps2d`.
        init_std: standard deviation of the initial weights, cut off at two of PyTorch's units; as those of a Conv2d if
            not given.

    Raises:
        ValueError: an unknown version, a size below 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_count: int,
        span: int,
        version: str = "gauss",
        fan_in: int = 1,
        shared_positions: bool = False,
        init_std: float | None = None,
    ) -> None:
        super().__init__(channels, kernel_count=kernel_count, span=span, version=version)
        if fan_in < 1:
            raise argument_error("DCLSFilter2d", f"fan_in={fan_in}", "sizes of at least 1", "correct the sizes")
        self.fan_in, self.init_std = fan_in, init_std
        self.weight = nn.Parameter(torch.empty(channels, kernel_count, dtype=wide_default_dtype()))
        self.position = self.sigma = None
        if not shared_positions:
            self._register_places()
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Weights as those of a Conv2d or by ``init_std``, places ~ N(0, 0.5²) along each axis, widths constant."""
        if self.init_std is None:
            bound = (self.fan_in * self.weight.shape[1]) ** -0.5
            self.weight.uniform_(-bound, bound)
        else:
            nn.init.trunc_normal_(self.weight, std=self.init_std)
        super().reset_parameters()

    def forward(
        self, shared: Float[Tensor, "2 channels kernel_count span"] | None = None
    ) -> Float[Tensor, "channels span span"]:
        """The window, first row and first column first; cell ``span // 2`` is the middle."""
        rows, columns = self.interpolated() if shared is None else shared
        weight = self.weight
        if self.version != "v0":
            weight = weight / (rows.sum(-1) * columns.sum(-1) + 1e-7)
        return torch.einsum("ci,cia,cib->cab", weight, rows, columns)
