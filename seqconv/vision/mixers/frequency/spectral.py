"""Filters in the spectrum of feature maps: FNO's spectral convolution and the global filter of HorNet's "gf" models.

* FNO: ``ŷ_o[k] = sum_i W_{i,o,k} x̂_i[k]`` for the lowest frequencies of both axes, zero for the others, and a bias.
  An image is one period whatever the number of its cells, so that a filter is the same function on a finer grid.
* Global and local filter: after a layer norm the first half of the channels passes a 3 by 3 convolution, the second
  ``irfft2(W ⊙ rfft2(x))`` with W interpolated to the frequencies of the image; channels of both halves alternate, and
  a layer norm follows.

Sources: Li et al. 2020 (arXiv 2010.08895) and neuralop/layers/spectral_convolution.py of neuraloperator/neuraloperator
at 93d3f063; Rao et al. 2022 (arXiv 2207.14284) and hornet.py of raoyongming/HorNet at ac9e2105.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.complex import as_complex
from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.operator.sizes import known
from seqconv_kernels._core.precision import accumulation_dtype, no_autocast

from ....layers.norms import LayerNorm
from ....mixers.convolution.spectral import FFT_NORMS
from ...mixer_2d import Mixer2d, by_size
from ...registry import register_2d

AXES = (1, 2)
"""Rows and columns of (batch, height, width, channels)."""
STANDARD_DEVIATION = 0.02
"""Of the initial global filter."""
EPS = 1e-6
"""ε of the norms around it."""


class SpectralConvolution2d(nn.Module):
    """FNO's convolution over one period of both axes, between any channels.

    Args:
        inputs, outputs: channels; equal if separable.
        n_modes: frequencies of rows and of columns that are kept, both signs counted.
        separable: every channel by itself.
        fft_norm: as in :class:`~seqconv.mixers.convolution.spectral.SpectralConvolution`.
        bias: added to the outputs.

    Raises:
        ValueError: no frequency, an unknown norm, separable channels that differ.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        n_modes: Sequence[int] = (16, 16),
        separable: bool = False,
        fft_norm: str = "forward",
        bias: bool = True,
    ) -> None:
        super().__init__()
        if fft_norm not in FFT_NORMS:
            raise unknown_name("SpectralConvolution2d", "fft_norm", fft_norm, FFT_NORMS)
        if len(n_modes) != len(AXES) or min(n_modes) < 1 or (separable and inputs != outputs):
            got = f"n_modes={tuple(n_modes)}, separable={separable} for {inputs} inputs and {outputs} outputs"
            wanted = "at least one frequency of each axis, and as many outputs as inputs if separable"
            raise argument_error("SpectralConvolution2d", got, wanted, "correct the numbers")
        self.inputs, self.outputs, self.separable, self.fft_norm = inputs, outputs, separable, fft_norm
        channels = (inputs,) if separable else (inputs, outputs)
        self.weight = nn.Parameter(torch.empty(*channels, n_modes[0], n_modes[1] // 2 + 1, 2))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All from N(0, 2 / (inputs + outputs)); a complex weight has that variance in both parts together."""
        std = (2 / (self.inputs + self.outputs)) ** 0.5
        nn.init.normal_(self.weight, std=std * 0.5**0.5)
        if self.bias is not None:
            nn.init.normal_(self.bias, std=std)

    def forward(self, x: Float[Tensor, "batch height width inputs"]) -> Float[Tensor, "batch height width outputs"]:
        """Filter images, each one period of both axes."""
        with no_autocast(x):
            wide = x.to(accumulation_dtype(x, self.weight))
            spectrum = torch.fft.fftshift(torch.fft.rfft2(wide, dim=AXES, norm=self.fft_norm), dim=1)
            weight = as_complex(self.weight.to(wide.dtype))
            rows, columns = (min(n, m) for n, m in zip(spectrum.shape[1:3], weight.shape[-2:], strict=True))
            # Kept are the rows around frequency 0, which is in the middle, and the first columns.
            skipped = (weight.shape[-2] - rows) // 2
            modes = weight[..., skipped : skipped + rows, :columns]
            first = spectrum.shape[1] // 2 - rows // 2
            kept = spectrum[:, first : first + rows, :columns]
            equation = "bhwc,chw->bhwc" if self.separable else "bhwi,iohw->bhwo"
            mixed = torch.einsum(equation, kept, modes)
            around = (first, spectrum.shape[1] - first - rows)
            full = F.pad(mixed, (0, 0, 0, spectrum.shape[2] - columns, *around))
            back = torch.fft.ifftshift(full, dim=1)
            y: Tensor = torch.fft.irfft2(back, s=x.shape[1:3], dim=AXES, norm=self.fft_norm).to(x.dtype)
        return y if self.bias is None else y + self.bias


class GlobalLocalFilter(nn.Module):
    """Half of the channels through a 3 by 3 convolution, half through a filter in the spectrum, between two norms.

    Args:
        channels: an even number.
        size: frequencies of rows and columns for which the filter is stored.

    Raises:
        ValueError: an odd number of channels, sizes below 1.
    """

    def __init__(self, channels: int, size: Sequence[int]) -> None:
        super().__init__()
        if channels % 2 or channels < 2 or len(size) != len(AXES) or min(size) < 1:
            got, wanted = f"{channels} channels, size={tuple(size)}", "an even number, and two sizes of at least 1"
            raise argument_error("GlobalLocalFilter", got, wanted, "change the width, the order or the size")
        half = channels // 2
        self.local = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.weight = nn.Parameter(torch.empty(half, *size, 2))
        self.pre_norm, self.post_norm = LayerNorm(channels, eps=EPS), LayerNorm(channels, eps=EPS)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The global filter from a normal distribution of small variance, cut at 100 standard deviations as there."""
        nn.init.trunc_normal_(self.weight, std=STANDARD_DEVIATION)

    def forward(self, x: Float[Tensor, "batch height width channels"]) -> Float[Tensor, "batch height width channels"]:
        """Filter whole images."""
        near, far = self.pre_norm(x).chunk(2, dim=-1)
        near = self.local(near.movedim(-1, 1)).movedim(1, -1)
        y: Tensor = self.post_norm(torch.stack([near, self._global(far)], dim=-1).flatten(-2))
        return y

    def _global(self, x: Tensor) -> Tensor:
        with no_autocast(x):
            wide = x.to(accumulation_dtype(x, self.weight))
            spectrum = torch.fft.rfft2(wide, dim=AXES, norm="ortho")
            weight = self.weight.to(wide.dtype)
            rows, frequencies = spectrum.shape[1:3]
            if not (known(rows == weight.shape[1]) and known(frequencies == weight.shape[2])):
                # Real and imaginary parts are images of one channel per channel.
                images = weight.permute(3, 0, 1, 2)
                resized = F.interpolate(images, size=(rows, frequencies), mode="bilinear", align_corners=True)
                weight = resized.permute(1, 2, 3, 0)
            filtered = spectrum * as_complex(weight.contiguous()).movedim(0, -1)
            y: Tensor = torch.fft.irfft2(filtered, s=x.shape[1:3], dim=AXES, norm="ortho").to(x.dtype)
        return y


@register_2d("fno", examples=({"n_modes": (3, 4)}, {"n_modes": (4, 2), "separable": True, "fft_norm": "ortho"}))
class FNO2d(Mixer2d):
    """Fourier neural operator's spectral convolution over images.

    Args:
        d_model: width of inputs and outputs.
        n_modes, separable, fft_norm, bias: as in :class:`SpectralConvolution2d`.

    Raises:
        ValueError: as :class:`SpectralConvolution2d`.
    """

    def __init__(
        self,
        d_model: int,
        *,
        n_modes: Sequence[int] = (16, 16),
        separable: bool = False,
        fft_norm: str = "forward",
        bias: bool = True,
    ) -> None:
        super().__init__(d_model)
        self.spectral_conv = SpectralConvolution2d(
            d_model, d_model, n_modes=n_modes, separable=separable, fft_norm=fft_norm, bias=bias
        )

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return x if x.shape[0] == 0 else by_size(self.spectral_conv, x, mask)  # no transform of nothing
