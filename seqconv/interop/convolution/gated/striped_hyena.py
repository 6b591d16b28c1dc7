"""togethercomputer/stripedhyena: the block with a modal Hyena filter, and the filter alone, without the projections.

Read in stripedhyena/model.py, engine.py and layers.py at commit 7e13f618. With ``column_split_hyena`` the original lays
its projections out head after head, ``[x2 | x1 | v]`` within each. The filter alone keeps that layout, which is that
of its inputs; in the block the rows of the projection are reordered.

``hyena_filter_groups = g`` makes ``hidden_size // g`` systems, which the original's forward can spread over the
channels only if there is one, one per channel, or as many as each has channels; others raise. Their number is read off
the poles where it is not given. ``prefill`` chooses between two ways to compute the state, one of them defective; the
imported mixer computes it exactly in any case.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from ....blocks import Block
from ....mixers.convolution.gated.striped_hyena import GatedModalConvolution, StripedHyena
from ...importer import Weights, add_importer, options

FILTER = "togethercomputer/stripedhyena:ParallelHyenaFilter"
BLOCK = "togethercomputer/stripedhyena:ParallelGatedConvBlock"
ACTIVATIONS: Mapping[str, str] = {"silu": "swiglu", "gelu": "geglu"}
PREFILLS = ("fft", "recurrence")
DEFAULTS: Mapping[str, Any] = {
    "hidden_size": ...,
    "state_size": ...,
    "heads": None,
    "num_attention_heads": None,
    "num_filters": None,
    "hyena_filter_groups": None,
    "short_filter_length": 3,
    "short_filter_bias": True,
    "column_split_hyena": True,
    "long_fir_threshold": None,
    "prefill": "fft",
    "prefill_style": "fft",
    "mlp_activation": "silu",
    "inner_mlp_size": None,
    "inner_size_multiple_of": 64,
    "model_parallel_size": 1,
    "eps": 1e-5,
    "use_flash_rmsnorm": False,
}
IGNORED = (
    "block",
    "compile",
    "depthwise_dtype",
    "hyena_block_dtype",
    "inference_mode",
    "layer_idx",
    "low_mem_mode",
    "mlp_dtype",
    "params_dtype",
    "use_flash_depthwise",
    "use_flashfft",
)


def infer(weights: Weights, *, prefix: str) -> dict[str, Any]:
    """The groups, from the number of systems."""
    systems, channels = weights.peek(f"{prefix}poles").shape[0], weights.peek(f"{prefix}D").shape[0]
    return {"hyena_filter_groups": max(1, channels // max(1, systems))}


def build_filter(**hyper: Any) -> GatedModalConvolution:
    """The operator between the projections."""
    o = _options(FILTER, hyper)
    return GatedModalConvolution(o.hidden_size, heads=_heads(FILTER, o), **_sizes(FILTER, o))


def build_block(**hyper: Any) -> Block:
    """The mixer and the gated MLP, with their norms."""
    o = _options(BLOCK, hyper)
    _heads(BLOCK, o)
    if o.mlp_activation not in ACTIVATIONS:
        raise unknown_name(f"from_original({BLOCK!r})", "mlp_activation", o.mlp_activation, ACTIVATIONS)
    return Block(
        StripedHyena(o.hidden_size, **_sizes(BLOCK, o)),
        norm="rms",
        norm_options=norm_options(o),
        mlp=ACTIVATIONS[o.mlp_activation],
        mlp_hidden=_mlp_width(o),
        mlp_bias=False,
    )


def norm_options(o: Any) -> dict[str, Any]:
    """ε is outside of the root, except in the fused norm of flash_attn (csrc/layer_norm there, at 393882b)."""
    return {"eps": float(o.eps), "eps_outside": not o.use_flash_rmsnorm}


def mixer_options(**hyper: Any) -> dict[str, Any]:
    """Options of the mixer in the block, from the hyper-parameters of the block.

    Raises:
        ValueError: hyper-parameters that the original does not have, or fails with.
    """
    o = _options(BLOCK, hyper)
    _heads(BLOCK, o)
    return _sizes(BLOCK, o)


def by_part(rows: Tensor, heads: int) -> Tensor:
    """Three parts one after the other, from rows laid out head after head with the three parts of each together."""
    by_head: Tensor = rows.unflatten(0, (heads, 3, -1))
    return by_head.transpose(0, 1).flatten(0, 2)


def convert_filter(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the module from that of the original."""
    return {
        "short_conv.weight": weights.take("short_filter_weight")[:, 0],
        "short_conv.bias": weights.take("short_filter_bias"),
        "D": weights.take("D"),
        "convolution.filter.poles": weights.take("poles")[:, :, 0],
        "convolution.filter.residues": weights.take("residues")[:, :, 0],
    }


def convert_block(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the module from that of the original."""
    heads = _heads(BLOCK, _options(BLOCK, hyper))
    inner = convert_filter(weights.part("filter."), hyper)
    inner |= {name: by_part(inner[name], heads) for name in ("short_conv.weight", "short_conv.bias")}
    return {
        "mixer.in_proj.weight": by_part(weights.take("projections.weight"), heads),
        "mixer.in_proj.bias": by_part(weights.take("projections.bias"), heads),
        "mixer.out_proj.weight": weights.take("out_filter_dense.weight"),
        "mixer.out_proj.bias": weights.take("out_filter_dense.bias"),
        **{f"mixer.gated_conv.{name}": tensor for name, tensor in inner.items()},
        "mixer_norm.weight": weights.take("pre_norm.scale"),
        "mlp_norm.weight": weights.take("post_norm.scale"),
        "mlp.up.weight": torch.cat([weights.take("mlp.l1.weight"), weights.take("mlp.l2.weight")]),
        "mlp.down.weight": weights.take("mlp.l3.weight"),
    }


def _options(original: str, hyper: Mapping[str, Any]) -> Any:
    o = options(original, hyper, DEFAULTS, IGNORED)
    for name in ("prefill", "prefill_style"):
        if getattr(o, name) not in PREFILLS:
            raise unknown_name(f"from_original({original!r})", name, getattr(o, name), PREFILLS)
    if not o.short_filter_bias:
        wanted = "a bias of the short filter (the original fails in its forward otherwise)"
        raise argument_error(
            f"from_original({original!r})", "short_filter_bias=False", wanted, "drop short_filter_bias"
        )
    if o.long_fir_threshold is not None:
        got, wanted = f"long_fir_threshold={o.long_fir_threshold}", "None (the original reverses the taps otherwise)"
        raise argument_error(f"from_original({original!r})", got, wanted, "leave it out")
    if o.num_filters is not None and (o.num_filters < 1 or o.hidden_size % o.num_filters):
        got, wanted = f"num_filters={o.num_filters}", f"a divisor of hidden_size={o.hidden_size}"
        raise argument_error(f"from_original({original!r})", got, wanted, "correct the sizes")
    return o


def _sizes(original: str, o: Any) -> dict[str, Any]:
    """Options that the filter and the mixer have in common."""
    groups = o.hidden_size if o.hyena_filter_groups is None else o.hyena_filter_groups
    systems = o.hidden_size // groups if groups > 0 else 0
    if systems not in (1, o.hidden_size) and systems**2 != o.hidden_size:
        wanted = "1, hidden_size, or its square root (the original fails in its forward otherwise)"
        got = f"hyena_filter_groups={groups} for hidden_size={o.hidden_size}"
        raise argument_error(f"from_original({original!r})", got, wanted, "correct the groups")
    return {
        "d_state": o.state_size,
        "n_ssm": systems,
        "d_conv": o.short_filter_length,
    }


def _heads(original: str, o: Any) -> int:
    """Heads in the layout of the projections."""
    given = o.num_attention_heads if o.heads is None else o.heads
    heads = 1 if given is None or not o.column_split_hyena else int(given)
    if heads < 1 or o.hidden_size % heads:
        got, wanted = f"{heads} heads", f"a divisor of hidden_size={o.hidden_size}"
        raise argument_error(f"from_original({original!r})", got, wanted, "correct the sizes")
    return heads


def _mlp_width(o: Any) -> int:
    """8/3 of the width, rounded up to a multiple, where no width is given."""
    if o.inner_mlp_size is not None:
        return int(o.inner_mlp_size)
    multiple = o.inner_size_multiple_of * o.model_parallel_size
    return int(-(-int(2 * o.hidden_size * 4 / 3) // multiple) * multiple)


add_importer(
    FILTER, build=build_filter, convert=convert_filter, infer=partial(infer, prefix=""), mixers=("striped_hyena",)
)
add_importer(BLOCK, build=build_block, convert=convert_block, infer=partial(infer, prefix="filter."))
