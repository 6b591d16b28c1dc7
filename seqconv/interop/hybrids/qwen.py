"""Reading Qwen3-Next and the language models of Qwen3.5: gated DeltaNet, gated attention, MLPs and experts.

Read in transformers 5.23.0: ``models/qwen3_next``, ``models/qwen3_5`` and ``models/qwen3_5_moe``, configuration and
modeling. Positions of text are one number for all sections of Qwen3.5's rotation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..checkpoint import add_checkpoint
from ..configurations import read_configuration, require
from ..importer import Weights, get_importer
from ..language_models import Read
from ..linear_attention.delta import QWEN3_5, QWEN3_NEXT
from .parts import (
    ATTENTION,
    LINEAR,
    REMEDY,
    Layers,
    Part,
    RotaryConfiguration,
    affine,
    experts,
    gated_mlp,
    layer_kinds,
    rotation,
)

DELTA = ("hidden_size", "linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim",
         "linear_value_head_dim", "linear_conv_kernel_dim", "rms_norm_eps", "hidden_act")  # fmt: skip
"""Options of the model that each gated DeltaNet layer gets under the same name."""
ROTARY_FACTOR = 0.25


@dataclass(frozen=True, kw_only=True)
class QwenConfiguration(RotaryConfiguration):
    """``Qwen3NextConfig``, and ``Qwen3_5TextConfig`` and ``Qwen3_5MoeTextConfig`` with defaults of their own.

    Without effect: what all hybrids have, ``mamba_ssm_dtype``, and layers that predict further tokens.
    """

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({
        "mamba_ssm_dtype", "mtp_num_hidden_layers", "mtp_use_dedicated_embeddings", "max_window_layers",
    })  # fmt: skip
    FIXED: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "attn_output_gate": (True,), "output_gate_type": ("swish", "silu"), "use_sliding_window": (False,),
        "sliding_window": (None,),
    }  # fmt: skip

    hidden_size: int = 2048
    num_hidden_layers: int = 48
    num_attention_heads: int = 16
    num_key_value_heads: int = 2
    head_dim: int = 256
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    linear_conv_kernel_dim: int = 4
    linear_key_head_dim: int = 128
    linear_value_head_dim: int = 128
    linear_num_key_heads: int = 16
    linear_num_value_heads: int = 32
    decoder_sparse_step: int = 1
    num_experts: int = 512
    num_experts_per_tok: int = 10
    norm_topk_prob: bool = True
    mlp_only_layers: list[int] | None = field(default=None)
    layer_types: list[str] | None = None
    full_attention_interval: int = 4
    tie_word_embeddings: bool = False


@dataclass(frozen=True, kw_only=True)
class Qwen35Configuration(QwenConfiguration):
    """``Qwen3_5TextConfig``, which has no experts."""

    hidden_size: int = 4096
    num_hidden_layers: int = 32
    num_key_value_heads: int = 4
    num_experts: int = 0


@dataclass(frozen=True, kw_only=True)
class Qwen35MoeConfiguration(QwenConfiguration):
    """``Qwen3_5MoeTextConfig``: experts in every layer, whose weights add up to 1."""

    num_hidden_layers: int = 40
    num_experts: int = 256
    num_experts_per_tok: int = 8


def read_qwen3_next(config: Mapping[str, Any], weights: Weights) -> Read:
    """``Qwen3NextForCausalLM`` of transformers."""
    return _read(read_configuration(QwenConfiguration, config), weights, QWEN3_NEXT)


def read_qwen3_5(config: Mapping[str, Any], weights: Weights) -> Read:
    """``Qwen3_5ForCausalLM`` of transformers."""
    return _read(read_configuration(Qwen35Configuration, config), weights, QWEN3_5)


def read_qwen3_5_moe(config: Mapping[str, Any], weights: Weights) -> Read:
    """``Qwen3_5MoeForCausalLM`` of transformers."""
    return _read(read_configuration(Qwen35MoeConfiguration, config), weights, QWEN3_5)


def read_language_model(config: Mapping[str, Any], weights: Weights) -> Read:
    """The language model of ``Qwen3_5ForConditionalGeneration`` or its form with experts, as their ``…ForCausalLM``."""
    weights.ignore_part("model.visual.")
    text = {**config.get("text_config", {}), **{n: config[n] for n in ("tie_word_embeddings",) if n in config}}
    return (read_qwen3_5_moe if config["model_type"] == "qwen3_5_moe" else read_qwen3_5)(text, weights)


def _read(c: QwenConfiguration, weights: Weights, delta_net: str) -> Read:
    interval = (ATTENTION if (i + 1) % c.full_attention_interval == 0 else LINEAR for i in range(c.num_hidden_layers))
    root = "model.language_model." if "model.language_model.norm.weight" in weights else "model."
    weights.ignore_part("mtp.")  # heads for several tokens at once, which transformers leaves out too
    layers = Layers()
    for i, kind in enumerate(layer_kinds(c.layer_types, interval, c.num_hidden_layers)):
        part = weights.part(f"{root}layers.{i}.")
        if kind == LINEAR:
            mixer = "gated_deltanet", _delta_net(c, part.part("linear_attn."), delta_net)
        else:
            mixer = "attention", _attention(c, part.part("self_attn."))
        sparse = c.num_experts and i not in (c.mlp_only_layers or []) and (i + 1) % c.decoder_sparse_step == 0
        mlp = _experts(c, part.part("mlp.")) if sparse else gated_mlp(part.part("mlp."), act=c.hidden_act)
        layers.add((part, "input_layernorm", "post_attention_layernorm"), mixer, mlp)
    norm_options = {"eps": c.rms_norm_eps, "unit_offset": True}
    shape: dict[str, Any] = {"hidden_size": c.hidden_size, "norm": "rms", "norm_options": norm_options}
    return layers.model(c, weights, final=f"{root}norm", embedding=f"{root}embed_tokens.weight", **shape)


def _delta_net(c: QwenConfiguration, w: Weights, original: str) -> Part:
    hyper = {name: getattr(c, name) for name in DELTA}
    require("hidden_act", c.hidden_act, ("silu",), REMEDY)
    options = {
        "num_heads": c.linear_num_key_heads,
        "num_v_heads": c.linear_num_value_heads,
        "head_dim": c.linear_key_head_dim,
        "head_v_dim": c.linear_value_head_dim,
        "d_conv": c.linear_conv_kernel_dim,
        "allow_neg_eigval": False,
        "norm_eps": c.rms_norm_eps,
    }
    return options, get_importer(original).convert(w, hyper)


def _attention(c: QwenConfiguration, w: Weights) -> Part:
    options = {
        "num_heads": c.num_attention_heads,
        "num_kv_heads": c.num_key_value_heads,
        "head_dim": c.head_dim,
        "qkv_bias": c.attention_bias,
        "o_bias": c.attention_bias,
        "qk_norm": True,
        "qk_norm_eps": c.rms_norm_eps,
        "qk_norm_unit_offset": True,
        "output_gate": True,
    } | rotation(c, c.head_dim, factor=ROTARY_FACTOR)
    return options, _gated_attention(c, w) | {f"{n}_norm.weight": w.take(f"{n}_norm.weight") for n in "qk"}


def _gated_attention(c: QwenConfiguration, w: Weights) -> dict[str, Tensor]:
    """One matrix holds, head after head, the rows of queries and those of the gate."""
    tensors: dict[str, Tensor] = {}
    for kind in affine(c.attention_bias):
        rows = w.take(f"q_proj.{kind}").unflatten(0, (c.num_attention_heads, 2, c.head_dim))
        q, gate = (rows[:, i].flatten(0, 1) for i in range(2))
        tensors[f"qkv_proj.{kind}"] = torch.cat([q, *(w.take(f"{n}_proj.{kind}") for n in "kv")])
        tensors |= {f"g_proj.{kind}": gate, f"o_proj.{kind}": w.take(f"o_proj.{kind}")}
    return tensors


def _experts(c: QwenConfiguration, w: Weights) -> Part:
    common = gated_mlp(w.part("shared_expert."), act=c.hidden_act)
    choice: dict[str, Any] = {"top_k": c.num_experts_per_tok, "normalize": c.norm_topk_prob, "shared_gate": True}
    options, tensors = experts(w, number=c.num_experts, router="gate.weight", act=c.hidden_act, shared=common, **choice)
    return options, tensors | {"shared_gate.weight": w.take("shared_expert_gate.weight")}


add_checkpoint("qwen3_next", read_qwen3_next)
add_checkpoint("qwen3_5", read_language_model)
add_checkpoint("qwen3_5_moe", read_language_model)
add_checkpoint("qwen3_5_text", read_qwen3_5)
add_checkpoint("qwen3_5_moe_text", read_qwen3_5_moe)
