"""Reading the short convolutions of Inkling-2 (``models/inkling2/modeling_inkling2.py`` of transformers 5.23.0)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...mixers.convolution.residual_conv import ResidualShortConvolution
from ..importer import Weights, add_importer, options

STATIC = "huggingface/transformers:Inkling2ShortConvolution"
DYNAMIC = "huggingface/transformers:Inkling2DynamicShortConvolution"
STATIC_DEFAULTS: dict[str, Any] = {"hidden_size": ..., "conv_kernel_size": ...}
DYNAMIC_DEFAULTS: dict[str, Any] = {**STATIC_DEFAULTS, "input_size": ..., "num_heads": ...}
IGNORED = ("layer_idx", "conv_idx", "mask", "seed")


def _build_static(**hyper: Any) -> ResidualShortConvolution:
    o = options(STATIC, hyper, STATIC_DEFAULTS, IGNORED)
    return ResidualShortConvolution(o.hidden_size, o.conv_kernel_size)


def _convert_static(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The last tap there is that of the current token."""
    return {"weight": w.take("conv1d.weight")[:, 0].flip(-1)}


def _build_dynamic(**hyper: Any) -> ResidualShortConvolution:
    o = options(DYNAMIC, hyper, DYNAMIC_DEFAULTS, IGNORED)
    return ResidualShortConvolution(
        o.hidden_size, o.conv_kernel_size, inputs=o.input_size, num_heads=o.num_heads
    )  # fmt: skip


def _convert_dynamic(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The first tap there is that of the current token, as here."""
    return {"weight": w.take("static_weight").T, "weight_proj.weight": w.take("weight_proj.weight")}


add_importer(STATIC, build=_build_static, convert=_convert_static, mixers=("residual_conv",))
add_importer(DYNAMIC, build=_build_dynamic, convert=_convert_dynamic, mixers=("residual_conv",))
