"""SPANet's mixer: frequencies of the image weighed by their distance from zero, as a factor of the image.

``u = conv_h(conv_w(W_in x))`` with depthwise convolutions of a row and of a column; channels in three chunks, with
λ = 0.7, 0.8 and 0.9 for chunk i::

    c = W Σ_i irfft2(M_i ⊙ rfft2(u_i))        M_i = λ_i within a radius, 1 - λ_i beyond it, 1/3 on it
    y = W_out (u ⊙ c)

The radius is counted in frequencies (rows and columns of the spectrum). Masks are computed for every size of images, in
float32 as in the original.

Source: Yun et al. 2023 (arXiv 2308.11568), ``image_classification/spanet.py`` of DoranLyong/SPANet-official at
886ad24d, which stores square masks and fails for images of another size.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype

from ....layers.linear import KeptLinear
from ...mixer_2d import Mixer2d, by_size
from ...registry import register_2d

SHARES = (0.7, 0.8, 0.9)
"""λ of the chunks of channels."""
ON_THE_CIRCLE = 1 / 3


def circle_mask(rows: int, columns: int, radius: float, share: float) -> Float[Tensor, "rows columns"]:
    """Weights of all frequencies, in float32, in the order of an FFT."""
    y, x = (torch.fft.fftfreq(n, 1 / n, dtype=torch.float32).round() for n in (rows, columns))
    distance = torch.sqrt(y[:, None] ** 2 + x**2)
    low = torch.tensor(share, dtype=torch.float32)
    mask = torch.where(distance < radius, low, 1 - low)
    return torch.where(distance == radius, torch.tensor(ON_THE_CIRCLE), mask)


@register_2d("spectral_pooling", examples=({"radius": 1.0, "d_conv": 3},))
class SpectralPooling2d(Mixer2d):
    """Spectral pooling aggregation modulation (SPANet).

    Args:
        d_model: width of inputs and outputs.
        d_conv: taps of the convolutions along rows and columns, odd.
        radius: in frequencies.

    Raises:
        ValueError: a width that does not make three chunks, an even ``d_conv``, a radius below 0.
    """

    def __init__(self, d_model: int, *, d_conv: int = 7, radius: float = 2.0) -> None:
        super().__init__(d_model)
        chunk = -(-d_model // len(SHARES))
        chunks = [min(chunk, d_model - start) for start in range(0, d_model, chunk)]
        if len(chunks) != len(SHARES) or d_conv < 1 or d_conv % 2 == 0 or radius < 0:
            got = f"d_model={d_model}, d_conv={d_conv}, radius={radius}"
            wanted = "three chunks of channels, an odd d_conv, a radius of at least 0"
            raise argument_error("spectral_pooling 2-D mixer", got, wanted, "correct the sizes")
        self.chunks, self.radius = chunks, radius
        self.in_proj, self.out_proj = KeptLinear(d_model, d_model), KeptLinear(d_model, d_model)
        half = d_conv // 2
        self.conv_w = nn.Conv2d(d_model, d_model, (1, d_conv), padding=(0, half), groups=d_model)
        self.conv_h = nn.Conv2d(d_model, d_model, (d_conv, 1), padding=(half, 0), groups=d_model)
        self.context_proj = KeptLinear(d_model, d_model)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the last projection as one of each chunk of channels, whose biases are summed here."""
        bias = torch.zeros_like(self.context_proj.bias)
        for part in self.context_proj.weight.split(self.chunks, dim=1):
            bound = part.shape[1] ** -0.5
            part.uniform_(-bound, bound)
            bias += torch.empty_like(bias).uniform_(-bound, bound)
        self.context_proj.bias.copy_(bias)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return x if x.shape[0] == 0 else by_size(self._mix, x, mask)  # no transform of nothing

    def _mix(self, x: Tensor) -> Tensor:
        u = self.conv_h(self.conv_w(self.in_proj(x).movedim(-1, 1))).movedim(1, -1)
        y: Tensor = self.out_proj(u * self.context_proj(self._pooled(u)))
        return y

    def _pooled(self, u: Tensor) -> Tensor:
        rows, columns = u.shape[1:3]
        wide = u.to(accumulation_dtype(u))
        spectrum = torch.fft.rfft2(wide, dim=(1, 2), norm="ortho")
        masks = torch.stack([circle_mask(rows, columns, self.radius, share) for share in SHARES], dim=-1)
        # The spectrum of a real image is symmetric: half of its columns suffice, and half of the masks.
        masks = masks[:, : spectrum.shape[2]].to(u.device, wide.dtype)
        weights = torch.cat([masks[..., i : i + 1].expand(-1, -1, n) for i, n in enumerate(self.chunks)], dim=-1)
        pooled: Tensor = torch.fft.irfft2(spectrum * weights, s=(rows, columns), dim=(1, 2), norm="ortho")
        return pooled.to(u.dtype)
