"""Reading the short convolution of LFM2 (``models/lfm2/modeling_lfm2.py`` of transformers 5.23.0)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....mixers.convolution.gated.gated_short_conv import GatedShortConv
from ...importer import Weights, add_importer, options

ORIGINAL = "huggingface/transformers:Lfm2ShortConv"
DEFAULTS = {"hidden_size": 2560, "conv_L_cache": 3, "conv_bias": False}
IGNORED = ("layer_idx", "prefill_length", "seed")


def build(**hyper: Any) -> GatedShortConv:
    """The module for the values of the original's configuration."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    return GatedShortConv(o.hidden_size, d_conv=o.conv_L_cache, bias=o.conv_bias)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """``conv_bias`` is that of all three layers."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    found = {f"{name}_proj.weight": weights.take(f"{name}_proj.weight") for name in ("in", "out")}
    found["conv1d.weight"] = weights.take("conv.weight").squeeze(1)
    if o.conv_bias:
        found |= {f"{name}_proj.bias": weights.take(f"{name}_proj.bias") for name in ("in", "out")}
        found["conv1d.bias"] = weights.take("conv.bias")
    return found


add_importer(ORIGINAL, build=build, convert=convert)
