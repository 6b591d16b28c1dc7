"""Reading language models made of Mamba, Mamba-2, gated linear attention and mLSTM: mamba_ssm, transformers, fla.

All of them are embeddings, blocks with a norm in front of each layer, a final norm and a head; they differ in the
names and in the mixer. What their options are is in :mod:`~seqconv.interop.configurations`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from .checkpoint import add_checkpoint
from .configurations import (
    Configuration,
    FalconMambaConfiguration,
    GLAConfiguration,
    Mamba2Configuration,
    MambaConfiguration,
    MambaSsmConfiguration,
    XLSTMConfiguration,
    read_configuration,
    require,
)
from .importer import Weights
from .linear_attention.gla import DEFAULTS as GLA_DEFAULTS
from .linear_attention.gla import ORIGINAL as GLA
from .linear_attention.gla import attention_options as gated_attention_options
from .linear_attention.gla import convert as convert_gla
from .linear_attention.mlstm import block_options, convert_block
from .state_space.mamba import convert_mamba, convert_mamba2, mamba2_options, mamba_options
from .state_space.mamba_attention import attention_options, convert_attention

Read = tuple[dict[str, Any], dict[str, Tensor]]
"""Options of ``SeqConvConfig`` and tensors of ``SeqConvForCausalLM``."""

MIXER_NORM, MLP_NORM = "mixer_norm", "mlp_norm"
"""Names of the norms of a block in our state dict."""

GLA_LAYER = (
    "hidden_size",
    "expand_k",
    "expand_v",
    "num_heads",
    "num_kv_heads",
    "feature_map",
    "use_short_conv",
    "conv_size",
    "use_output_gate",
    "norm_eps",
    "clamp_min",
    "fuse_norm",
)
"""Options of the model that each of its layers gets under the same name."""


XLSTM_BLOCK = (
    "num_heads",
    "use_bias",
    "norm_eps",
    "qk_dim_factor",
    "v_dim_factor",
    "eps",
    "ffn_proj_factor",
    "ffn_round_up_to_multiple_of",
    "gate_soft_cap",
    "weight_mode",
)
"""Options of the model that each of its blocks gets under the same name."""


def read_mamba_ssm(config: Mapping[str, Any], weights: Weights) -> Read:
    """``MambaLMHeadModel`` of state-spaces/mamba, mamba_ssm/models/mixer_seq_simple.py at commit e9594ce."""
    c = read_configuration(MambaSsmConfiguration, config)
    norm, affine = ("rms", ["weight"]) if c.rms_norm else ("layer", ["weight", "bias"])
    specs, tensors = [], _norm(weights, "backbone.norm_f", "model.backbone.norm", affine)
    for i in range(c.n_layer):
        part, block = weights.part(f"backbone.layers.{i}."), f"model.backbone.blocks.{i}"
        mixer, options, mixer_tensors = _mamba_ssm_mixer(c, part.part("mixer."), i)
        specs.append([mixer, options])
        tensors |= _norm(part, "norm", f"{block}.{MIXER_NORM}", affine)
        tensors |= {f"{block}.mixer.{name}": t for name, t in mixer_tensors.items()}
        if c.d_intermediate:
            value, gate = part.take("mlp.fc1.weight").chunk(2)
            tensors |= _norm(part, "norm2", f"{block}.{MLP_NORM}", affine)
            tensors |= {f"{block}.mlp.up.weight": torch.cat([gate, value])}
            tensors |= {f"{block}.mlp.down.weight": part.take("mlp.fc2.weight")}
    shape = {"hidden_size": c.d_model, "norm": norm, "norm_options": {"eps": 1e-5}}
    return language_model(c, weights, "backbone.embedding.weight", specs, tensors, shape, c.tie_embeddings)


def read_mamba(config: Mapping[str, Any], weights: Weights) -> Read:
    """``MambaForCausalLM`` of transformers."""
    return _read_mamba(read_configuration(MambaConfiguration, config), weights, {})


def read_falcon_mamba(config: Mapping[str, Any], weights: Weights) -> Read:
    """``FalconMambaForCausalLM`` of transformers: δ, B and C are normalised, without weights."""
    c = read_configuration(FalconMambaConfiguration, config)
    return _read_mamba(c, weights, {"parameter_norm": "plain", "parameter_norm_eps": c.mixer_rms_eps})


def read_mamba2(config: Mapping[str, Any], weights: Weights) -> Read:
    """``Mamba2ForCausalLM`` of transformers."""
    c = read_configuration(Mamba2Configuration, config)
    require("hidden_act", c.hidden_act, ("silu", "swish"), "other activations are not part of this mixer")
    if c.hidden_size * c.expand != c.num_heads * c.head_dim:
        got = f"hidden_size={c.hidden_size}, expand={c.expand}, num_heads={c.num_heads}, head_dim={c.head_dim}"
        wanted = "hidden_size * expand = num_heads * head_dim"
        raise argument_error("load_checkpoint", got, wanted, "correct the configuration")
    if len(c.time_step_limit) != 2:
        got = f"time_step_limit={c.time_step_limit}"
        raise argument_error("load_checkpoint", got, "the smallest and the largest time step", "correct config.json")
    hyper = {
        "d_model": c.hidden_size,
        "d_state": c.state_size,
        "d_conv": c.conv_kernel,
        "expand": c.expand,
        "headdim": c.head_dim,
        "ngroups": c.n_groups,
        "dt_limit": c.time_step_limit,
        "bias": c.use_bias,
        "conv_bias": c.use_conv_bias,
        "chunk_size": c.chunk_size,
    }
    options = mamba2_options(**hyper) | {"norm_eps": c.layer_norm_epsilon}
    return _transformers_mamba(c, weights, ["mamba2", options], lambda part: convert_mamba2(part, hyper))


def read_gla(config: Mapping[str, Any], weights: Weights) -> Read:
    """``GLAForCausalLM`` of flash-linear-attention, fla/models/gla/modeling_gla.py at commit bc3b101."""
    c = read_configuration(GLAConfiguration, config)
    alone = "import the gated linear attention layers one by one with from_original"
    if c.attn is not None:
        got = "a GLA model with attention layers"
        raise argument_error("load_checkpoint", got, "gated linear attention alone", alone)
    require("attnres_block_size", c.attnres_block_size, (None,), alone)
    require("hidden_act", c.hidden_act, ("swish",), alone)
    hyper = {name: getattr(c, name) for name in GLA_LAYER}
    hyper |= {"gate_fn": c.hidden_act, "elementwise_affine": bool(c.elementwise_affine)}
    tensors = _norm(weights, "model.norm", "model.backbone.norm", ["weight"])
    for i in range(c.num_hidden_layers):
        part, block = weights.part(f"model.layers.{i}."), f"model.backbone.blocks.{i}"
        tensors |= _norm(part, "attn_norm", f"{block}.{MIXER_NORM}", ["weight"])
        tensors |= _norm(part, "mlp_norm", f"{block}.{MLP_NORM}", ["weight"])
        tensors |= {f"{block}.mixer.{name}": t for name, t in convert_gla(part.part("attn."), hyper).items()}
        gate, value = part.take("mlp.gate_proj.weight"), part.take("mlp.up_proj.weight")
        tensors |= {f"{block}.mlp.up.weight": torch.cat([gate, value])}
        tensors |= {f"{block}.mlp.down.weight": part.take("mlp.down_proj.weight")}
    options = gated_attention_options(GLA, GLA_DEFAULTS, hyper)
    shape = {"hidden_size": options.pop("d_model"), "norm": "rms", "norm_options": {"eps": c.norm_eps}}
    specs = [["gla", options]] * c.num_hidden_layers
    return language_model(c, weights, "model.embeddings.weight", specs, tensors, shape, c.tie_word_embeddings)


def read_xlstm(config: Mapping[str, Any], weights: Weights) -> Read:
    """``xLSTMForCausalLM`` of transformers, models/xlstm/modeling_xlstm.py: xLSTM-7B."""
    c = read_configuration(XLSTMConfiguration, config)
    width, depth = c.hidden_size or c.embedding_dim, c.num_hidden_layers or c.num_blocks
    if width is None or depth is None or c.embedding_dim not in (None, width) or c.num_blocks not in (None, depth):
        got = f"widths {c.hidden_size} and {c.embedding_dim}, {c.num_hidden_layers} and {c.num_blocks} blocks"
        raise argument_error("load_checkpoint", got, "one width and one number of blocks", "correct the configuration")
    require("head_dim", c.head_dim, (None, int(width * c.v_dim_factor) // c.num_heads), "correct the configuration")
    hyper = {name: getattr(c, name) for name in XLSTM_BLOCK} | {"hidden_size": width}
    mixer, block = block_options(**hyper)
    tensors = _norm(weights, "backbone.out_norm", "model.backbone.norm", ["weight"])
    for i in range(depth):
        converted = convert_block(weights.part(f"backbone.blocks.{i}."), hyper)
        tensors |= {f"model.backbone.blocks.{i}.{name}": tensor for name, tensor in converted.items()}
    shape: dict[str, Any] = {"hidden_size": width, "logits_soft_cap": float(c.output_logit_soft_cap)}
    shape |= {name: block[name] for name in ("norm", "norm_options")}
    shape |= {"final_norm_options": {"eps": c.norm_eps}}  # without a bias, whatever use_bias says
    specs = [["xlstm_large", mixer]] * depth
    return language_model(c, weights, "backbone.embeddings.weight", specs, tensors, shape, c.tie_word_embeddings)


def _mamba_ssm_mixer(c: MambaSsmConfiguration, weights: Weights, index: int) -> tuple[str, dict[str, Any], Any]:
    """Mixer name, its options and its tensors."""
    if index in c.attn_layer_idx:
        hyper = {"embed_dim": c.d_model, **c.attn_cfg}
        return "attention", _without_width(attention_options(**hyper)), convert_attention(weights, hyper)
    hyper = {**c.ssm_cfg, "d_model": c.d_model}
    kind = hyper.pop("layer", "Mamba1")
    if kind == "Mamba1":
        return "mamba", _without_width(mamba_options(**hyper)), convert_mamba(weights, hyper)
    if kind == "Mamba2":
        return "mamba2", _without_width(mamba2_options(**hyper)), convert_mamba2(weights, hyper)
    raise unknown_name("load_checkpoint", "ssm_cfg layer", str(kind), ("Mamba1", "Mamba2"))


def _without_width(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "d_model"}


def _read_mamba(c: MambaConfiguration, weights: Weights, extra: dict[str, Any]) -> Read:
    require("hidden_act", c.hidden_act, ("silu", "swish"), "other activations are not part of this mixer")
    hyper = {
        "d_model": c.hidden_size,
        "d_state": c.state_size,
        "d_conv": c.conv_kernel,
        "expand": _expand(c),
        "dt_rank": c.time_step_rank,
        "bias": c.use_bias,
        "conv_bias": c.use_conv_bias,
    }
    options = mamba_options(**hyper) | extra
    return _transformers_mamba(c, weights, ["mamba", options], lambda part: convert_mamba(part, hyper))


def _expand(c: MambaConfiguration) -> int | float:
    """Inner channels per input channel; ``intermediate_size`` says how many there are where it is given."""
    if c.intermediate_size is None or c.intermediate_size == int(c.expand * c.hidden_size):
        return c.expand
    whole, rest = divmod(c.intermediate_size, c.hidden_size)
    # Half a channel more, so that rounding down gives exactly as many.
    return whole if rest == 0 else (c.intermediate_size + 0.5) / c.hidden_size


def _transformers_mamba(
    c: MambaConfiguration | Mamba2Configuration,
    weights: Weights,
    spec: list[Any],
    convert: Callable[[Weights], dict[str, Tensor]],
) -> Read:
    tensors = _norm(weights, "backbone.norm_f", "model.backbone.norm", ["weight"])
    for i in range(c.num_hidden_layers):
        part, block = weights.part(f"backbone.layers.{i}."), f"model.backbone.blocks.{i}"
        tensors |= _norm(part, "norm", f"{block}.{MIXER_NORM}", ["weight"])
        tensors |= {f"{block}.mixer.{name}": t for name, t in convert(part.part("mixer.")).items()}
    spec[1].pop("d_model")
    shape = {"hidden_size": c.hidden_size, "norm": "rms", "norm_options": {"eps": c.layer_norm_epsilon}}
    specs = [spec] * c.num_hidden_layers
    # The first releases called the table as mamba_ssm does; transformers renames it when it loads (load_hook there).
    old, new = "backbone.embedding.weight", "backbone.embeddings.weight"
    return language_model(c, weights, old if old in weights else new, specs, tensors, shape, c.tie_word_embeddings)


def language_model(
    c: Configuration,
    weights: Weights,
    embedding: str,
    specs: list[Any],
    tensors: dict[str, Tensor],
    shape: dict[str, Any],
    tied: bool,
    head: str = "lm_head.weight",
) -> Read:
    """Embeddings, head and what all configurations share; layers given as mappings say themselves what their MLP is."""
    table = weights.take(embedding)
    if tied:
        weights.ignore(head)
    tensors |= {"model.embed_tokens.weight": table, "lm_head.weight": table if tied else weights.take(head)}
    named = isinstance(specs[0], list)
    up = tensors.get("model.backbone.blocks.0.mlp.up.weight") if named else None
    same = named and all(spec == specs[0] for spec in specs)
    layers = {"mixer": specs[0][0], "mixer_options": specs[0][1]} if same else {"layer_pattern": specs}
    mlp = {} if up is None else {"mlp": "swiglu", "mlp_hidden": up.shape[0] // 2}
    mlp |= {} if up is None else {"mlp_bias": "model.backbone.blocks.0.mlp.up.bias" in tensors}
    tokens = {name: getattr(c, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    sizes = {"vocab_size": table.shape[0], "num_hidden_layers": len(specs), "tie_word_embeddings": tied}
    return {**shape, **sizes, **layers, **mlp, **tokens, "final_norm": True}, tensors


def _norm(weights: Weights, original: str, name: str, affine: list[str]) -> dict[str, Tensor]:
    return {f"{name}.{tensor}": weights.take(f"{original}.{tensor}") for tensor in affine}


add_checkpoint("mamba_ssm", read_mamba_ssm)
add_checkpoint("mamba", read_mamba)
add_checkpoint("falcon_mamba", read_falcon_mamba)
add_checkpoint("mamba2", read_mamba2)
add_checkpoint("gla", read_gla)
add_checkpoint("xlstm", read_xlstm)
