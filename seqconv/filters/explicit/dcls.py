"""Dilated filter with learnable spacings: few taps at learned, real lags.

With taps i at lags ``p_i``, weights w_i and a window of ``span`` lags s::

    h[s] = sum_i w_i φ_i(s) / Z_i
    v0:     φ_i(s) = max(0, 1 - |s - p_i|),                    Z_i = 1
    v1:     the same,                                          Z_i = sum_s φ_i(s) + 1e-7, and below
    max:    φ_i(s) = max(0, 1 + |σ_i| - |s - p_i|)
    gauss:  φ_i(s) = exp(-((s - p_i) / (|σ_i| + 0.27))² / 2)

Source: Khalfaoui-Hassani et al. 2023, "Dilated Convolution with Learnable Spacings" (arXiv 2112.03740) and "beyond
bilinear interpolation" (arXiv 2306.00817); DCLS/construct/modules.py of
K-H-Ismail/Dilated-Convolution-with-Learnable-Spacings-PyTorch (commit 83de5624), where positions are relative to the
middle of the window and count in the opposite direction.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...parameters import set_optimizer_options, wide_default_dtype
from ..base import Recurrence, WideFilter

VERSIONS = ("gauss", "max", "v1", "v0")
INITIAL_WIDTH = {"gauss": 0.23, "max": 0.0}
LEAST_WIDTH = 0.27
"""Added to the widths of Gaussian taps."""


def interpolation(version: str, offset: Tensor, sigma: Tensor | None) -> Tensor:
    """φ at offsets from the taps, (..., taps, lags), for widths (..., taps).

    A tap exactly at a cell has the derivative of a tap just above it in ``"v0"``, as in the original, so that taps
    clamped to the end of the window move away from it again; in ``"v1"`` that derivative is zero.
    """
    if version == "v0":
        slopes = torch.where(offset > 0, 1 - offset, 1 + offset)
        return torch.where((offset > -1) & (offset <= 1), slopes, torch.zeros_like(offset))
    distance = offset.abs()
    if sigma is None:
        return F.relu(1 - distance)
    width = sigma.abs()[..., None]
    if version == "max":
        return F.relu(1 + width - distance)
    return torch.exp(-0.5 * (distance / (width + LEAST_WIDTH)).square())


class DCLSFilter(WideFilter):
    """Impulse responses of few taps at learned lags.

    Args:
        channels: number of impulse responses.
        kernel_count: taps.
        span: lags of the window.
        version: ``"gauss"``, ``"max"``, ``"v1"`` or ``"v0"``.
        fan_in: impulse responses that are summed into one output, for the initial weights.
        uniform: start with lags from the whole window, for causal use, where no lag is its middle.

    Raises:
        ValueError: an unknown version, a size below 1.
    """

    sigma: nn.Parameter | None

    def __init__(
        self,
        channels: int,
        *,
        kernel_count: int,
        span: int,
        version: str = "gauss",
        fan_in: int = 1,
        uniform: bool = False,
    ) -> None:
        if version not in VERSIONS:
            raise unknown_name("DCLSFilter", "version", version, VERSIONS)
        if min(kernel_count, span, fan_in) < 1:
            got = f"kernel_count={kernel_count}, span={span}"
            raise argument_error("DCLSFilter", got, "sizes of at least 1", "correct the sizes")
        super().__init__(channels, max_length=span)
        self.version, self.span, self.fan_in, self.uniform = version, span, fan_in, uniform
        size, dtype = (channels, kernel_count), wide_default_dtype()
        self.weight, self.position = (nn.Parameter(torch.empty(size, dtype=dtype)) for _ in range(2))
        self.sigma = nn.Parameter(torch.empty(size, dtype=dtype)) if version in INITIAL_WIDTH else None
        set_optimizer_options(self, "position", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Weights as those of a Conv1d, lags ~ N(middle of the window, 0.5²) or uniform, widths constant."""
        bound = (self.fan_in * self.weight.shape[1]) ** -0.5
        self.weight.uniform_(-bound, bound)
        if self.uniform:
            self.position.uniform_(0, self.span - 1)
        else:
            self.position.normal_(std=0.5).add_(self.middle)
        self.clamp_positions()
        if self.sigma is not None:
            self.sigma.fill_(INITIAL_WIDTH[self.version])

    @property
    def middle(self) -> int:
        """The lag from which the original counts."""
        return self.span - 1 - self.span // 2

    @torch.no_grad()
    def clamp_positions(self) -> None:
        """Keep the lags in the window; the original calls it after every step of its optimiser."""
        self.position.clamp_(self.middle - self.span // 2, self.middle + self.span // 2)

    def _taps(self, length: int) -> Float[Tensor, "channels length"]:
        lags = torch.arange(self.span, device=self.position.device, dtype=self.position.dtype)
        phi = interpolation(self.version, self.position[..., None] - lags, self.sigma)
        if self.version != "v0":
            phi = phi / (phi.sum(-1, keepdim=True) + 1e-7)
        h = (self.weight[..., None] * phi).sum(1)[:, :length]
        return F.pad(h, (0, length - h.shape[1]))

    def _recurrence(self) -> Recurrence | None:
        """There is none: the window ends."""
        return None
