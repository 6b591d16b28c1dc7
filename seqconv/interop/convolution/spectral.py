"""Layers in the spectrum: RUCAIBox/FMLP-Rec, neuraloperator/neuraloperator, LUMIA-Group/FourierTransformer.

Read in modules.py of FMLP-Rec (commit f3c42856), neuralop/layers/spectral_convolution.py of neuraloperator (93d3f063),
in one and two dimensions with a dense weight, and LRA/code/attention_dct.py of FourierTransformer (cba1dc22).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...layers.dct import SpectralResampling
from ...mixers.convolution.spectral import FMLP, SpectralConvolution
from ...vision.mixers.frequency.spectral import SpectralConvolution2d
from ..importer import Weights, add_importer, options

FILTER_LAYER = "RUCAIBox/FMLP-Rec:FilterLayer"
SPECTRAL_CONV = "neuraloperator/neuraloperator:SpectralConv"
DCT = "LUMIA-Group/FourierTransformer:dct/idct downsampling"
FILTER_DEFAULTS: dict[str, Any] = {"max_seq_length": ..., "hidden_size": ..., "hidden_dropout_prob": 0.0}
SPECTRAL_DEFAULTS: dict[str, Any] = {
    "in_channels": ...,
    "out_channels": ...,
    "n_modes": ...,
    "separable": False,
    "fft_norm": "forward",
    "bias": True,
    "output_shape": None,
}
DCT_DEFAULTS: dict[str, Any] = {"dct_percentage": ...}


def build_filter(**hyper: Any) -> FMLP:
    """The layer of FMLP-Rec."""
    o = options(FILTER_LAYER, hyper, FILTER_DEFAULTS, ("seed",))
    return FMLP(o.hidden_size, l_max=o.max_seq_length, dropout=float(o.hidden_dropout_prob))


def convert_filter(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the mixer from that of FMLP-Rec's layer."""
    return {
        "weight": weights.take("complex_weight")[0],
        "norm.weight": weights.take("LayerNorm.weight"),
        "norm.bias": weights.take("LayerNorm.bias"),
    }


def build_spectral(**hyper: Any) -> SpectralConvolution | SpectralConvolution2d:
    """The convolution of neuraloperator in one or two dimensions."""
    o = options(SPECTRAL_CONV, hyper, SPECTRAL_DEFAULTS, ("size", "seed"))
    modes = _modes(o.n_modes)
    if len(modes) > 2 or o.output_shape is not None:
        got, wanted = f"n_modes={o.n_modes}, output_shape={o.output_shape}", "one or two dimensions, at their own size"
        raise argument_error(f"from_original({SPECTRAL_CONV!r})", got, wanted, "pass one or two numbers of modes")
    common = {"separable": o.separable, "fft_norm": o.fft_norm, "bias": bool(o.bias)}
    if len(modes) == 1:
        return SpectralConvolution(o.in_channels, o.out_channels, n_modes=modes[0], **common)
    return SpectralConvolution2d(o.in_channels, o.out_channels, n_modes=modes, **common)


def convert_spectral(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the convolution from that of neuraloperator."""
    converted = {"weight": torch.view_as_real(weights.take_complex("weight"))}
    return converted | ({"bias": weights.take("bias").flatten()} if hyper.get("bias", True) else {})


def _modes(n_modes: Any) -> list[int]:
    return [n_modes] if isinstance(n_modes, int) else list(n_modes)


def build_dct(**hyper: Any) -> SpectralResampling:
    """The downsampling of the Fourier Transformer, with its amplitudes."""
    o = options(DCT, hyper, DCT_DEFAULTS, ("D", "seed"))
    return SpectralResampling(o.dct_percentage, keep_amplitude=False)


def convert_dct(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """There are no parameters."""
    return {}


add_importer(FILTER_LAYER, build=build_filter, convert=convert_filter)
add_importer(SPECTRAL_CONV, build=build_spectral, convert=convert_spectral, mixers=("fno",))
add_importer(DCT, build=build_dct, convert=convert_dct)
