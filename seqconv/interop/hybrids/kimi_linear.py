"""Reading Kimi Linear: Kimi delta attention, latent attention without positions, MLPs and experts.

Read in transformers 5.23.0: ``models/kimi_linear``, configuration and modeling, and the names of tensors in
``conversion_mapping.py``; the norms inside of latent attention have an ε of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from seqconv_kernels._core.errors import unknown_name

from ..checkpoint import add_checkpoint
from ..configurations import Configuration, read_configuration, require
from ..importer import Weights
from ..language_models import Read
from .parts import ATTENTION, HYBRID, LINEAR, REMEDY, Layers, Part, affine, experts, gated_mlp, layer_kinds

EXPERT = ("w1", "w3", "w2")
"""Gate, value and output projection."""
DELTA = ("head_dim", "num_heads", "short_conv_kernel_size", "kda_layers", "full_attn_layers")
"""Names in ``linear_attn_config``."""
LATENT_NORM_EPS = 1e-6
RENAMED = {"num_expert_group": "n_group", "moe_renormalize": "norm_topk_prob", "num_experts": "num_local_experts",
           "num_experts_per_token": "num_experts_per_tok"}  # fmt: skip
"""Names in files, and those in the configuration's class."""


@dataclass(frozen=True, kw_only=True)
class KimiLinearConfiguration(Configuration):
    """``KimiLinearConfig``.

    Without effect: what all hybrids have; ``head_dim`` and ``qk_head_dim``, which follow from other widths; positions,
    since nothing rotates. The published files name choices of the original's own code too.
    """

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = HYBRID | frozenset({
        "head_dim", "qk_head_dim", "num_shared_experts", "n_shared_experts", "model_max_length", "rope_theta",
        "rope_scaling", "rope_parameters",
    })  # fmt: skip
    FIXED: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "mla_use_nope": (True,), "moe_router_activation_func": ("sigmoid",), "use_grouped_topk": (True,),
        "moe_layer_freq": (1,), "num_nextn_predict_layers": (0,), "mla_use_output_gate": (False,),
    }  # fmt: skip

    hidden_size: int = 2304
    num_hidden_layers: int = 27
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 32
    kv_lora_rank: int = 512
    q_lora_rank: int | None = None
    qk_rope_head_dim: int = 64
    qk_nope_head_dim: int = 128
    v_head_dim: int = 128
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-5
    attention_bias: bool = False
    num_local_experts: int = 256
    num_experts_per_tok: int = 8
    routed_scaling_factor: int | float = 2.446
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = True
    mlp_layer_types: list[str] | None = None
    first_k_dense_replace: int = 1
    layer_types: list[str] | None = None
    linear_attn_config: dict[str, Any] | None = None
    linear_head_dim: int = 128
    linear_num_heads: int = 32
    linear_conv_kernel_dim: int = 4
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 163839
    bos_token_id: int | None = 163584
    eos_token_id: int | list[int] | None = 163586


def read_kimi_linear(config: Mapping[str, Any], weights: Weights) -> Read:
    """``KimiLinearForCausalLM`` of transformers."""
    c = read_configuration(KimiLinearConfiguration, {RENAMED.get(name, name): v for name, v in config.items()})
    require("hidden_act", c.hidden_act, ("silu",), REMEDY)
    for name in c.linear_attn_config or {}:
        if name not in DELTA:
            raise unknown_name("load_checkpoint", "option of linear_attn_config", name, DELTA)
    require("num_key_value_heads", c.num_key_value_heads, (None, c.num_attention_heads), REMEDY)
    dense = ["dense" if i < c.first_k_dense_replace else "sparse" for i in range(c.num_hidden_layers)]
    layers = Layers()
    kinds = layer_kinds(c.layer_types, _kinds(c), c.num_hidden_layers)
    for i, (kind, mlp) in enumerate(zip(kinds, c.mlp_layer_types or dense, strict=True)):
        part = weights.part(f"model.layers.{i}.")
        w = part.part("self_attn.")
        mixer = ("kda", _delta_attention(c, w)) if kind == LINEAR else ("mla", _latent_attention(c, w))
        require("mlp_layer_types", mlp, ("dense", "sparse"), REMEDY)
        # transformers writes its dense layers under the experts' name too.
        old = any(f"block_sparse_moe.{name}.weight" in part for name in ("gate", "gate_proj"))
        w = part.part("block_sparse_moe." if old else "mlp.")
        read = _experts(c, w) if mlp == "sparse" else gated_mlp(w, act=c.hidden_act)
        layers.add((part, "input_layernorm", "post_attention_layernorm"), mixer, read)
    shape: dict[str, Any] = {"hidden_size": c.hidden_size, "norm": "rms", "norm_options": {"eps": c.rms_norm_eps}}
    return layers.model(c, weights, final="model.norm", **shape)


def _kinds(c: KimiLinearConfiguration) -> list[str]:
    """What each layer is; the published files count from 1."""
    given = c.linear_attn_config or {}
    if "full_attn_layers" in given:
        return [ATTENTION if i + 1 in given["full_attn_layers"] else LINEAR for i in range(c.num_hidden_layers)]
    return [ATTENTION if i and i % 4 == 0 else LINEAR for i in range(c.num_hidden_layers)]


def _delta_attention(c: KimiLinearConfiguration, w: Weights) -> Part:
    given = c.linear_attn_config or {}
    options = {
        "num_heads": given.get("num_heads", c.linear_num_heads),
        "head_dim": given.get("head_dim", c.linear_head_dim),
        "d_conv": given.get("short_conv_kernel_size", c.linear_conv_kernel_dim),
        "gate_bias": False,
        "norm_eps": c.rms_norm_eps,
    }
    gate = w.part("forget_gate.") if "forget_gate.A_log" in w else w
    stacked = "conv1d.weight" in w
    taps = [w.take("conv1d.weight")] if stacked else [w.take(f"{n}_conv1d.weight") for n in "qkv"]
    tensors = {name: w.take(name) for name in (*(f"{n}_proj.weight" for n in "qkvbo"), "o_norm.weight")}
    return options, tensors | {
        "conv1d.weight": torch.cat(taps).squeeze(1),
        "f_proj.0.weight": gate.take("f_a_proj.weight"),
        "f_proj.1.weight": gate.take("f_b_proj.weight"),
        "g_proj.0.weight": w.take("g_a_proj.weight"),
        "g_proj.1.weight": w.take("g_b_proj.weight"),
        "A_log": gate.take("A_log").flatten(),
        "dt_bias": gate.take("dt_bias"),
    }


def _latent_attention(c: KimiLinearConfiguration, w: Weights) -> Part:
    options = {
        "num_heads": c.num_attention_heads,
        "head_dim": c.qk_nope_head_dim,
        "shared_dim": c.qk_rope_head_dim,
        "head_v_dim": c.v_head_dim,
        "kv_low_rank_dim": c.kv_lora_rank,
        "q_low_rank_dim": c.q_lora_rank,
        "norm_eps": LATENT_NORM_EPS,
        "bias": c.attention_bias,
    }
    biased = {"kv_a_proj": "kv_a_proj_with_mqa", "o_proj": "o_proj"}
    names = {"kv_norm.weight": "kv_a_layernorm.weight", "kv_b_proj.weight": "kv_b_proj.weight"}
    if c.q_lora_rank is None:
        names["q_proj.weight"] = "q_proj.weight"
    else:
        names |= {"q_norm.weight": "q_a_layernorm.weight", "q_proj.weight": "q_b_proj.weight"}
        biased["q_a_proj"] = "q_a_proj"
    kinds = affine(c.attention_bias)
    names |= {f"{name}.{kind}": f"{original}.{kind}" for name, original in biased.items() for kind in kinds}
    return options, {name: w.take(original) for name, original in names.items()}


def _experts(c: KimiLinearConfiguration, w: Weights) -> Part:
    common: tuple[dict[str, Any], dict[str, Tensor]] = gated_mlp(w.part("shared_experts."), act=c.hidden_act)
    return experts(
        w, number=c.num_local_experts, router="gate.weight", act=c.hidden_act, shared=common,
        names=EXPERT, correction="gate.e_score_correction_bias",
        top_k=c.num_experts_per_tok, score="sigmoid", normalize=c.norm_topk_prob,
        scale=float(c.routed_scaling_factor), num_groups=c.n_group, top_groups=c.topk_group,
    )  # fmt: skip


add_checkpoint("kimi_linear", read_kimi_linear)
