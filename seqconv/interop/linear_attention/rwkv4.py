"""Reading RWKV-4 of transformers 5.23.0, models/rwkv/modeling_rwkv.py: its layers and whole checkpoints.

There a token shift is the share of the current token, here of the one before. ``rescale_every`` halves activations and
output weights together in half precision and changes no function.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ...layers.channel_mix import TokenShiftMLP
from ...mixers.linear_attention.rwkv.rwkv4 import RWKV4
from ..checkpoint import add_checkpoint
from ..configurations import Configuration, read_configuration
from ..importer import Weights, add_importer, options

TIME_MIX, CHANNEL_MIX = "huggingface/transformers:RwkvSelfAttention", "huggingface/transformers:RwkvFeedForward"
LAYER: dict[str, Any] = {"hidden_size": 4096, "attention_hidden_size": None, "intermediate_size": None}
IGNORED = ("vocab_size", "context_length", "num_hidden_layers", "layer_id", "seed", "rescale_every")

FINAL_NORM_EPS = 1e-5
"""ε of the final norm, ``ln_out``, whatever ``layer_norm_epsilon`` says; the other norms take that."""

Read = tuple[dict[str, Any], dict[str, Tensor]]
"""Options of ``SeqConvConfig`` and tensors of ``SeqConvForCausalLM``."""


@dataclass(frozen=True, kw_only=True)
class RwkvConfiguration(Configuration):
    """``RwkvConfig`` of transformers 5.23.0, models/rwkv/configuration_rwkv.py.

    Without effect: ``context_length``, which only checks lengths, ``rescale_every`` (half precision).
    """

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"context_length", "max_position_embeddings", "rescale_every"})

    hidden_size: int = 4096
    num_hidden_layers: int = 32
    attention_hidden_size: int | None = None
    intermediate_size: int | None = None
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = False
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 0


def _build(**hyper: Any) -> RWKV4:
    o = options(TIME_MIX, hyper, LAYER, IGNORED)
    return RWKV4(o.hidden_size, expand=(o.attention_hidden_size or o.hidden_size) / o.hidden_size)


def _build_ffn(**hyper: Any) -> TokenShiftMLP:
    o = options(CHANNEL_MIX, hyper, LAYER, IGNORED)
    return TokenShiftMLP(o.hidden_size, hidden=o.intermediate_size or 4 * o.hidden_size, gated=True)


def convert_time_mix(w: Weights, _: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of ``RwkvSelfAttention``."""
    shifts = {"x_r": "receptance", "x_k": "key", "x_v": "value"}
    found = {target: 1 - w.take(f"time_mix_{name}").flatten() for target, name in shifts.items()}
    found |= {f"{name[2:]}_proj.weight": w.take(f"{original}.weight") for name, original in shifts.items()}
    rest = {"time_decay": "time_decay", "bonus": "time_first", "o_proj.weight": "output.weight"}
    return found | {name: w.take(original) for name, original in rest.items()}


def convert_channel_mix(w: Weights, _: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of ``RwkvFeedForward``."""
    found = {name: w.take(name) for name in ("key.weight", "value.weight", "receptance.weight")}
    shifts = {"x_k": "key", "x_r": "receptance"}
    return found | {target: 1 - w.take(f"time_mix_{name}").flatten() for target, name in shifts.items()}


def read_rwkv(config: Mapping[str, Any], weights: Weights) -> Read:
    """``RwkvForCausalLM`` of transformers."""
    c = read_configuration(RwkvConfiguration, config)
    tensors = _norm(weights, "rwkv.ln_out", "backbone.norm") | _norm(weights, "rwkv.blocks.0.pre_ln", "embedding_norm")
    for i in range(c.num_hidden_layers):
        part, block = weights.part(f"rwkv.blocks.{i}."), f"backbone.blocks.{i}"
        tensors |= _norm(part, "ln1", f"{block}.mixer_norm") | _norm(part, "ln2", f"{block}.mlp_norm")
        for kind, original, convert in (
            ("mixer", "attention", convert_time_mix),
            ("mlp", "feed_forward", convert_channel_mix),
        ):
            converted = convert(part.part(f"{original}."), {})
            tensors |= {f"model.{block}.{kind}.{name}": t for name, t in converted.items()}
    table = weights.take("rwkv.embeddings.weight")
    if c.tie_word_embeddings:
        weights.ignore("head.weight")
    head = table if c.tie_word_embeddings else weights.take("head.weight")
    found = {
        "hidden_size": c.hidden_size,
        "vocab_size": table.shape[0],
        "num_hidden_layers": c.num_hidden_layers,
        "mixer": "rwkv4",
        "mixer_options": {"expand": (c.attention_hidden_size or c.hidden_size) / c.hidden_size},
        "mlp": "rwkv6",
        "mlp_hidden": c.intermediate_size or 4 * c.hidden_size,
        "norm": "layer",
        "norm_options": {"eps": c.layer_norm_epsilon},
        "final_norm": True,
        "final_norm_options": {"eps": FINAL_NORM_EPS},
        "embedding_norm": True,
        "tie_word_embeddings": c.tie_word_embeddings,
    } | {name: getattr(c, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    return found, tensors | {"model.embed_tokens.weight": table, "lm_head.weight": head}


def _norm(weights: Weights, original: str, name: str) -> dict[str, Tensor]:
    return {f"model.{name}.{tensor}": weights.take(f"{original}.{tensor}") for tensor in ("weight", "bias")}


add_importer(TIME_MIX, build=_build, convert=convert_time_mix)
add_importer(CHANNEL_MIX, build=_build_ffn, convert=convert_channel_mix)
add_checkpoint("rwkv", read_rwkv)
