"""ctlllll/SGConv: the layer ``GConv`` of gconv_standalone.py at commit 97862df5.

The original measures the norm Z of its kernels in its first forward; a state dict saved before that is completed here
by measuring it. Its ``mode`` is a text that is searched for words; ``weight_norm`` is folded into the weight.
``transposed`` layers drop whole channels (``nn.Dropout2d``) and normalise by a ``TransposedLN`` of one scale and one
shift. ``d_state``, ``shift`` and ``verbose`` are never read, ``initializer`` only draws initial values. With
``hyper_act`` the original fails at its own output layer.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...filters.explicit.sgconv import SGConvFilter
from ...layers.activations import ALIASES
from ...mixers.convolution.sgconv import SGConv
from ..importer import Weights, add_importer, options

ORIGINAL = "ctlllll/SGConv:GConv"
IGNORED = ("d_state", "initializer", "verbose", "shift")
DEFAULTS = {
    "d_model": ...,
    "l_max": 1,
    "channels": 1,
    "bidirectional": False,
    "activation": "gelu",
    "ln": False,
    "postact": None,
    "weight_norm": False,
    "hyper_act": None,
    "dropout": 0.0,
    "transposed": True,
    "linear": False,
    "mode": "cat_randn",
    "init_scale": 0,
    "kernel_dim": 64,
    "n_scales": None,
    "decay_min": 2,
    "decay_max": 2,
    "lr": 1e-3,
}


def build(**hyper: Any) -> SGConv:
    """The mixer with the options of the original."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    if o.hyper_act is not None:
        wanted = "hyper_act=None (the original fails in its forward otherwise)"
        raise argument_error(f"from_original({ORIGINAL!r})", f"hyper_act={o.hyper_act!r}", wanted, "drop hyper_act")
    norm = "none" if not o.ln else "layer_scalar" if o.transposed else "layer"
    return SGConv(
        o.d_model,
        l_max=o.l_max,
        channels=o.channels,
        bidirectional=o.bidirectional,
        activation=ALIASES.get(o.activation, o.activation),
        norm="none" if o.linear else norm,
        final_act=ALIASES.get(o.postact, o.postact),
        dropout=float(o.dropout),
        tie_dropout=o.transposed,
        linear=o.linear,
        kernel_dim=o.kernel_dim,
        decay_min=float(o.decay_min),
        decay_max=float(o.decay_max),
        n_scales=o.n_scales,
        init_scale=o.init_scale,
        rounded_log=True,
        lr=float(o.lr),
        **_mode(o.mode),
    )


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the mixer from that of the original."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    converted = {"D": weights.take("D").flatten()}
    converted |= {f"convolution.filter.{name}": tensor for name, tensor in _filter(weights, hyper).items()}
    if o.linear:
        return converted
    prefix = "output_linear" if o.postact is None else "output_linear.0"
    converted |= {
        "out_proj.weight": _weight(weights, prefix, o.weight_norm),
        "out_proj.bias": weights.take(f"{prefix}.bias"),
    }
    if o.ln and o.transposed:
        converted |= {"norm.shift": weights.take("norm.norm.m"), "norm.scale": weights.take("norm.norm.s")}
    elif o.ln:
        converted |= {"norm.weight": weights.take("norm.norm.weight"), "norm.bias": weights.take("norm.norm.bias")}
    return converted


def _filter(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    template = build(**hyper).convolution.filter
    assert isinstance(template, SGConvFilter)
    scales = len(template.kernels)
    kernels = torch.stack([weights.take(f"kernel_list.{i}").flatten(0, 1) for i in range(scales)])
    multiplier = weights.take("multiplier").flatten().expand(template.multiplier.shape)
    converted = {"kernels": kernels, "multiplier": multiplier, "norm": kernels.new_ones(kernels.shape[1])}
    if template.power is not None:
        converted["power"] = weights.take("decay")
    frozen = weights.take("kernel_norm")
    if bool(weights.take("kernel_norm_initialized")):
        return converted | {"norm": frozen.flatten()}
    with torch.no_grad():
        h = torch.func.functional_call(template, converted, (template.max_length,))
    return converted | {"norm": h.norm(dim=1)}


def _weight(weights: Weights, prefix: str, weight_norm: bool) -> Tensor:
    if not weight_norm:
        return weights.take(f"{prefix}.weight")
    direction, length = weights.take(f"{prefix}.weight_v"), weights.take(f"{prefix}.weight_g")
    return length * nn.functional.normalize(direction, dim=1)


def _mode(mode: str) -> dict[str, Any]:
    if not any(word in mode for word in ("sum", "cat")) or not any(word in mode for word in ("randn", "cos")):
        raise unknown_name(
            f"from_original({ORIGINAL!r})", "mode", mode, ("cat_randn", "sum_randn", "cat_cos", "sum_cos")
        )
    decay = "scale" if "learnable" not in mode else "fixed_power" if "fixed" in mode else "power"
    return {
        "combine": "sum" if "sum" in mode else "cat",
        "upsampling": "nearest" if "nearest" in mode else "linear",
        "init": "randn" if "randn" in mode else "cos",
        "decay": decay,
    }


add_importer(ORIGINAL, build=build, convert=convert)
