"""Reading MiniMax-Text-01: lightning attention, attention and experts, whose residual is the normalised input.

``x ← norm(x)``, ``x ← α x + β f(x)`` before each layer's part is a norm after every residual sum, ``x ← norm(α x + β
f(x))``, whose weights are those of the next part, after a norm of the embeddings. Read in transformers 5.23.0:
``models/minimax``, configuration and modeling, where the norm inside of lightning attention has an ε of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..checkpoint import add_checkpoint
from ..configurations import read_configuration, require
from ..importer import Weights, get_importer
from ..language_models import MIXER_NORM, MLP_NORM, Read, language_model
from ..linear_attention.attention_layers import LIGHTNING, LIGHTNING_ACTIVATIONS
from .parts import (
    ATTENTION,
    LINEAR,
    REMEDY,
    Layers,
    Part,
    RotaryConfiguration,
    attention,
    experts,
    layer_kinds,
    rotation,
)

ROTARY_BASE = 1000000.0
EXPERT = ("w1", "w3", "w2")
"""Gate, value and output projection."""


@dataclass(frozen=True, kw_only=True)
class MiniMaxConfiguration(RotaryConfiguration):
    """``MiniMaxConfig``.

    Without effect: what all hybrids have, and ``block_size`` (speed). ``rotary_dim`` of some files is read by nothing
    in transformers, which turns whole heads; the original does not, so that another width raises.
    """

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"block_size", "num_experts", "shared_moe_mode"})
    FIXED: ClassVar[Mapping[str, tuple[Any, ...]]] = {"postnorm": (True,), "shared_intermediate_size": (0,)}

    hidden_size: int = 4096
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 8
    head_dim: int | None = None
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-5
    rotary_dim: int | None = None
    sliding_window: int | None = None
    num_experts_per_tok: int = 2
    num_local_experts: int = 8
    layer_types: list[str] | None = None
    full_attn_alpha_factor: int | float = 1
    full_attn_beta_factor: int | float = 1
    linear_attn_alpha_factor: int | float = 1
    linear_attn_beta_factor: int | float = 1
    mlp_alpha_factor: int | float = 1
    mlp_beta_factor: int | float = 1
    tie_word_embeddings: bool = False
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2


def read_minimax(config: Mapping[str, Any], weights: Weights) -> Read:
    """``MiniMaxForCausalLM`` of transformers."""
    experts_by_their_other_name = {"num_local_experts": config["num_experts"]} if "num_experts" in config else {}
    c = read_configuration(MiniMaxConfiguration, {**config, **experts_by_their_other_name})
    require("hidden_act", c.hidden_act, tuple(LIGHTNING_ACTIVATIONS), REMEDY)
    whole = c.head_dim or c.hidden_size // c.num_attention_heads
    require("rotary_dim", c.rotary_dim, (None, whole), "pass ignored_options=['rotary_dim'] for what transformers does")
    default = (LINEAR if i % 2 else ATTENTION for i in range(c.num_hidden_layers))
    layers = Layers(norm=())
    kinds = layer_kinds(c.layer_types, default, c.num_hidden_layers)
    for i, kind in enumerate(kinds):
        part = weights.part(f"model.layers.{i}.")
        w = part.part("self_attn.")
        mixer = ("lightning_attention", _lightning(c, w, i)) if kind == LINEAR else ("attention", _attention(c, w))
        moe = part.part("mlp." if "mlp.gate.weight" in part else "block_sparse_moe.")
        mlp = experts(moe, number=c.num_local_experts, router="gate.weight", act=c.hidden_act, names=EXPERT,
                      top_k=c.num_experts_per_tok)  # fmt: skip
        layers.add((part, "", ""), mixer, mlp)
        name = "linear" if kind == LINEAR else "full"
        sizes = {part: float(getattr(c, f"{name}_attn_{part}_factor")) for part in ("alpha", "beta")}
        layers.specs[-1]["residual_options"] = sizes
    shape: dict[str, Any] = {
        "hidden_size": c.hidden_size,
        "norm": "rms",
        "norm_options": {"eps": c.rms_norm_eps},
        "norm_placement": "post",
        "embedding_norm": True,
        "mlp_residual_options": {"alpha": float(c.mlp_alpha_factor), "beta": float(c.mlp_beta_factor)},
    }
    tensors = layers.tensors | _norms(c, weights)
    table = "model.embed_tokens.weight"
    read, tensors = language_model(c, weights, table, layers.specs, tensors, shape, c.tie_word_embeddings)
    return read | {"final_norm": False}, tensors


def _norms(c: MiniMaxConfiguration, weights: Weights) -> dict[str, Tensor]:
    """Every norm is where its input is made: the first after the embeddings, the last in the last block."""
    depth = c.num_hidden_layers
    firsts = [f"model.layers.{i}.input_layernorm.weight" for i in range(depth)] + ["model.norm.weight"]
    names = ["model.embedding_norm.weight"] + [f"model.backbone.blocks.{i}.{MLP_NORM}.weight" for i in range(depth)]
    found = {name: weights.take(original) for name, original in zip(names, firsts, strict=True)}
    for i in range(depth):
        original = f"model.layers.{i}.post_attention_layernorm.weight"
        found[f"model.backbone.blocks.{i}.{MIXER_NORM}.weight"] = weights.take(original)
    return found


def _lightning(c: MiniMaxConfiguration, w: Weights, index: int) -> Part:
    heads = {"num_heads": c.num_attention_heads, "head_dim": c.head_dim or c.hidden_size // c.num_attention_heads}
    hyper: dict[str, Any] = {
        "hidden_size": c.hidden_size,
        "num_attention_heads": c.num_attention_heads,
        "head_dim": c.head_dim,
    }
    hyper |= {"hidden_act": c.hidden_act, "layer_idx": index, "num_hidden_layers": c.num_hidden_layers}
    options = {**heads, "activation": LIGHTNING_ACTIVATIONS[c.hidden_act]}
    return options, get_importer(LIGHTNING).convert(w, hyper)


def _attention(c: MiniMaxConfiguration, w: Weights) -> Part:
    head_dim = c.head_dim or c.hidden_size // c.num_attention_heads
    options = {
        "num_heads": c.num_attention_heads,
        "num_kv_heads": c.num_key_value_heads or c.num_attention_heads,
        "head_dim": head_dim,
        "window": c.sliding_window,
    }
    return options | rotation(c, head_dim, theta=ROTARY_BASE), attention(w)


add_checkpoint("minimax", read_minimax)
