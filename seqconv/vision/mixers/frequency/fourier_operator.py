"""AFNO: an MLP of every frequency of the image, the same for all.

``y = x + irfft2(shrink(W_2 relu(W_1 X + b_1) + b_2))``, ``X = rfft2(x)`` orthonormal, with complex block-diagonal
weights; relu (or another activation) and the soft threshold act on real and imaginary parts apart. With ``masks=True``
(AFF) the result multiplies X instead of taking its place. On one row of cells it is AFNO in one dimension.

Of less than all frequencies (``fraction``) the first columns of the half spectrum are kept, and all rows: as the
original counts, ``⌊fraction (H W / 2 + 1)⌋`` of them, so that of several rows little is cut.

Source: Guibas et al. 2021 (arXiv 2111.13587), ``afno/afno2d.py`` and ``afno1d.py`` of NVlabs/AFNO-transformer at
941e924f; Huang et al. 2023 (arXiv 2307.14008) for the mask.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ....layers.mlp import PLAIN
from ...mixer_2d import Mixer2d, by_size
from ...registry import register_2d

INIT_STD = 0.02


@register_2d("afno", examples=({"num_blocks": 2, "expand": 2, "threshold": 0.0, "masks": True, "activation": "silu"},))
class AFNO2d(Mixer2d):
    """A complex MLP of each frequency (Adaptive Fourier Neural Operator).

    Args:
        d_model: width of inputs and outputs.
        num_blocks: blocks of the weights, a divisor of the width.
        expand: hidden channels per channel.
        threshold: of the soft threshold.
        fraction: part of the frequencies that are kept, the others add nothing; see above how they are counted.
        masks: whether the MLP gives a factor of the spectrum instead of the spectrum itself.
        activation: a plain one of :mod:`~seqconv.layers.mlp`.

    Raises:
        ValueError: an unknown activation, blocks that do not divide the width, sizes below 1, a threshold below 0.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_blocks: int = 8,
        expand: int = 1,
        threshold: float = 0.01,
        fraction: float = 1.0,
        masks: bool = False,
        activation: str = "relu",
    ) -> None:
        super().__init__(d_model)
        if num_blocks < 1 or d_model % num_blocks or expand < 1 or threshold < 0 or not 0 <= fraction <= 1:
            got = f"num_blocks={num_blocks} for d_model={d_model}, expand={expand}, threshold={threshold}"
            wanted = "a divisor, expand >= 1, a threshold >= 0, a fraction between 0 and 1"
            raise argument_error("afno 2-D mixer", f"{got}, fraction={fraction}", wanted, "correct them")
        if activation not in PLAIN:
            raise unknown_name("afno 2-D mixer", "activation", activation, PLAIN)
        self.activation, self.fraction = activation, fraction
        width, self.threshold, self.masks, self.num_blocks = d_model // num_blocks, threshold, masks, num_blocks
        self.up_weight = nn.Parameter(torch.empty(2, num_blocks, width, expand * width))
        self.up_bias = nn.Parameter(torch.empty(2, num_blocks, expand * width))
        self.down_weight = nn.Parameter(torch.empty(2, num_blocks, expand * width, width))
        self.down_bias = nn.Parameter(torch.empty(2, num_blocks, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small weights and biases."""
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=INIT_STD)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return x if x.shape[0] == 0 else by_size(self._mix, x, mask)  # no transform of nothing

    def _mix(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        spectrum = torch.fft.rfft2(wide, dim=(1, 2), norm="ortho")
        kept = int((x.shape[1] * x.shape[2] // 2 + 1) * self.fraction)
        cut = max(0, spectrum.shape[2] - kept)
        spectrum = spectrum[:, :, : spectrum.shape[2] - cut]
        parts = torch.view_as_real(spectrum).unflatten(-2, (self.num_blocks, -1)).unbind(-1)
        hidden = [PLAIN[self.activation](part) for part in _complex_linear(parts, self.up_weight, self.up_bias)]
        found = _complex_linear(hidden, self.down_weight, self.down_bias)
        shrunk = [F.softshrink(part, self.threshold).flatten(-2) for part in found]
        made = torch.complex(*shrunk)
        made = made * spectrum if self.masks else made
        y = torch.fft.irfft2(F.pad(made, (0, 0, 0, cut)), s=x.shape[1:3], dim=(1, 2), norm="ortho")
        joined: Tensor = x + y.to(x.dtype)
        return joined


def _complex_linear(x: list[Tensor] | tuple[Tensor, ...], weight: Tensor, bias: Tensor) -> list[Tensor]:
    """Real and imaginary part of ``x W + b`` with (…, blocks, channels) inputs and a matrix for each block."""
    (real, imaginary), (w_real, w_imaginary), (b_real, b_imaginary) = x, weight.to(x[0].dtype), bias.to(x[0].dtype)

    def times(part: Tensor, matrices: Tensor) -> Float[Tensor, "*cells blocks d_out"]:
        return torch.einsum("...gi,gio->...go", part, matrices)

    return [
        times(real, w_real) - times(imaginary, w_imaginary) + b_real,
        times(imaginary, w_real) + times(real, w_imaginary) + b_imaginary,
    ]
