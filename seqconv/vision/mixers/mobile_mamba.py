"""MobileMamba: a scan and wavelets for some channels, a convolution for others, nothing for the rest; and its block.

Equation, with the channels split into x_g, x_l and x_i::

    y_g = s ⊙ ss2d(x_g) + haar⁻¹(t ⊙ conv(haar(x_g)))        both directions of the rows; one level, depthwise
    y_l = norm(c ⊙ relu(norm(conv(x_l))))
    y = norm(W relu([y_g, y_l, x_i]))

The block around it, with m residual depthwise convolution and MLP, is ``x + m(r(m(x)))`` with ``r(x) = x + mixer(x)``.
All norms but SS2D's own are batch norms. Odd sizes are padded with zeros in front of the transform.

Source: He et al. 2024 (arXiv 2411.15941) and ``model/mobilemamba/mobilemamba.py`` of lewandofskee/MobileMamba at
0980f48a.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...layers.residual import DropPath
from ..backbones.normed_conv import LocalConv, LocalMix, NormedConv
from ..backbones.squeeze import SqueezeExcite
from ..mixer_2d import Mixer2d, by_size, cropped
from ..registry import register_2d
from .ss2d import SS2D, depthwise_conv2d

GLOBAL_MULTIPLE = 16
BANDS = 4
WAVELET_SCALE = 0.1
OPTIONS: Mapping[str, Any] = {"orders": ("row", "row_reversed"), "initialisation": "uniform"}
"""Of the scan."""
SQUEEZE_MULTIPLE = 8


@register_2d(
    "mobile_mamba",
    examples=({"global_ratio": 0.0, "local_ratio": 0.5}, {"global_channels": 4, "local_ratio": 0.5, "expand": 1}),
)
class MobileMamba2d(Mixer2d):
    """Scan, wavelets and convolution of different channels (MobileMamba).

    Args:
        d_model: width of inputs and outputs.
        global_ratio: part of the channels that are scanned; the nearest multiple of 16 is taken.
        global_channels: their number itself instead.
        local_ratio: part of the channels that are convolved.
        d_conv: rows and columns of both convolutions, odd.
        expand: inner channels of the scan per scanned channel.

    Raises:
        ValueError: more channels than there are, none scanned or convolved, an even ``d_conv``.
    """

    def __init__(
        self,
        d_model: int,
        *,
        global_ratio: float = 0.8,
        global_channels: int | None = None,
        local_ratio: float = 0.2,
        d_conv: int = 3,
        expand: int | float = 2,
    ) -> None:
        super().__init__(d_model)
        wanted = int(global_ratio * d_model)
        scanned = GLOBAL_MULTIPLE * ((wanted + GLOBAL_MULTIPLE // 2) // GLOBAL_MULTIPLE)
        scanned = min(scanned, d_model) if global_channels is None else global_channels
        local = min(int(local_ratio * d_model), d_model - scanned)
        if not 0 < scanned + local <= d_model or min(scanned, local) < 0 or d_conv < 1 or d_conv % 2 == 0:
            got = f"{scanned} scanned and {local} convolved of {d_model} channels, d_conv={d_conv}"
            raise argument_error("mobile_mamba 2-D mixer", got, "a part of the channels, an odd d_conv", "change them")
        self.widths = [scanned, local, d_model - scanned - local]
        self.scan = WaveletScan(scanned, d_conv=d_conv, expand=expand) if scanned else None
        self.local = LocalConv(local, d_conv) if local else None
        self.out_proj = NormedConv(d_model, d_model, starts_at_zero=True)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return by_size(self._mix, x, mask)

    def _mix(self, x: Tensor) -> Tensor:
        scanned, local, rest = x.split(self.widths, dim=-1)
        scanned = scanned if self.scan is None else self.scan(scanned)
        local = local if self.local is None else self.local(local)
        y: Tensor = self.out_proj(F.relu(torch.cat([scanned, local, rest], dim=-1)))
        return y


class WaveletScan(nn.Module):
    """A scan of the rows in both directions, and a convolution of the four bands of the Haar transform.

    Args:
        channels: of inputs and outputs.
        d_conv: rows and columns of the convolution of the bands.
        expand: inner channels of the scan per channel.
    """

    analysis: Float[Tensor, "bands 2 2"]
    synthesis: Float[Tensor, "bands 2 2"]

    def __init__(self, channels: int, *, d_conv: int, expand: int | float) -> None:
        super().__init__()
        self.ss2d = SS2D(channels, d_state=1, expand=expand, normed_projections=True, **OPTIONS)
        self.scale = nn.Parameter(torch.empty(channels))
        self.bands_conv = depthwise_conv2d(BANDS * channels, d_conv, bias=False)
        self.bands_scale = nn.Parameter(torch.empty(BANDS * channels))
        self.register_buffer("analysis", torch.empty(BANDS, 2, 2))
        self.register_buffer("synthesis", torch.empty(BANDS, 2, 2))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The Haar wavelet: means, differences of rows, of columns and of both; the bands start small."""
        self.scale.fill_(1.0)
        self.bands_scale.fill_(WAVELET_SCALE)
        low = torch.tensor([0.5, 0.5], device=self.analysis.device) ** 0.5
        high = low * torch.tensor([1.0, -1.0], device=low.device)
        for filters in (self.analysis, self.synthesis):
            for band, (rows, columns) in enumerate(((low, low), (high, low), (low, high), (high, high))):
                filters[band] = rows[:, None] * columns

    def forward(self, x: Float[Tensor, "batch rows columns channels"]) -> Float[Tensor, "batch rows columns channels"]:
        """The sum of both."""
        height, width, channels = x.shape[1:]
        image = F.pad(x.movedim(-1, 1), (0, width % 2, 0, height % 2))
        analysis, synthesis = (
            f[:, None].repeat(channels, 1, 1, 1).to(x.dtype) for f in (self.analysis, self.synthesis)
        )
        bands = F.conv2d(image, analysis, stride=2, groups=channels)
        bands = self.bands_conv(bands) * self.bands_scale[:, None, None]
        details = F.conv_transpose2d(bands, synthesis, stride=2, groups=channels).movedim(1, -1)
        y: Tensor = self.scale * self.ss2d(x) + cropped(details, height, width)
        return y


class MobileBlock(nn.Module):
    """The block of MobileMamba around a mixer; in place of :class:`~seqconv.vision.backbones.block.Block2d`."""

    def __init__(self, mixer: Mixer2d, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.first, self.second = (LocalMix(mixer.d_model, starts_at_zero=True) for _ in range(2))
        self.mixer, self.drop_path = mixer, DropPath(drop_path)

    def forward(self, x: Float[Tensor, "batch rows columns d_model"]) -> Float[Tensor, "batch rows columns d_model"]:
        """Mix neighbours and channels, then cells, then neighbours and channels again."""
        h = self.first(x)
        y: Tensor = x + self.drop_path(self.second(h + self.mixer(h)))
        return y


class MobileDownsample(nn.Module):
    """A wide depthwise convolution of stride 2 with squeeze and excitation, local mixing in front and after it."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        inner = 4 * d_in
        self.first, self.second = LocalMix(d_in), LocalMix(d_out)
        self.up, self.down = NormedConv(d_in, inner), NormedConv(inner, d_out)
        self.conv = NormedConv(inner, inner, size=3, stride=2, depthwise=True)
        narrow = SQUEEZE_MULTIPLE * max(1, (d_in + SQUEEZE_MULTIPLE // 2) // SQUEEZE_MULTIPLE)
        self.squeeze = SqueezeExcite(inner, 4, narrow=narrow, bias=True)

    def forward(self, x: Float[Tensor, "batch rows columns d_in"]) -> Float[Tensor, "batch half_rows half_columns d"]:
        """Half of the rows and columns, rounded up."""
        h = F.relu(self.conv(F.relu(self.up(self.first(x)))))
        y: Tensor = self.second(self.down(self.squeeze(h)))
        return y
