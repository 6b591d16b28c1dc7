"""Reading Jamba: Mamba with normalised parameters, attention without positions, MLPs and experts.

Read in transformers 5.23.0: ``models/jamba``, configuration and modeling.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..checkpoint import add_checkpoint
from ..configurations import Configuration, read_configuration, require
from ..importer import Weights
from ..language_models import Read
from ..state_space.mamba import convert_mamba, mamba_options
from .parts import HYBRID, REMEDY, Layers, Part, attention, experts, gated_mlp

NORMS = {"dt_norm": "dt_layernorm", "B_norm": "b_layernorm", "C_norm": "c_layernorm"}


@dataclass(frozen=True, kw_only=True)
class JambaConfiguration(Configuration):
    """``JambaConfig``.

    Without effect: what all hybrids have, and two names of older files.
    """

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = HYBRID | frozenset({"calc_logits_for_entire_prompt", "n_ctx"})
    FIXED: ClassVar[Mapping[str, tuple[Any, ...]]] = {"mamba_inner_layernorms": (True,), "sliding_window": (None,)}

    hidden_size: int = 4096
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 8
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    num_experts: int = 16
    num_experts_per_tok: int = 2
    expert_layer_period: int = 2
    expert_layer_offset: int = 1
    attn_layer_period: int = 8
    attn_layer_offset: int = 4
    mamba_d_state: int = 16
    mamba_d_conv: int = 4
    mamba_expand: int = 2
    mamba_dt_rank: int | Literal["auto"] = "auto"
    mamba_conv_bias: bool = True
    mamba_proj_bias: bool = False
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2


def read_jamba(config: Mapping[str, Any], weights: Weights) -> Read:
    """``JambaForCausalLM`` of transformers."""
    c = read_configuration(JambaConfiguration, config)
    layers = Layers()
    for i in range(c.num_hidden_layers):
        part = weights.part(f"model.layers.{i}.")
        if i % c.attn_layer_period == c.attn_layer_offset:
            mixer = "attention", _attention(c, part.part("self_attn."))
        else:
            mixer = "mamba", _mamba(c, part.part("mamba."))
        w = part.part("feed_forward.")
        if c.num_experts > 1 and i % c.expert_layer_period == c.expert_layer_offset:
            choice: dict[str, Any] = {"top_k": c.num_experts_per_tok, "normalize": False}
            mlp = experts(w, number=c.num_experts, router="router.weight", act=c.hidden_act, **choice)
        else:
            mlp = gated_mlp(w, act=c.hidden_act)
        layers.add((part, "input_layernorm", "pre_ff_layernorm"), mixer, mlp)
    shape: dict[str, Any] = {"hidden_size": c.hidden_size, "norm": "rms", "norm_options": {"eps": c.rms_norm_eps}}
    return layers.model(c, weights, final="model.final_layernorm", **shape)


def _attention(c: JambaConfiguration, w: Weights) -> Part:
    heads = {"num_heads": c.num_attention_heads, "num_kv_heads": c.num_key_value_heads or c.num_attention_heads}
    return {**heads, "rotary": False}, attention(w)


def _mamba(c: JambaConfiguration, w: Weights) -> Part:
    require("hidden_act", c.hidden_act, ("silu", "swish"), REMEDY)
    hyper = {
        "d_model": c.hidden_size,
        "d_state": c.mamba_d_state,
        "d_conv": c.mamba_d_conv,
        "expand": c.mamba_expand,
        "dt_rank": c.mamba_dt_rank,
        "bias": c.mamba_proj_bias,
        "conv_bias": c.mamba_conv_bias,
    }
    options = mamba_options(**hyper) | {"parameter_norm": "weighted", "parameter_norm_eps": c.rms_norm_eps}
    tensors = {f"{name}.weight": w.take(f"{original}.weight") for name, original in NORMS.items()}
    return {name: v for name, v in options.items() if name != "d_model"}, tensors | convert_mamba(w, hyper)


add_checkpoint("jamba", read_jamba)
