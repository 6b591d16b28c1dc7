"""HazyResearch/m2: ``MonarchMixerSequenceMixing`` of bert/src/mm at commit 7d359e8c.

``hyena_training_additions`` normalises the input, of the residual convolution too; such a layer is not imported.
``hyena_w_mod`` is folded into the frequencies.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ....mixers.convolution.gated.m2_bert import M2BERT
from ...importer import Weights, add_importer, options
from .hyena import implicit_filter

ORIGINAL = "HazyResearch/m2:MonarchMixerSequenceMixing"
DEFAULTS: dict[str, Any] = {
    "d_model": ...,
    "l_max": 128,
    "bidirectional": False,
    "hyena_kernel_lr": None,
    "hyena_lr_pos_emb": 1e-5,
    "hyena_w": 10,
    "hyena_w_mod": 1,
    "hyena_wd": 0.1,
    "hyena_emb_dim": 3,
    "hyena_filter_order": 16,
    "residual_long_conv": False,
    "hyena_training_additions": False,
}
IGNORED = ("dropout", "hyena_filter_dropout", "seed")
SINES = 3


def build(**hyper: Any) -> M2BERT:
    """The mixer with the options of the original."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    if o.hyena_training_additions:
        wanted, remedy = "hyena_training_additions=False", "drop it"
        raise argument_error(f"from_original({ORIGINAL!r})", "hyena_training_additions=True", wanted, remedy)
    return M2BERT(
        o.d_model,
        l_max=o.l_max,
        bidirectional=o.bidirectional,
        residual=o.residual_long_conv,
        emb_dim=o.hyena_emb_dim,
        filter_order=o.hyena_filter_order,
        w=float(o.hyena_w * o.hyena_w_mod),
        lr=o.hyena_kernel_lr,
        wd=o.hyena_wd,
        lr_pos_emb=o.hyena_lr_pos_emb,
    )


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the mixer from that of the original."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    converted = {f"in_proj.{part}": weights.take(f"in_linear.{part}") for part in ("weight", "bias")}
    converted |= {f"out_proj.{part}": weights.take(f"out_linear.{part}") for part in ("weight", "bias")}
    converted["short_conv.weight"] = weights.take("short_filter.weight")[:, 0]
    converted["short_conv.bias"] = weights.take("short_filter.bias")
    filters = {"": "filter_fn"} | ({"residual_": "filter_fn2"} if o.residual_long_conv else {})
    for prefix, original in filters.items():
        converted[f"{prefix}D"] = weights.take(f"{original}.bias")
        filter = implicit_filter(weights, original, SINES, lambda t: t)
        filter["frequency"] = filter["frequency"] * o.hyena_w_mod
        if o.bidirectional:
            filter["decays"] = torch.cat([filter["decays"]] * 2)
            filter |= _second(weights.part(f"{original}.implicit_filter_rev."))
        converted |= {f"{prefix}convolution.filter.{name}": tensor for name, tensor in filter.items()}
    return converted


def _second(weights: Weights) -> dict[str, Tensor]:
    """The network of the future, whose sines are those of the past."""
    converted = {}
    for i in range(SINES + 1):
        for part in ("weight", "bias") if i < SINES else ("weight",):
            converted[f"second.layers.{i}.{part}"] = weights.take(f"{2 * i}.{part}")
        weights.ignore(f"{2 * i + 1}.freq")
    return converted


add_importer(ORIGINAL, build=build, convert=convert)
