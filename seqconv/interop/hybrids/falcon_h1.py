"""Reading Falcon-H1: Mamba-2 and attention side by side in every layer, and a gated MLP.

Its multipliers are folded into the projections next to them. Read in transformers 5.23.0: ``models/falcon_h1``,
configuration and modeling.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..checkpoint import add_checkpoint
from ..configurations import read_configuration, require
from ..importer import Weights
from ..language_models import Read
from .bamba import BambaConfiguration, attention_layer
from .parts import REMEDY, Layers, Part, gated_mlp, mamba2, rotation


@dataclass(frozen=True, kw_only=True)
class FalconH1Configuration(BambaConfiguration):
    """``FalconH1Config``; ``mlp_expansion_factor`` of files is read by nothing."""

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"mlp_expansion_factor"})
    FIXED: ClassVar[Mapping[str, tuple[Any, ...]]] = {"mamba_use_mlp": (True,)}

    head_dim: int | None = None
    mamba_d_ssm: int | None = 1024
    mamba_norm_before_gate: bool = True
    mamba_rms_norm: bool = False
    projectors_bias: bool = False
    lm_head_multiplier: int | float = 1.0
    embedding_multiplier: int | float = 1.0
    mlp_multipliers: list[float] | None = None
    key_multiplier: int | float = 1.0
    attention_in_multiplier: int | float = 1.0
    attention_out_multiplier: int | float = 1.0
    ssm_multipliers: list[float] | None = None
    ssm_in_multiplier: int | float = 1.0
    ssm_out_multiplier: int | float = 1.0


def read_falcon_h1(config: Mapping[str, Any], weights: Weights) -> Read:
    """``FalconH1ForCausalLM`` of transformers."""
    c = read_configuration(FalconH1Configuration, config)
    require("projectors_bias", c.projectors_bias, (c.mamba_proj_bias,), REMEDY)
    require("head_dim", c.head_dim, (None, c.hidden_size // c.num_attention_heads), REMEDY)
    layers = Layers()
    for i in range(c.num_hidden_layers):
        part = weights.part(f"model.layers.{i}.")
        parts = {"mamba2": _mamba2(c, part.part("mamba.")), "attention": _attention(c, part.part("self_attn."))}
        options = {"mixers": [[name, options] for name, (options, _) in parts.items()]}
        tensors = {f"mixers.{k}.{n}": t for k, (_, found) in enumerate(parts.values()) for n, t in found.items()}
        mlp = _mlp(c, part.part("feed_forward."))
        layers.add((part, "input_layernorm", "pre_ff_layernorm"), ("parallel", (options, tensors)), mlp)
    shape: dict[str, Any] = {
        "hidden_size": c.hidden_size,
        "norm": "rms",
        "norm_options": {"eps": c.rms_norm_eps},
        "embedding_scale": float(c.embedding_multiplier),
        "logits_scale": float(c.lm_head_multiplier),
    }
    return layers.model(c, weights, final="model.final_layernorm", **shape)


def _mamba2(c: FalconH1Configuration, w: Weights) -> Part:
    require("hidden_act", c.hidden_act, ("silu", "swish"), REMEDY)
    inner = int(c.mamba_expand * c.hidden_size) if c.mamba_d_ssm is None else c.mamba_d_ssm
    head_dim = inner // c.mamba_n_heads if c.mamba_d_head == "auto" else c.mamba_d_head
    options, tensors = mamba2(
        w, norm_eps=c.rms_norm_eps, num_heads=c.mamba_n_heads, head_dim=head_dim, d_model=c.hidden_size,
        d_state=c.mamba_d_state, d_conv=c.mamba_d_conv, ngroups=c.mamba_n_groups, dt_limit=c.time_step_limit,
        bias=c.mamba_proj_bias, conv_bias=c.mamba_conv_bias, chunk_size=c.mamba_chunk_size, rmsnorm=c.mamba_rms_norm,
        norm_before_gate=c.mamba_norm_before_gate,
    )  # fmt: skip
    grouped = c.mamba_n_groups * c.mamba_d_state
    rows = [inner, inner, grouped, grouped, c.mamba_n_heads]
    factors = torch.tensor(c.ssm_multipliers or [1.0] * len(rows), dtype=torch.float64)
    each = factors.repeat_interleave(torch.tensor(rows))
    _scale(tensors, "in_proj", each, c.ssm_in_multiplier)
    _scale(tensors, "out_proj", c.ssm_out_multiplier)
    return options, tensors


def _attention(c: FalconH1Configuration, w: Weights) -> Part:
    head_dim = c.hidden_size // c.num_attention_heads
    options, tensors = attention_layer(c, w, rotation(c, head_dim))
    queries, keys = (n * head_dim for n in (c.num_attention_heads, options["num_kv_heads"]))
    each = torch.ones(queries + 2 * keys, dtype=torch.float64)
    each[queries : queries + keys] = c.key_multiplier
    _scale(tensors, "qkv_proj", each, c.attention_in_multiplier)
    _scale(tensors, "o_proj", c.attention_out_multiplier)
    return options, tensors


def _mlp(c: FalconH1Configuration, w: Weights) -> Part:
    options, tensors = gated_mlp(w, act=c.hidden_act, bias=c.mlp_bias)
    gate, down = c.mlp_multipliers or (1.0, 1.0)
    each = torch.ones(2 * options["mlp_hidden"], dtype=torch.float64)
    each[: options["mlp_hidden"]] = gate
    _scale(tensors, "up", each)
    _scale(tensors, "down", down)
    return options, tensors


def _scale(tensors: dict[str, Tensor], name: str, rows: Tensor | float, inputs: float = 1.0) -> None:
    """Multiply the outputs of a linear layer, row by row, and its inputs, if anything is to be multiplied."""
    if inputs == 1.0 and bool((torch.as_tensor(rows) == 1.0).all()):
        return
    for kind in ("weight", "bias"):
        if (tensor := tensors.get(f"{name}.{kind}")) is not None:
            factor = torch.as_tensor(rows, dtype=torch.float64, device=tensor.device) * (
                inputs if kind == "weight" else 1
            )
            factor = factor[:, None] if kind == "weight" and factor.dim() else factor
            tensors[f"{name}.{kind}"] = (tensor.double() * factor).to(tensor.dtype)


add_checkpoint("falcon_h1", read_falcon_h1)
