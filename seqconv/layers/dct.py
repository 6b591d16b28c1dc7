"""Change the length of a sequence in its spectrum: the downsampling of the Fourier Transformer.

With the orthonormal cosine transform (DCT-II) of L tokens and its inverse at another length L'::

    X_k = c_k sum_t x_t cos(π k (2 t + 1) / 2 L),    c_0 = √(1/L), c_k = √(2/L),    y = DCT⁻¹_{L'}(X_0 ... X_{L'-1})

The first L' coefficients are kept, or zeros appended where L' > L. Two orthonormal transforms of different lengths turn
a constant c into ``c √(L/L')``; ``keep_amplitude`` divides by that. Every output depends on every input.

Source: He et al. 2023, "Fourier Transformer: Fast Long Range Modeling by Removing Sequence Redundancy with FFT
Operator" (arXiv 2305.15099); LRA/code/attention_dct.py of LUMIA-Group/FourierTransformer (commit cba1dc22).
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.complex import as_complex
from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype


def dct(x: Float[Tensor, "batch length channels"]) -> Float[Tensor, "batch length channels"]:
    """Orthonormal DCT-II along the length, by one FFT of the evenly extended sequence; float32 at least."""
    wide, length = x.to(accumulation_dtype(x)), x.shape[1]
    spectrum = torch.fft.rfft(torch.cat([wide, wide.flip(1)], dim=1), dim=1)[:, :length]
    turn = torch.arange(length, device=x.device, dtype=wide.dtype) * (math.pi / (2 * length))
    coefficients = spectrum.real * turn.cos()[:, None] + spectrum.imag * turn.sin()[:, None]
    scaled: Tensor = coefficients * _weights(length, wide)
    return scaled


def idct(coefficients: Float[Tensor, "batch length channels"]) -> Float[Tensor, "batch length channels"]:
    """The inverse of :func:`dct`."""
    length = coefficients.shape[1]
    scaled = coefficients / _weights(length, coefficients)
    turn = torch.arange(length, device=scaled.device, dtype=scaled.dtype) * (math.pi / (2 * length))
    half = torch.polar(torch.ones_like(turn), turn)[:, None] * scaled
    spectrum = F.pad(torch.view_as_real(half), (0, 0, 0, 0, 0, 1))
    y = cast(Tensor, torch.fft.irfft(as_complex(spectrum), n=2 * length, dim=1))
    return y[:, :length]


def _weights(length: int, like: Tensor) -> Tensor:
    """``c_k / 2``, the factors that make the transform of the extended sequence orthonormal."""
    weights = torch.full((length, 1), math.sqrt(0.5 / length), device=like.device, dtype=like.dtype)
    return torch.cat([weights[:1] / math.sqrt(2), weights[1:]])


class SpectralResampling(nn.Module):
    """Resample sequences to ``⌈ratio · length⌉`` tokens.

    Args:
        ratio: above 0; below 1 the high frequencies are left out.
        keep_amplitude: constants stay what they are; without it they grow by ``√(length / new length)``.

    Raises:
        ValueError: a ratio that is not positive.
    """

    def __init__(self, ratio: float, *, keep_amplitude: bool = True) -> None:
        super().__init__()
        if not 0 < ratio < math.inf:
            raise argument_error(
                "SpectralResampling", f"ratio={ratio}", "a positive number", "pass 1 to change nothing"
            )
        self.ratio, self.keep_amplitude = ratio, keep_amplitude

    def forward(
        self, x: Float[Tensor, "batch length channels"], length: int | None = None
    ) -> Float[Tensor, "batch new_length channels"]:
        """Resample whole sequences, to ``length`` tokens where given: that of the inputs before, in a decoder."""
        new = math.ceil(self.ratio * x.shape[1]) if length is None else length
        coefficients = dct(x)[:, :new]
        coefficients = F.pad(coefficients, (0, 0, 0, new - coefficients.shape[1]))
        scale = math.sqrt(new / x.shape[1]) if self.keep_amplitude else 1.0
        return (scale * idct(coefficients)).to(x.dtype)
