"""Reading hybrids of transformers whose layers differ: RecurrentGemma and LFM2.

Both are blocks of a mixer and a gated MLP, each after a norm; some layers hold attention. Read in transformers 5.23.0:
``models/recurrent_gemma`` and ``models/lfm2``, configuration and modeling. RecurrentGemma takes padding on the left for
tokens; here it is padding.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from .checkpoint import add_checkpoint
from .configurations import Configuration, read_configuration, require
from .convolution.gated.gated_short_conv import convert as convert_short_conv
from .importer import Weights
from .language_models import MIXER_NORM, MLP_NORM, Read, language_model
from .recurrent.rg_lru import ACTIVATIONS
from .recurrent.rg_lru import convert as convert_rg_lru

MLPS = {"gelu_pytorch_tanh": "geglu_tanh", "gelu": "geglu", "silu": "swiglu"}
"""The gated MLP of an activation."""
LAYERS = "load it with transformers' own AutoModelForCausalLM.from_pretrained"


@dataclass(frozen=True, kw_only=True)
class RecurrentGemmaConfiguration(Configuration):
    """``RecurrentGemmaConfig``.

    Left out: ``use_cache`` (speed), ``w_init_variance_scale`` (initial values), ``attention_dropout``.
    """

    hidden_size: int = 2560
    intermediate_size: int = 7680
    num_hidden_layers: int = 26
    num_attention_heads: int = 10
    num_key_value_heads: int | None = None
    lru_width: int | None = None
    attention_window_size: int = 2048
    conv1d_width: int = 4
    logits_soft_cap: float = 30.0
    rms_norm_eps: float = 1e-6
    hidden_activation: str = "gelu_pytorch_tanh"
    block_types: list[str] = field(default_factory=lambda: ["recurrent", "recurrent", "attention"])
    attention_bias: bool = False
    rope_parameters: dict[str, Any] | None = None
    rope_theta: float = 10000.0
    partial_rotary_factor: float = 0.5
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 1


@dataclass(frozen=True, kw_only=True)
class Lfm2Configuration(Configuration):
    """``Lfm2Config``.

    Left out: ``initializer_range`` (initial values), ``use_cache`` (speed), ``max_position_embeddings``, and what the
    shapes tell: ``intermediate_size`` and its adjustments.
    """

    hidden_size: int = 2560
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    head_dim: int | None = None
    norm_eps: float = 1e-5
    conv_bias: bool = False
    conv_L_cache: int = 3
    full_attn_idxs: list[int] | None = None
    layer_types: list[str] | None = None
    rope_parameters: dict[str, Any] | None = None
    rope_theta: float = 1000000.0
    tie_word_embeddings: bool = True
    tie_embedding: bool | None = None
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2


def read_recurrent_gemma(config: Mapping[str, Any], weights: Weights) -> Read:
    """``RecurrentGemmaForCausalLM`` of transformers."""
    c = read_configuration(RecurrentGemmaConfiguration, config)
    require("hidden_activation", c.hidden_activation, tuple(MLPS), LAYERS)
    for kind in c.block_types:
        require("block_types", kind, ("recurrent", "attention"), LAYERS)
    hyper: dict[str, Any] = {"hidden_size": c.hidden_size, "lru_width": c.lru_width}
    hyper |= {"num_attention_heads": c.num_attention_heads, "conv1d_width": c.conv1d_width}
    options = _gemma_mixers(c)
    specs, tensors = [], {"model.backbone.norm.weight": weights.take("model.final_norm.weight")}
    for i in range(c.num_hidden_layers):
        kind = c.block_types[i % len(c.block_types)]
        part, block = weights.part(f"model.layers.{i}."), f"model.backbone.blocks.{i}"
        mixer = part.part("temporal_block.")
        found = (
            convert_rg_lru(mixer, hyper) if kind == "recurrent" else _attention(mixer, "o_proj", c.attention_bias, True)
        )
        specs.append(["rg_lru" if kind == "recurrent" else "attention", options[kind]])
        tensors |= {f"{block}.mixer.{name}": tensor for name, tensor in found.items()}
        tensors[f"{block}.{MIXER_NORM}.weight"] = part.take("temporal_pre_norm.weight")
        tensors[f"{block}.{MLP_NORM}.weight"] = part.take("channel_pre_norm.weight")
        tensors |= _gated_mlp(part.part("mlp_block."), f"{block}.mlp", ("gate_proj", "up_proj", "down_proj"), bias=True)
    norm_options = {"eps": c.rms_norm_eps, "unit_offset": True}
    shape: dict[str, Any] = {"hidden_size": c.hidden_size, "norm": "rms", "norm_options": norm_options}
    table = "model.embed_tokens.weight"
    read, tensors = language_model(c, weights, table, specs, tensors, shape, c.tie_word_embeddings)
    scale = torch.tensor(c.hidden_size**0.5, dtype=torch.bfloat16).item()  # the original rounds it
    read |= {"mlp": MLPS[c.hidden_activation], "mlp_bias": True}
    return read | {"embedding_scale": scale, "logits_soft_cap": c.logits_soft_cap}, tensors


def _gemma_mixers(c: RecurrentGemmaConfiguration) -> dict[str, dict[str, Any]]:
    """Options of the two kinds of layers."""
    theta, factor = _rotation(c.rope_parameters, c.rope_theta, c.partial_rotary_factor)
    head_dim = c.hidden_size // c.num_attention_heads
    return {
        "recurrent": {
            "expand": (c.lru_width or c.hidden_size) / c.hidden_size,
            "num_heads": c.num_attention_heads,
            "d_conv": c.conv1d_width,
            "activation": ACTIVATIONS[c.hidden_activation],
        },
        "attention": {
            "num_heads": c.num_attention_heads,
            "num_kv_heads": c.num_key_value_heads or c.num_attention_heads,
            "rotary_base": theta,
            "rotary_dim": int(head_dim * factor),
            "qkv_bias": c.attention_bias,
            "o_bias": True,
            "window": c.attention_window_size,
        },
    }


def read_lfm2(config: Mapping[str, Any], weights: Weights) -> Read:
    """``Lfm2ForCausalLM`` of transformers."""
    c = read_configuration(Lfm2Configuration, config)
    theta, factor = _rotation(c.rope_parameters, c.rope_theta, 1.0)
    require("partial_rotary_factor", factor, (1.0,), LAYERS)
    hyper = {"hidden_size": c.hidden_size, "conv_L_cache": c.conv_L_cache, "conv_bias": c.conv_bias}
    attention = {
        "num_heads": c.num_attention_heads,
        "num_kv_heads": c.num_key_value_heads,
        "head_dim": c.head_dim or c.hidden_size // c.num_attention_heads,
        "rotary_base": theta,
        "qk_norm": True,
        "qk_norm_eps": c.norm_eps,
    }
    specs: list[list[Any]] = []
    tensors = {"model.backbone.norm.weight": weights.take("model.embedding_norm.weight")}
    for i, kind in enumerate(_lfm2_layers(c)):
        part, block = weights.part(f"model.layers.{i}."), f"model.backbone.blocks.{i}"
        if kind == "conv":
            found = convert_short_conv(part.part("conv."), hyper)
            specs.append(["gated_short_conv", {"d_conv": c.conv_L_cache, "bias": c.conv_bias}])
        else:
            found = _attention(part.part("self_attn."), "out_proj", False, False)
            names = {f"{n}_norm.weight": f"self_attn.{n}_layernorm.weight" for n in "qk"}
            found |= {name: part.take(original) for name, original in names.items()}
            specs.append(["attention", attention])
        tensors |= {f"{block}.mixer.{name}": tensor for name, tensor in found.items()}
        tensors[f"{block}.{MIXER_NORM}.weight"] = part.take("operator_norm.weight")
        tensors[f"{block}.{MLP_NORM}.weight"] = part.take("ffn_norm.weight")
        tensors |= _gated_mlp(part.part("feed_forward."), f"{block}.mlp", ("w1", "w3", "w2"), bias=False)
    shape = {"hidden_size": c.hidden_size, "norm": "rms", "norm_options": {"eps": c.norm_eps}}
    tied = c.tie_word_embeddings if c.tie_embedding is None else c.tie_embedding
    return language_model(c, weights, "model.embed_tokens.weight", specs, tensors, shape, tied)


def _lfm2_layers(c: Lfm2Configuration) -> list[str]:
    """What each layer is."""
    if c.layer_types is None:
        attention = range(c.num_hidden_layers) if c.full_attn_idxs is None else c.full_attn_idxs
        return ["full_attention" if i in attention else "conv" for i in range(c.num_hidden_layers)]
    for kind in c.layer_types:
        require("layer_types", kind, ("conv", "full_attention"), LAYERS)
    if len(c.layer_types) != c.num_hidden_layers:
        got = f"{len(c.layer_types)} layer_types for {c.num_hidden_layers} layers"
        raise argument_error("load_checkpoint", got, "one for each", "correct the configuration")
    return c.layer_types


def _rotation(parameters: Mapping[str, Any] | None, theta: float, factor: float) -> tuple[float, float]:
    """Base and rotating share of a head, from the nested options of newer files or the flat ones of older files."""
    given = parameters or {}
    require("rope_type", given.get("rope_type", "default"), ("default",), LAYERS)
    return float(given.get("rope_theta", theta)), float(given.get("partial_rotary_factor", factor))


def _attention(w: Weights, output: str, qkv_bias: bool, o_bias: bool) -> dict[str, Tensor]:
    """Queries, keys and values in one projection."""
    found = {"qkv_proj.weight": torch.cat([w.take(f"{n}_proj.weight") for n in "qkv"])}
    if qkv_bias:
        found["qkv_proj.bias"] = torch.cat([w.take(f"{n}_proj.bias") for n in "qkv"])
    return found | {f"o_proj.{kind}": w.take(f"{output}.{kind}") for kind in ["weight"] + ["bias"] * o_bias}


def _gated_mlp(w: Weights, name: str, parts: tuple[str, str, str], *, bias: bool) -> dict[str, Tensor]:
    """``parts``: gate, value and output projection."""
    gate, value, down = parts
    found = {}
    for kind in ["weight"] + ["bias"] * bias:
        found[f"{name}.up.{kind}"] = torch.cat([w.take(f"{gate}.{kind}"), w.take(f"{value}.{kind}")])
        found[f"{name}.down.{kind}"] = w.take(f"{down}.{kind}")
    return found


add_checkpoint("recurrent_gemma", read_recurrent_gemma)
add_checkpoint("lfm2", read_lfm2)
