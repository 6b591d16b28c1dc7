"""GFNet's mixer: every channel multiplied by a learned filter in the spectrum of the image.

``y = irfft2(K ⊙ rfft2(x))`` with an orthonormal transform and K complex, (rows, columns / 2 + 1) for each channel: a
circular convolution with a kernel of the size of the image. Filters are learned for one size; for images of others they
are resized, bicubic, as the original does for its finetuning.

Source: Rao et al. 2021 (arXiv 2107.00645) and ``gfnet.py`` of raoyongming/GFNet at 2de48b62.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.complex import as_complex
from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.operator.sizes import known

from ...mixer_2d import Mixer2d, by_size
from ...registry import register_2d

FILTER_INIT_STD = 0.02


@register_2d("global_filter", examples=({"size": [4, 5]},))
class GlobalFilter2d(Mixer2d):
    """A filter of the size of the image, in its spectrum (GFNet).

    Args:
        d_model: width of inputs and outputs.
        size: rows and columns of the images that the filter is learned for; one number for squares.

    Raises:
        ValueError: sizes below 1.
    """

    def __init__(self, d_model: int, *, size: int | Sequence[int] = 14) -> None:
        super().__init__(d_model)
        rows, columns = (size, size) if isinstance(size, int) else tuple(size)
        if min(rows, columns) < 1:
            got = f"size={size}"
            raise argument_error("global_filter 2-D mixer", got, "at least one row and one column", "correct it")
        self.size = (rows, columns)
        self.weight = nn.Parameter(torch.empty(rows, columns // 2 + 1, d_model, 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small filters."""
        nn.init.normal_(self.weight, std=FILTER_INIT_STD)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return x if x.shape[0] == 0 else by_size(self._filtered, x, mask)  # no transform of nothing

    def _filtered(self, x: Tensor) -> Tensor:
        size = (x.shape[1], x.shape[2])
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        spectrum = torch.fft.rfft2(wide, dim=(1, 2), norm="ortho") * as_complex(self._resized(*size, wide))
        y: Tensor = torch.fft.irfft2(spectrum, s=size, dim=(1, 2), norm="ortho").to(x.dtype)
        return y

    def _resized(self, rows: int, columns: int, like: Tensor) -> Float[Tensor, "rows frequencies d_model 2"]:
        weight = self.weight.to(like.dtype)
        if known(rows == self.size[0]) and known(columns == self.size[1]):
            return weight.contiguous()
        flat = weight.flatten(2).movedim(-1, 0)[None]
        resized = F.interpolate(flat, size=(rows, columns // 2 + 1), mode="bicubic", align_corners=True)
        made: Tensor = resized[0].movedim(0, -1).unflatten(-1, (self.d_model, 2)).contiguous()
        return made
