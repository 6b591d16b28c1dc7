"""Filters over images of few taps at learned, real places (DCLS in two dimensions).

With taps i at rows r_i and columns c_i, counted from the middle of a square window of ``span`` by ``span`` cells, and φ
the interpolation of :mod:`~seqconv.filters.explicit.dcls` along either axis::

    h[a, b] = sum_i w_i φ_i(a - r_i) φ_i(b - c_i) / Z_i,   Z_i = 1 for "v0", else sum_{a,b} φ_i φ_i + 1e-7

Source: Khalfaoui-Hassani et al. 2023 (arXiv 2112.03740, 2306.00817); DCLS/construct/modules.py (ConstructKernel2d) of
K-H-Ismail/Dilated-Convolution-with-Learnable-Spacings-PyTorch (commit 096daf8f).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...parameters import KeepFloat32, set_optimizer_options, wide_default_dtype
from .dcls import INITIAL_WIDTH, VERSIONS, interpolation


class DCLSFilter2d(KeepFloat32):
    """Impulse responses of few taps at learned places.

    Args:
        channels: number of impulse responses.
        kernel_count: taps.
        span: rows and columns of the window.
        version: ``"gauss"``, ``"max"``, ``"v1"`` or ``"v0"``.
        fan_in: impulse responses that are summed into one output, for the initial weights.

    Raises:
        ValueError: an unknown version, a size below 1.
    """

    sigma: nn.Parameter | None

    def __init__(self, channels: int, *, kernel_count: int, span: int, version: str = "gauss", fan_in: int = 1) -> None:
        super().__init__()
        if version not in VERSIONS:
            raise unknown_name("DCLSFilter2d", "version", version, VERSIONS)
        if min(channels, kernel_count, span, fan_in) < 1:
            got = f"kernel_count={kernel_count}, span={span}"
            raise argument_error("DCLSFilter2d", got, "sizes of at least 1", "correct the sizes")
        self.version, self.span, self.fan_in, dtype = version, span, fan_in, wide_default_dtype()
        self.weight = nn.Parameter(torch.empty(channels, kernel_count, dtype=dtype))
        self.position = nn.Parameter(torch.empty(2, channels, kernel_count, dtype=dtype))
        self.sigma = nn.Parameter(torch.empty_like(self.position)) if version in INITIAL_WIDTH else None
        set_optimizer_options(self, "position", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Weights as those of a Conv2d, places ~ N(0, 0.5²) along each axis, widths constant."""
        bound = (self.fan_in * self.weight.shape[1]) ** -0.5
        self.weight.uniform_(-bound, bound)
        self.position.normal_(std=0.5)
        self.clamp_positions()
        if self.sigma is not None:
            self.sigma.fill_(INITIAL_WIDTH[self.version])

    @torch.no_grad()
    def clamp_positions(self) -> None:
        """Keep the taps in the window; the original calls it after every step of its optimiser."""
        self.position.clamp_(-(self.span // 2), self.span // 2)

    def forward(self) -> Float[Tensor, "channels span span"]:
        """The window, first row and first column first; cell ``span // 2`` is the middle."""
        cells = torch.arange(self.span, device=self.position.device, dtype=self.position.dtype) - self.span // 2
        rows, columns = interpolation(self.version, (cells - self.position[..., None]).abs(), self.sigma)
        weight = self.weight
        if self.version != "v0":
            weight = weight / (rows.sum(-1) * columns.sum(-1) + 1e-7)
        return torch.einsum("ci,cia,cib->cab", weight, rows, columns)
