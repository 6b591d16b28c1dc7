"""athms/mad-lab: the layer ``MultiHeadHyenaOperator`` with implicit filters.

Read in mad/model/layers/hyena.py and mad/model/layers/featurization/hyena_filter.py at commit 0f49a452. What the
original calls ``num_heads`` is the width of a head here, and the other way round: its outer products are ``num_heads``
wide, and it has one filter for each of width/num_heads groups. Options of its filter are in a configuration of their
own, so they are read off the shapes of the tensors. Of its other options, ``num_blocks``, ``outer_mixing``,
``post_order_ffn``, ``dropout`` and ``activation`` change nothing in its forward.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ....mixers.convolution.gated.multihyena import MultiHyena
from ...importer import Weights, add_importer, options
from .hyena import implicit_filter

ORIGINAL = "athms/mad-lab:MultiHeadHyenaOperator"
DEFAULTS = {
    "dim": ...,
    "max_length": ...,
    "order": 2,
    "heads": None,
    "num_heads": None,
    "inner_factor": 1,
    "proj_groups": 4,
    "short_filter_order": 3,
    "filter_order": 16,
    "emb_dim": 3,
    "depth_implicit": 2,
    "w": 1.0,
    "modulate": True,
    "shift": 0.0,
}
IGNORED = (
    "activation",
    "dropout",
    "fused_bias_fc",
    "layer_idx",
    "long_conv_cfg",
    "num_blocks",
    "outer_mixing",
    "post_order_ffn",
)


def infer(weights: Weights) -> dict[str, Any]:
    """Sizes of the filter's network."""
    network = weights.part("long_conv.filter.implicit_filter.")
    filter_order, emb_dim = network.peek("0.weight").shape
    depth = sum(1 for layer in range(2, 64, 2) if f"{layer}.bias" in network)
    return {"filter_order": filter_order, "emb_dim": emb_dim, "depth_implicit": depth}


def build(**hyper: Any) -> MultiHyena:
    """The mixer with the options of the original."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    width, head_dim = o.dim * o.inner_factor, _head_dim(o)
    if o.order != 2 or width % head_dim:
        got = f"order={o.order}, num_heads={head_dim}"
        raise argument_error(
            f"from_original({ORIGINAL!r})", got, f"order=2 and a divisor of {width}", "correct the sizes"
        )
    return MultiHyena(
        o.dim,
        l_max=o.max_length,
        num_heads=width // head_dim,
        expand=o.inner_factor,
        proj_groups=o.proj_groups,
        d_conv=o.short_filter_order,
        filter_order=o.filter_order,
        emb_dim=o.emb_dim,
        num_inner_mlps=o.depth_implicit,
        w=float(o.w),
        modulate=o.modulate,
        shift=float(o.shift),
    )


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the mixer from that of the original."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    filter = implicit_filter(weights, "long_conv.filter", o.depth_implicit + 1, lambda t: t)
    return {
        "in_proj.weight": weights.take("in_proj.weight"),
        "in_proj.bias": weights.take("in_proj.bias"),
        "out_proj.weight": weights.take("out_proj.weight"),
        "out_proj.bias": weights.take("out_proj.bias"),
        "short_conv.weight": weights.take("short_filter.weight")[:, 0],
        "short_conv.bias": weights.take("short_filter.bias"),
        "D": weights.take("long_conv.bias"),
        **{f"convolution.filter.{name}": tensor for name, tensor in filter.items()},
    }


def _head_dim(o: Any) -> int:
    given = o.num_heads if o.heads is None else o.heads
    return 1 if given is None else int(given)


add_importer(ORIGINAL, build=build, convert=convert, infer=infer)
