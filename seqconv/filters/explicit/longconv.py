"""Explicit filter of LongConv: every tap is a parameter; smoothing and a soft threshold keep it simple.

With the trained taps ``k``, at every evaluation::

    k' = smooth(k)                           optional
    h  = sign(k') max(|k'| - λ, 0)           squash

``smooth`` is a moving average over ``smoothing_width`` taps (zeros beyond the ends), or the same in the spectrum: the
discrete Fourier transform of k convolved with ``exp(-i²/2)``, not normalised. Taps below the threshold λ receive no
gradient, so λ must be small against the initial taps.

Source: Fu et al. 2023, "Simple Hardware-Efficient Long Convolutions for Sequence Modeling" (arXiv 2302.06646), and
src/models/sequence/long_conv_kernel.py of HazyResearch/safari (commit 02220c69).
"""

from typing import Annotated, TypedDict, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.operator.composed import fitted
from seqconv_kernels._core.precision import accumulation_dtype

from ...options import Default, with_defaults
from ...parameters import register_tensor, wide_default_dtype
from ..base import Recurrence, WideFilter

SMOOTHINGS = ("average", "frequency")
INITS = ("double_exp", "random")


class LongConvFilterOptions(TypedDict, total=False):
    """Options of a :class:`LongConvFilter` that a mixer hands on.

    Attributes:
        threshold: λ of the soft threshold; 0 leaves the taps as they are.
        smoothing: ``"average"``, ``"frequency"`` or ``None``.
        smoothing_width: taps, or frequencies, of the window; odd for ``"average"``.
        init: ``"double_exp"``, N(0, 0.02²) times ``exp(-(t / l_max) (D/2)^(c/D))`` for channel c of D, or
            ``"random"``, N(0, 0.002²).
        lr: learning rate of the taps, which do not decay; ``None``: the model's own.
    """

    threshold: Annotated[float, Default(1e-3)]
    smoothing: Annotated[str | None, Default(None)]
    smoothing_width: Annotated[int, Default(7)]
    init: Annotated[str, Default("double_exp")]
    lr: Annotated[float | None, Default(1e-3)]


class LongConvFilter(WideFilter):
    """Impulse responses of ``l_max`` free taps.

    With ``smoothing="frequency"`` and an odd ``l_max`` there is one tap fewer, as in the original, whose inverse
    transform always has an even length.

    Args:
        features: independent inputs.
        heads: outputs per input; the channels are ordered (head, feature).
        l_max: number of taps.
        **options: see :class:`LongConvFilterOptions`.

    Raises:
        ValueError: an unknown word among the options, a size below 1, a negative threshold, an even window of
            averages.
    """

    kernel: Tensor

    def __init__(self, features: int, *, heads: int = 1, l_max: int, **options: Unpack[LongConvFilterOptions]) -> None:
        o = with_defaults(LongConvFilterOptions, options, "LongConvFilter")
        _check(l_max, o)
        even = o["smoothing"] == "frequency"
        super().__init__(features * heads, max_length=l_max - l_max % 2 if even else l_max)
        self.options, self.features, self.heads = o, features, heads
        taps = torch.empty(features * heads, l_max, dtype=wide_default_dtype())
        register_tensor(self, "kernel", taps, lr=o["lr"], weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the taps from a normal distribution, under a double exponential window if so asked."""
        if self.options["init"] == "random":
            self.kernel.normal_(std=0.002)
            return
        channel = torch.arange(self.features, device=self.kernel.device) / self.features
        time = torch.arange(self.kernel.shape[1], device=self.kernel.device) / self.kernel.shape[1]
        window = torch.exp(-time * float(self.features // 2) ** channel[:, None])
        self.kernel.normal_(std=0.02).mul_(window.repeat(self.heads, 1))

    def _taps(self, length: int) -> Float[Tensor, "channels length"]:
        k = self.kernel.to(accumulation_dtype(self.kernel))
        if self.options["smoothing"] == "average":
            width = self.options["smoothing_width"]
            k = F.avg_pool1d(k, width, stride=1, padding=width // 2)
        elif self.options["smoothing"] == "frequency":
            k = self._smooth_spectrum(k)
        squashed = F.relu(k.abs() - self.options["threshold"]) * k.sign()
        return fitted(squashed, length)  # type: ignore[no-any-return]

    def _smooth_spectrum(self, k: Tensor) -> Tensor:
        """``k`` with its spectrum convolved with a Gaussian, zeros beyond the ends of the half spectrum."""
        width = self.options["smoothing_width"]
        lags = torch.arange(width, dtype=torch.float32, device=k.device) - width // 2
        window = torch.exp(-0.5 * lags.square()).to(k.dtype)  # float32 in every precision, as in the original
        parts = torch.view_as_real(torch.fft.rfft(k)).permute(0, 2, 1).flatten(0, 1)
        padded = F.pad(parts, ((width - 1) // 2, width - 1 - (width - 1) // 2))
        smoothed = F.conv1d(padded[:, None], window[None, None])[:, 0]
        real, imaginary = smoothed.unflatten(0, (-1, 2)).unbind(1)
        taps: Tensor = torch.fft.irfft(torch.complex(real, imaginary))
        return taps

    def _recurrence(self) -> Recurrence | None:
        """There is none; :mod:`seqconv.distill` finds one that comes close."""
        return None


def _check(l_max: int, o: LongConvFilterOptions) -> None:
    width, smoothing = o["smoothing_width"], o["smoothing"]
    if l_max < 2 or width < 1 or o["threshold"] < 0:
        got = f"l_max={l_max}, smoothing_width={width}, threshold={o['threshold']}"
        wanted = "l_max of at least 2, smoothing_width of at least 1, threshold >= 0"
        raise argument_error("LongConvFilter", got, wanted, "correct the numbers")
    if smoothing is not None and smoothing not in SMOOTHINGS:
        raise unknown_name("LongConvFilter", "smoothing", smoothing, SMOOTHINGS)
    if smoothing == "average" and width % 2 == 0:
        got = f"smoothing_width={width}"
        raise argument_error("LongConvFilter", got, "an odd window of averages", "add or drop one tap")
    if o["init"] not in INITS:
        raise unknown_name("LongConvFilter", "init", o["init"], INITS)
