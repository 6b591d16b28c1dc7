"""Filters in the spectrum, over the whole sequence: FMLP-Rec's filter layer and FNO's spectral convolution.

* ``fmlp``: ``y = LN(dropout(irfft(W ⊙ rfft(x))) + x)``, one complex number per frequency and channel, over a circle of
  ``l_max`` tokens. The norm and the residual connection are inside.
* ``fno``: ``ŷ_o[k] = sum_i W_{i,o,k} x̂_i[k]`` for the lowest ``n_modes`` frequencies, zero for the others, and a
  bias: a function of the domain, which is one period whatever the number of tokens on it.

Both are circular: the first tokens see the last ones. They are not causal and have no state.

Sources: Zhou et al. 2022, "Filter-enhanced MLP is All You Need for Sequential Recommendation" (arXiv 2202.13556) and
modules.py of RUCAIBox/FMLP-Rec (commit f3c42856); Li et al. 2020, "Fourier Neural Operator for Parametric Partial
Differential Equations" (arXiv 2010.08895) and neuralop/layers/spectral_convolution.py of neuraloperator/neuraloperator
(commit 93d3f063).
"""

from typing import ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.complex import as_complex
from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.operator.composed import Composed
from seqconv_kernels._core.precision import accumulation_dtype, no_autocast

from ...layers.norms import LayerNorm
from ...layers.residual import Dropout
from ...mixer import Mixer
from ...parameters import KeepFloat32
from ...registry import register
from ...state import State
from ...types import StateKind

FFT_NORMS = ("forward", "backward", "ortho")


def _filter_circle(x: Tensor, weight: Tensor, tokens: int) -> Tensor:
    """``x`` (batch, length, channels) on a circle of ``tokens``, filtered by (frequencies, channels, 2)."""
    with no_autocast(x):
        wide = x.to(accumulation_dtype(x, weight))
        spectrum = torch.fft.rfft(wide, n=tokens, dim=1) * as_complex(weight)
        filtered: Tensor = torch.fft.irfft(spectrum, n=tokens, dim=1)
    return filtered[:, : x.shape[1]].to(x.dtype)


def _filter_period(x: Tensor, weight: Tensor, fft_norm: str) -> Tensor:
    """``x`` (batch, length, inputs) as one period, by (inputs, [outputs,] frequencies, 2)."""
    with no_autocast(x):
        wide = x.to(accumulation_dtype(x, weight))
        spectrum = torch.fft.rfft(wide, dim=1, norm=fft_norm)
        modes = as_complex(weight)[..., : spectrum.shape[1]]
        kept = spectrum[:, : modes.shape[-1]]
        mixed = kept * modes.T if modes.dim() == 2 else torch.einsum("bki,iok->bko", kept, modes)
        y = cast(Tensor, torch.fft.irfft(mixed, n=x.shape[1], dim=1, norm=fft_norm))
    return y.to(x.dtype)


_FILTER_CIRCLE = Composed("filter_circle", _filter_circle, lambda x, weight, tokens: x.new_empty(x.shape))
_FILTER_PERIOD = Composed(
    "filter_period", _filter_period, lambda x, weight, fft_norm: x.new_empty(*x.shape[:2], weight.shape[-3])
)


class SpectralMixer(Mixer):
    """Base of the mixers that have no state."""

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model, causal=False)

    @property
    def state_kind(self) -> StateKind:
        """There is no state: every output depends on the whole sequence."""
        return "none"

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        raise NotImplementedError

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        raise NotImplementedError

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        raise NotImplementedError


@register("fmlp", examples=({"l_max": 70}, {"l_max": 65}))
class FMLP(SpectralMixer):
    """FMLP-Rec's filter layer: a learned filter in the spectrum, its norm and residual connection inside.

    Args:
        d_model: width of inputs and outputs.
        l_max: tokens of the circle; shorter sequences are padded with zeros.
        dropout: probability, before the residual connection.
        eps: of the layer norm.

    Raises:
        ValueError: ``l_max < 1``; on a call, more tokens than ``l_max``.
    """

    residual_inside: ClassVar[bool] = True

    def __init__(self, d_model: int, *, l_max: int = 1024, dropout: float = 0.0, eps: float = 1e-12) -> None:
        super().__init__(d_model)
        if l_max < 1:
            raise argument_error("fmlp mixer", f"l_max={l_max}", "at least one token", "raise l_max")
        self.l_max = l_max
        self.weight = nn.Parameter(torch.empty(l_max // 2 + 1, d_model, 2))
        self.dropout, self.norm = Dropout(dropout), LayerNorm(d_model, eps=eps)
        self.keep_float32("weight")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Real and imaginary parts ~ N(0, 0.02²)."""
        nn.init.normal_(self.weight, std=0.02)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if x.shape[1] > self.l_max:
            remedy = "build it with a larger l_max, or cut the sequences"
            raise argument_error("fmlp.forward", f"{x.shape[1]} tokens", f"at most l_max={self.l_max}", remedy)
        if x.shape[0] == 0:  # no transform of nothing
            return x
        y: Tensor = self.norm(self.dropout(_FILTER_CIRCLE(x, self.weight, self.l_max)) + x)
        return y


class SpectralConvolution(KeepFloat32):
    """FNO's convolution over one period, between any channels.

    Args:
        inputs, outputs: channels; equal if separable.
        n_modes: frequencies that are kept, both signs counted: ``n_modes // 2 + 1`` of the real transform.
        separable: every channel by itself.
        fft_norm: ``"forward"`` divides the transform by the length, ``"backward"`` its inverse, ``"ortho"`` both by the
        root. bias: added to the outputs.

    Raises:
        ValueError: ``n_modes < 1``, an unknown norm, separable channels that differ.
    """

    float32_names: frozenset[str] | None = frozenset()

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        n_modes: int = 16,
        separable: bool = False,
        fft_norm: str = "forward",
        bias: bool = True,
    ) -> None:
        super().__init__()
        if fft_norm not in FFT_NORMS:
            raise unknown_name("SpectralConvolution", "fft_norm", fft_norm, FFT_NORMS)
        if n_modes < 1 or (separable and inputs != outputs):
            got = f"n_modes={n_modes}, separable={separable} for {inputs} inputs and {outputs} outputs"
            wanted = "at least one frequency, and as many outputs as inputs if separable"
            raise argument_error("SpectralConvolution", got, wanted, "correct the numbers")
        self.inputs, self.outputs, self.separable, self.fft_norm = inputs, outputs, separable, fft_norm
        size = (inputs,) if separable else (inputs, outputs)
        self.weight = nn.Parameter(torch.empty(*size, n_modes // 2 + 1, 2))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.keep_float32("weight")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All from N(0, 2 / (inputs + outputs)); a complex weight has that variance in both parts together."""
        std = (2 / (self.inputs + self.outputs)) ** 0.5
        nn.init.normal_(self.weight, std=std * 0.5**0.5)
        if self.bias is not None:
            nn.init.normal_(self.bias, std=std)

    def forward(self, x: Float[Tensor, "batch length inputs"]) -> Float[Tensor, "batch length outputs"]:
        """Filter whole sequences, each one period."""
        y: Tensor = _FILTER_PERIOD(x, self.weight, self.fft_norm)
        return y if self.bias is None else y + self.bias


@register("fno", examples=({"n_modes": 6}, {"n_modes": 9, "separable": True, "fft_norm": "ortho"}))
class FNO(SpectralMixer):
    """Fourier neural operator's spectral convolution over the sequence as one period.

    Args:
        d_model: width of inputs and outputs.
        n_modes, separable, fft_norm, bias: as in :class:`SpectralConvolution`.

    Raises:
        ValueError: as :class:`SpectralConvolution`.
    """

    def __init__(
        self,
        d_model: int,
        *,
        n_modes: int = 16,
        separable: bool = False,
        fft_norm: str = "forward",
        bias: bool = True,
    ) -> None:
        super().__init__(d_model)
        self.spectral_conv = SpectralConvolution(
            d_model, d_model, n_modes=n_modes, separable=separable, fft_norm=fft_norm, bias=bias
        )

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if x.shape[0] == 0:  # no transform of nothing
            return x
        if mask is None:
            return cast(Tensor, self.spectral_conv(x))
        y = torch.zeros_like(x)
        for row, tokens in enumerate(mask):  # the period of a row is its own length
            if bool(tokens.any()):
                y[row, tokens] = self.spectral_conv(x[row, tokens][None])[0]
        return y
