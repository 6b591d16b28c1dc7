"""Reading Evo 2 as vortex stores it: StripedHyena 2 with short, medium and long filters, attention, gated MLPs.

Read in vortex/model/{model,engine,layers,attention,rotary,positional_embeddings,utils}.py and configs of Zymrael/vortex
at cb229ae5, and evo2/models.py and configs of ArcInstitute/evo2 at 53f19599. A checkpoint is one pickled state dict,
``evo2_7b.pt``, and the YAML file of its configuration.

* ``evo2_style_activations``: gated MLPs after layer 0 have no activation.
* ``interleave``: the projections lie channel by channel, x2, x1 and v of each together; ``column_split_hyena``: head
  by head; ``column_split``: those of attention lie head by head.
* ``use_fp8_input_projections`` rounds inputs and weights of projections; here they keep the dtype of the weights, as
  in vortex without Transformer Engine. Its scales (``_extra_state``) are left out.

vortex decodes with wrong taps after prompts that are shorter than its filters; steps here equal the parallel form.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..checkpoint import add_checkpoint
from ..configurations import read_configuration, require
from ..convolution.gated.striped_hyena import ACTIVATIONS, by_part
from ..convolution.gated.striped_hyena2 import LONG_TAPS, check_groups
from ..convolution.gated.striped_hyena2 import convert as convert_operator
from ..importer import Weights
from ..language_models import Read
from .striped_hyena import (
    UNREAD,
    HyenaConfiguration,
    attention_block,
    attention_options,
    check,
    layer,
    layer_error,
    model,
    norms_and_mlp,
)

SHORT, MEDIUM, LONG = "hcs", "hcm", "hcl"


@dataclass(frozen=True, kw_only=True)
class Evo2Configuration(HyenaConfiguration):
    """The YAML file of vortex.

    ``hyena_filter_groups`` and ``hcl_filter_groups`` are read by nothing: long filters have a group per channel.
    """

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({
        "hyena_filter_groups", "hcl_filter_groups", "use_fp8_input_projections", "ground_truth_activations_path",
        "use_hcs_kernel", "use_hcm_kernel", "use_hcl_kernel",
    })  # fmt: skip

    hcs_layer_idxs: list[int]
    hcm_layer_idxs: list[int]
    hcl_layer_idxs: list[int]
    hcs_filter_length: int
    hcm_filter_length: int
    hcs_filter_groups: int
    hcm_filter_groups: int
    interleave: bool = False
    hyena_flip_x1x2: bool = False
    hyena_out_proj_bias: bool
    column_split: bool = True
    rotary_emb_base: int | float = 1000000
    mlp_activation: str = "gelu"
    evo2_style_activations: bool = False


def read(config: Mapping[str, Any], weights: Weights) -> Read:
    """``StripedHyena`` of vortex."""
    c = read_configuration(Evo2Configuration, config)
    check(c)
    require("mlp_activation", c.mlp_activation, tuple(ACTIVATIONS), UNREAD)
    require("long_fir_threshold", c.long_fir_threshold, (None,), UNREAD)
    if c.column_split:
        require("proj_groups", c.proj_groups, (1,), "the original splits by heads with as many keys as queries alone")
    specs: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for i in range(c.num_layers):
        part = weights.part(f"blocks.{i}.")
        if i in c.attn_layer_idxs:
            mixer, converted = ["attention", attention_options(c)], _attention(c, part)
        else:
            mixer, converted = _hyena(c, part, _operator(c, i))
        mlp = "bilinear" if i > 0 and c.evo2_style_activations else ACTIVATIONS[c.mlp_activation]
        specs.append(layer(c, mixer, mlp, converted))
        tensors |= {f"model.backbone.blocks.{i}.{name}": tensor for name, tensor in converted.items()}
    return model(c, weights, specs, tensors)


def _operator(c: Evo2Configuration, index: int) -> str:
    """Which filter a layer has, by the lists in vortex' own order."""
    kinds = {LONG: c.hcl_layer_idxs, MEDIUM: c.hcm_layer_idxs, SHORT: c.hcs_layer_idxs}
    found = [kind for kind, layers in kinds.items() if index in layers]
    if not found:
        raise layer_error(index)
    return found[0]


def _attention(c: Evo2Configuration, w: Weights) -> dict[str, Tensor]:
    tensors = attention_block(c, w)
    split = [name for name in tensors if name.startswith("mixer.qkv_proj")] if c.column_split else []
    return tensors | {name: by_part(tensors[name], c.num_attention_heads) for name in split}


def _hyena(c: Evo2Configuration, w: Weights, kind: str) -> tuple[list[Any], dict[str, Tensor]]:
    """Mixer with its options, and the tensors of the block."""
    width = None if kind == LONG else getattr(c, f"{kind}_filter_length")
    groups = c.hidden_size if kind == LONG else getattr(c, f"{kind}_filter_groups")
    operator = "long" if width is None else "medium" if width >= LONG_TAPS else "short"
    options = {
        "operator": operator,
        "d_conv": c.short_filter_length,
        "conv_bias": c.short_filter_bias,
        "in_proj_bias": c.qkv_proj_bias,
        "out_proj_bias": c.hyena_out_proj_bias,
    }
    options |= {"d_state": c.state_size, "factored": False} if kind == LONG else {"width": width, "groups": groups}
    options |= {"decay": None} if operator == "medium" else {}
    hyper = {"hidden_size": c.hidden_size, "num_attention_heads": c.num_attention_heads, "groups": groups}
    hyper |= {"inner": width, "state_size": c.state_size, "short_filter_bias": c.short_filter_bias}
    check_groups(SimpleNamespace(**hyper))
    w.ignore("projections._extra_state")
    rows = _rows(c)
    inner = convert_operator(w.part("filter."), hyper)
    inner |= {name: tensor[rows] for name, tensor in inner.items() if name.startswith("short_conv.")}
    tensors = {f"mixer.gated_conv.{name}": tensor for name, tensor in inner.items()}
    for name in ["weight", "bias"] if c.qkv_proj_bias else ["weight"]:
        tensors[f"mixer.in_proj.{name}"] = w.take(f"projections.{name}")[rows]
    for name in ["weight", "bias"] if c.hyena_out_proj_bias else ["weight"]:
        tensors[f"mixer.out_proj.{name}"] = w.take(f"out_filter_dense.{name}")
    return ["striped_hyena2", options], tensors | norms_and_mlp(w)


def _rows(c: Evo2Configuration) -> Tensor:
    """Rows of the projection in the order x2, x1, v."""
    order = torch.arange(3 * c.hidden_size)
    if c.interleave:
        order = order.unflatten(0, (-1, 3)).T.flatten()
    x2, x1, v = by_part(order, c.num_attention_heads if c.column_split_hyena else 1).chunk(3)
    return torch.cat([x1, x2, v] if c.hyena_flip_x1x2 else [x2, x1, v])


add_checkpoint("evo2", read)
