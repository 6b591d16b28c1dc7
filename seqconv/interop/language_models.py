"""Reading language models made of Mamba, Mamba-2 and gated linear attention: mamba_ssm, transformers, fla.

All of them are embeddings, blocks with a norm in front of each layer, a final norm and a head; they differ in the
names and in the mixer.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from .checkpoint import add_checkpoint
from .gla import convert as convert_gla
from .gla import gla_options
from .importer import Weights
from .mamba import convert_mamba, convert_mamba2, mamba2_options, mamba_options
from .mamba_attention import attention_options, convert_attention

GLA_OPTIONS = (
    "hidden_size",
    "expand_k",
    "expand_v",
    "num_heads",
    "num_kv_heads",
    "feature_map",
    "use_short_conv",
    "conv_size",
    "use_output_gate",
    "elementwise_affine",
    "norm_eps",
    "clamp_min",
    "fuse_norm",
)
Read = tuple[dict[str, Any], dict[str, Tensor]]


def read_mamba_ssm(config: Mapping[str, Any], weights: Weights) -> Read:
    """``MambaLMHeadModel`` of state-spaces/mamba."""
    norm, affine = ("rms", ["weight"]) if config.get("rms_norm", True) else ("layer", ["weight", "bias"])
    specs, ours = [], _norm(weights, "backbone.norm_f", "model.backbone.norm", affine)
    for i in range(config["n_layer"]):
        part, block = weights.part(f"backbone.layers.{i}."), f"model.backbone.blocks.{i}"
        mixer, options, tensors = _mamba_ssm_mixer(config, part.part("mixer."), i)
        specs.append([mixer, options])
        ours |= _norm(part, "norm", f"{block}.mixer_norm", affine)
        ours |= {f"{block}.mixer.{name}": t for name, t in tensors.items()}
        if config.get("d_intermediate", 0):
            value, gate = part.take("mlp.fc1.weight").chunk(2)
            ours |= _norm(part, "norm2", f"{block}.mlp_norm", affine)
            ours |= {f"{block}.mlp.up.weight": torch.cat([gate, value])}
            ours |= {f"{block}.mlp.down.weight": part.take("mlp.fc2.weight")}
    shape = {"hidden_size": config["d_model"], "norm": norm, "norm_options": {"eps": 1e-5}}
    return _language_model(
        config, weights, "backbone.embedding.weight", specs, ours, shape, config.get("tie_embeddings", True)
    )


def read_mamba(config: Mapping[str, Any], weights: Weights) -> Read:
    """``MambaForCausalLM`` and ``FalconMambaForCausalLM`` of transformers."""
    _require_silu(config)
    hyper = {
        "d_model": config["hidden_size"],
        "d_state": config["state_size"],
        "d_conv": config["conv_kernel"],
        "expand": config["expand"],
        "dt_rank": config["time_step_rank"],
        "bias": config["use_bias"],
        "conv_bias": config["use_conv_bias"],
    }
    options = mamba_options(**hyper)
    if config["model_type"] == "falcon_mamba":
        options |= {"parameter_norm": "plain", "parameter_norm_eps": config["mixer_rms_eps"]}
    return _transformers_mamba(config, weights, ["mamba", options], lambda part: convert_mamba(part, hyper))


def read_mamba2(config: Mapping[str, Any], weights: Weights) -> Read:
    """``Mamba2ForCausalLM`` of transformers."""
    _require_silu(config)
    hyper = {
        "d_model": config["hidden_size"],
        "d_state": config["state_size"],
        "d_conv": config["conv_kernel"],
        "expand": config["expand"],
        "headdim": config["head_dim"],
        "ngroups": config["n_groups"],
        "dt_limit": config["time_step_limit"],
        "bias": config["use_bias"],
        "conv_bias": config["use_conv_bias"],
        "chunk_size": config["chunk_size"],
    }
    options = mamba2_options(**hyper) | {"norm_eps": config["layer_norm_epsilon"]}
    return _transformers_mamba(config, weights, ["mamba2", options], lambda part: convert_mamba2(part, hyper))


def read_gla(config: Mapping[str, Any], weights: Weights) -> Read:
    """``GLAForCausalLM`` of flash-linear-attention."""
    if config.get("attn") is not None:
        remedy = "import its gated linear attention layers one by one with from_original"
        raise argument_error(
            "load_checkpoint", "a GLA model with attention layers", "gated linear attention alone", remedy
        )
    hyper: dict[str, Any] = {name: config[name] for name in GLA_OPTIONS if name in config}
    hyper["gate_fn"] = config.get("hidden_act", "swish")
    _require_silu(config)
    ours = _norm(weights, "model.norm", "model.backbone.norm", ["weight"])
    for i in range(config["num_hidden_layers"]):
        part, block = weights.part(f"model.layers.{i}."), f"model.backbone.blocks.{i}"
        ours |= _norm(part, "attn_norm", f"{block}.mixer_norm", ["weight"])
        ours |= _norm(part, "mlp_norm", f"{block}.mlp_norm", ["weight"])
        ours |= {f"{block}.mixer.{name}": t for name, t in convert_gla(part.part("attn."), hyper).items()}
        gate, value = part.take("mlp.gate_proj.weight"), part.take("mlp.up_proj.weight")
        ours |= {f"{block}.mlp.up.weight": torch.cat([gate, value])}
        ours |= {f"{block}.mlp.down.weight": part.take("mlp.down_proj.weight")}
    options = gla_options(**hyper)
    shape = {"hidden_size": options.pop("d_model"), "norm": "rms", "norm_options": {"eps": config["norm_eps"]}}
    specs = [["gla", options]] * config["num_hidden_layers"]
    tied = config.get("tie_word_embeddings", False)
    return _language_model(config, weights, "model.embeddings.weight", specs, ours, shape, tied)


def _mamba_ssm_mixer(config: Mapping[str, Any], weights: Weights, index: int) -> tuple[str, dict[str, Any], Any]:
    """Mixer name, its options and its tensors."""
    if index in config.get("attn_layer_idx", []):
        hyper = {"embed_dim": config["d_model"], **config["attn_cfg"]}
        return "attention", _without_width(attention_options(**hyper)), convert_attention(weights, hyper)
    hyper = {**config["ssm_cfg"], "d_model": config["d_model"]}
    kind = hyper.pop("layer", "Mamba1")
    if kind == "Mamba1":
        return "mamba", _without_width(mamba_options(**hyper)), convert_mamba(weights, hyper)
    if kind == "Mamba2":
        return "mamba2", _without_width(mamba2_options(**hyper)), convert_mamba2(weights, hyper)
    raise unknown_name("load_checkpoint", "ssm_cfg layer", kind, ("Mamba1", "Mamba2"))


def _without_width(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "d_model"}


def _transformers_mamba(config: Mapping[str, Any], weights: Weights, spec: list[Any], convert: Any) -> Read:
    ours = _norm(weights, "backbone.norm_f", "model.backbone.norm", ["weight"])
    for i in range(config["num_hidden_layers"]):
        part, block = weights.part(f"backbone.layers.{i}."), f"model.backbone.blocks.{i}"
        ours |= _norm(part, "norm", f"{block}.mixer_norm", ["weight"])
        ours |= {f"{block}.mixer.{name}": t for name, t in convert(part.part("mixer.")).items()}
    options = spec[1]
    shape = {
        "hidden_size": options.pop("d_model"),
        "norm": "rms",
        "norm_options": {"eps": config["layer_norm_epsilon"]},
    }
    specs = [spec] * config["num_hidden_layers"]
    tied = config["tie_word_embeddings"]
    return _language_model(config, weights, "backbone.embeddings.weight", specs, ours, shape, tied)


def _language_model(
    config: Mapping[str, Any],
    weights: Weights,
    embedding: str,
    specs: list[list[Any]],
    ours: dict[str, Tensor],
    shape: dict[str, Any],
    tied: bool,
) -> Read:
    """Embeddings, head and what all configurations share."""
    table = weights.take(embedding)
    if tied:
        weights.ignore("lm_head.weight")
    ours |= {"model.embed_tokens.weight": table, "lm_head.weight": table if tied else weights.take("lm_head.weight")}
    up = ours.get("model.backbone.blocks.0.mlp.up.weight")
    same = all(spec == specs[0] for spec in specs)
    layers = {"mixer": specs[0][0], "mixer_options": specs[0][1]} if same else {"layer_pattern": specs}
    mlp = {} if up is None else {"mlp": "swiglu", "mlp_hidden": up.shape[0] // 2, "mlp_bias": False}
    tokens = {name: config.get(name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    sizes = {"vocab_size": table.shape[0], "num_hidden_layers": len(specs), "tie_word_embeddings": tied}
    return {**shape, **sizes, **layers, **mlp, **tokens, "final_norm": True}, ours


def _norm(weights: Weights, theirs: str, ours: str, affine: list[str]) -> dict[str, Tensor]:
    return {f"{ours}.{name}": weights.take(f"{theirs}.{name}") for name in affine}


def _require_silu(config: Mapping[str, Any]) -> None:
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        got = f"hidden_act={config['hidden_act']!r}"
        raise argument_error("load_checkpoint", got, "'silu', the activation of these mixers", "retrain with silu")


add_checkpoint("mamba_ssm", read_mamba_ssm)
add_checkpoint("mamba", read_mamba)
add_checkpoint("falcon_mamba", read_mamba)
add_checkpoint("mamba2", read_mamba2)
add_checkpoint("gla", read_gla)
