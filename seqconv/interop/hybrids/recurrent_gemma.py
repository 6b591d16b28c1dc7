"""Reading RecurrentGemma: RG-LRU, local attention, gated MLPs.

Read in transformers 5.23.0: ``models/recurrent_gemma``, configuration and modeling. It takes padding on the left for
tokens; here it is padding.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from ..checkpoint import add_checkpoint
from ..configurations import read_configuration, require
from ..importer import Weights
from ..language_models import Read
from ..recurrent.rg_lru import ACTIVATIONS
from ..recurrent.rg_lru import convert as convert_rg_lru
from .parts import MLPS, REMEDY, Layers, Part, RotaryConfiguration, attention, gated_mlp, rotation

ROTARY_FACTOR = 0.5


@dataclass(frozen=True, kw_only=True)
class RecurrentGemmaConfiguration(RotaryConfiguration):
    """``RecurrentGemmaConfig``.

    Without effect: what all hybrids have, and scales of initial values.
    """

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"w_init_variance_scale", "final_w_init_variance_scale"})

    hidden_size: int = 2560
    intermediate_size: int = 7680
    num_hidden_layers: int = 26
    num_attention_heads: int = 10
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    lru_width: int | None = None
    attention_window_size: int = 2048
    conv1d_width: int = 4
    logits_soft_cap: float = 30.0
    rms_norm_eps: float = 1e-6
    hidden_activation: str = "gelu_pytorch_tanh"
    block_types: list[str] = field(default_factory=lambda: ["recurrent", "recurrent", "attention"])
    attention_bias: bool = False
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 1


def read_recurrent_gemma(config: Mapping[str, Any], weights: Weights) -> Read:
    """``RecurrentGemmaForCausalLM`` of transformers."""
    c = read_configuration(RecurrentGemmaConfiguration, config)
    require("head_dim", c.head_dim, (None, c.hidden_size // c.num_attention_heads), REMEDY)
    require("hidden_activation", c.hidden_activation, tuple(MLPS), REMEDY)
    for kind in c.block_types:
        require("block_types", kind, ("recurrent", "attention"), REMEDY)
    layers = Layers()
    for i in range(c.num_hidden_layers):
        part, recurrent = weights.part(f"model.layers.{i}."), c.block_types[i % len(c.block_types)] == "recurrent"
        w = part.part("temporal_block.")
        mixer = ("rg_lru", _recurrence(c, w)) if recurrent else ("attention", _attention(c, w))
        mlp = gated_mlp(part.part("mlp_block."), act=c.hidden_activation, bias=True)
        layers.add((part, "temporal_pre_norm", "channel_pre_norm"), mixer, mlp)
    shape: dict[str, Any] = {
        "hidden_size": c.hidden_size,
        "norm": "rms",
        "norm_options": {"eps": c.rms_norm_eps, "unit_offset": True},
        "embedding_scale": torch.tensor(c.hidden_size**0.5, dtype=torch.bfloat16).item(),  # the original rounds it
        "logits_soft_cap": c.logits_soft_cap,
    }
    return layers.model(c, weights, final="model.final_norm", **shape)


def _recurrence(c: RecurrentGemmaConfiguration, w: Weights) -> Part:
    hyper: dict[str, Any] = {"hidden_size": c.hidden_size, "lru_width": c.lru_width}
    hyper |= {"num_attention_heads": c.num_attention_heads, "conv1d_width": c.conv1d_width}
    options = {
        "expand": (c.lru_width or c.hidden_size) / c.hidden_size,
        "num_heads": c.num_attention_heads,
        "d_conv": c.conv1d_width,
        "activation": ACTIVATIONS[c.hidden_activation],
    }
    return options, convert_rg_lru(w, hyper)


def _attention(c: RecurrentGemmaConfiguration, w: Weights) -> Part:
    options = {
        "num_heads": c.num_attention_heads,
        "num_kv_heads": c.num_key_value_heads or c.num_attention_heads,
        "qkv_bias": c.attention_bias,
        "o_bias": True,
        "window": c.attention_window_size,
    } | rotation(c, c.hidden_size // c.num_attention_heads, factor=ROTARY_FACTOR)
    return options, attention(w, bias=c.attention_bias, o_bias=True)


add_checkpoint("recurrent_gemma", read_recurrent_gemma)
