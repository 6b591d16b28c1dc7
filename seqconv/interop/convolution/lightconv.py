"""facebookresearch/fairseq: ``LightweightConv1dTBC`` and ``DynamicConv1dTBC`` of fairseq/modules at commit 3d262bb2.

Both take (length, batch, channels) there. Where the window is wider than the sequence the unfolded form of the dynamic
one normalises over the taps that reach tokens alone; its expanded form, its steps and the imported layer over all taps.
``renorm_padding`` and ``in_proj`` are not imported.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...mixers.convolution.lightconv import DynamicConvolution, LightConvolution
from ..importer import Weights, add_importer, options

LIGHT = "facebookresearch/fairseq:LightweightConv1dTBC"
DYNAMIC = "facebookresearch/fairseq:DynamicConv1dTBC"
LIGHT_DEFAULTS: dict[str, Any] = {
    "input_size": ...,
    "kernel_size": 1,
    "padding_l": None,
    "num_heads": 1,
    "weight_dropout": 0.0,
    "weight_softmax": False,
    "bias": False,
}
DYNAMIC_DEFAULTS: dict[str, Any] = {
    **LIGHT_DEFAULTS,
    "renorm_padding": False,
    "conv_bias": False,
    "query_size": None,
    "in_proj": False,
}
IGNORED = ("T",)


def _common(original: str, o: Any) -> dict[str, Any]:
    """Options of both convolutions."""
    ahead = -1 if o.padding_l is None else o.kernel_size - 1 - o.padding_l
    if ahead < 0:
        got, wanted = f"padding_l={o.padding_l}", f"a padding of at most kernel_size - 1 = {o.kernel_size - 1}"
        raise argument_error(f"from_original({original!r})", got, wanted, "pass padding_l")
    return {
        "width": o.kernel_size,
        "num_heads": o.num_heads,
        "softmax": o.weight_softmax,
        "weight_dropout": float(o.weight_dropout),
        "lookahead": ahead,
        "bias": o.bias,
    }


def build_light(**hyper: Any) -> LightConvolution:
    """The convolution with fixed taps."""
    o = options(LIGHT, hyper, LIGHT_DEFAULTS, IGNORED)
    return LightConvolution(o.input_size, **_common(LIGHT, o))


def convert_light(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the convolution from that of the original."""
    converted = {"convolution.filter.weight": weights.take("weight")[:, 0].flip(-1)}
    return converted | ({"bias": weights.take("bias")} if hyper.get("bias") else {})


def build_dynamic(**hyper: Any) -> DynamicConvolution:
    """The convolution with taps of every token."""
    o = options(DYNAMIC, hyper, DYNAMIC_DEFAULTS, IGNORED)
    if o.renorm_padding or o.in_proj or o.query_size not in (None, o.input_size):
        got = f"renorm_padding={o.renorm_padding}, in_proj={o.in_proj}, query_size={o.query_size}"
        raise argument_error(f"from_original({DYNAMIC!r})", got, "none of them", "drop them")
    return DynamicConvolution(o.input_size, conv_bias=o.conv_bias, **_common(DYNAMIC, o))


def convert_dynamic(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the convolution from that of the original."""
    parts = ("weight", "bias") if hyper.get("bias") else ("weight",)
    converted = {f"weight_proj.{part}": weights.take(f"weight_linear.{part}") for part in parts}
    return converted | ({"bias": weights.take("conv_bias")} if hyper.get("conv_bias") else {})


add_importer(LIGHT, build=build_light, convert=convert_light, mixers=("lightconv",))
add_importer(DYNAMIC, build=build_dynamic, convert=convert_dynamic, mixers=("dynamicconv",))
