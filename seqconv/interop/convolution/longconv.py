"""HazyResearch/safari: the layer ``LongConv`` of src/models/sequence/long_conv.py at commit 02220c69.

With ``postact=None`` the original has no output projection. ``block_fft_conv`` replaces the transform by matrices that
may be learned; the result is then no convolution, and not imported. ``causal=False`` makes a kernel twice as long as
the layer's convolution expects, and is not imported either.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...mixers.convolution.longconv import LongConv
from ..importer import Weights, add_importer, options

ORIGINAL = "HazyResearch/safari:LongConv"
KERNEL: dict[str, Any] = {
    "learning_rate": None,
    "lam": 0.1,
    "causal": True,
    "kernel_dropout": 0.0,
    "weight_init": "random",
    "use_ma_smoothing": False,
    "ma_window_len": 7,
    "smooth_freq": False,
}
"""Defaults of the original's ``LongConvKernel``."""

DEFAULTS: Mapping[str, Any] = {
    "d_model": ...,
    "l_max": 1024,
    "channels": 1,
    "bidirectional": False,
    "activation": "gelu",
    "postact": "glu",
    "initializer": None,
    "weight_norm": False,
    "dropout": 0.0,
    "tie_dropout": False,
    "transposed": True,
    "block_fft_conv": False,
    **KERNEL,
}
IGNORED = ("block_fft_conv_args", "verbose")


def filter_options(original: str, o: Any) -> dict[str, Any]:
    """Options of a :class:`~seqconv.filters.explicit.longconv.LongConvFilter` from those of the original's kernel."""
    if not o.causal:
        remedy = "use bidirectional=True, which convolves with the future too"
        raise argument_error(f"from_original({original!r})", "causal=False", "a kernel of l_max taps", remedy)
    smoothing = ("frequency" if o.smooth_freq else "average") if o.use_ma_smoothing else None
    return {
        "threshold": float(o.lam),
        "smoothing": smoothing,
        "smoothing_width": o.ma_window_len,
        "init": o.weight_init,
        "lr": o.learning_rate,
    }


def build(**hyper: Any) -> LongConv:
    """The mixer with the options of the original."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    if o.block_fft_conv:
        remedy = "import the weights with block_fft_conv=False, which computes the same with the exact transform"
        wanted = "block_fft_conv=False: with learned matrices the layer is no convolution, and not causal"
        raise argument_error(f"from_original({ORIGINAL!r})", "block_fft_conv=True", wanted, remedy)
    if o.activation == "glu":
        remedy = "take postact='glu', or another activation"
        raise argument_error(f"from_original({ORIGINAL!r})", "activation='glu'", "one that keeps the width", remedy)
    return LongConv(
        o.d_model,
        l_max=o.l_max,
        channels=o.channels,
        bidirectional=o.bidirectional,
        activation=o.activation,
        final_activation=o.postact,
        initializer=o.initializer,
        weight_norm=o.weight_norm,
        dropout=float(o.dropout),
        tie_dropout=o.tie_dropout,
        kernel_dropout=float(o.kernel_dropout),
        **filter_options(ORIGINAL, o),
    )


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the mixer from that of the original."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    inner = "convolution.filter.inner" if o.kernel_dropout else "convolution.filter"
    converted = {"D": weights.take("D"), f"{inner}.kernel": weights.take("kernel.kernel").flatten(0, 1)}
    if o.postact is None:
        return converted
    prefix = "output_linear.0" if "output_linear.0.bias" in weights else "output_linear"
    converted["out_proj.bias"] = weights.take(f"{prefix}.bias")
    if not o.weight_norm:
        return converted | {"out_proj.weight": weights.take(f"{prefix}.weight")}
    length, direction = weights.take(f"{prefix}.weight_g"), weights.take(f"{prefix}.weight_v")
    original = "out_proj.parametrizations.weight.original"
    return converted | {f"{original}0": length, f"{original}1": direction}


add_importer(ORIGINAL, build=build, convert=convert)
