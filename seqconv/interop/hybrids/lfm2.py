"""Reading LFM2 and LFM2-MoE: gated short convolutions, attention, MLPs and experts.

Read in transformers 5.23.0: ``models/lfm2`` and ``models/lfm2_moe``, configuration and modeling.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from seqconv_kernels._core.errors import argument_error

from ..checkpoint import add_checkpoint
from ..configurations import read_configuration, require
from ..convolution.gated.gated_short_conv import convert as convert_short_conv
from ..importer import Weights
from ..language_models import Read
from .parts import REMEDY, Layers, Part, RotaryConfiguration, attention, experts, gated_mlp, rotation

MLP = ("w1", "w3", "w2")
"""Gate, value and output projection."""
ROTARY_BASE = 1000000.0
NORMALIZE_EPS = 1e-6
"""Added there to the sum of the experts' weights."""


@dataclass(frozen=True, kw_only=True)
class Lfm2Configuration(RotaryConfiguration):
    """``Lfm2Config``.

    Without effect: what all hybrids have, adjustments of the MLP's width, known from its shapes, and names of the
    published files that the modeling does not read.
    """

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({
        "block_auto_adjust_ff_dim", "block_ffn_dim_multiplier", "block_multiple_of", "block_dim", "block_ff_dim",
        "block_mlp_init_scale", "block_out_init_scale", "block_norm_eps", "block_use_xavier_init", "conv_dim",
        "conv_dim_out", "conv_use_xavier_init", "num_heads", "model_name",
    })  # fmt: skip
    FIXED: ClassVar[Mapping[str, tuple[Any, ...]]] = {"block_use_swiglu": (True,), "use_pos_enc": (True,)}

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
    tie_word_embeddings: bool = True
    tie_embedding: bool | None = None
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2


@dataclass(frozen=True, kw_only=True)
class Lfm2MoeConfiguration(Lfm2Configuration):
    """``Lfm2MoeConfig``."""

    hidden_size: int = 2048
    num_dense_layers: int = 2
    num_experts: int = 32
    num_experts_per_tok: int = 4
    use_expert_bias: bool = True
    routed_scaling_factor: float = 1.0
    norm_topk_prob: bool = True


def read_lfm2(config: Mapping[str, Any], weights: Weights) -> Read:
    """``Lfm2ForCausalLM`` of transformers."""
    return _read(read_configuration(Lfm2Configuration, config), weights)


def read_lfm2_moe(config: Mapping[str, Any], weights: Weights) -> Read:
    """``Lfm2MoeForCausalLM`` of transformers."""
    return _read(read_configuration(Lfm2MoeConfiguration, config), weights)


def _read(c: Lfm2Configuration, weights: Weights) -> Read:
    layers = Layers()
    for i, kind in enumerate(_kinds(c)):
        part = weights.part(f"model.layers.{i}.")
        if kind == "conv":
            mixer = "gated_short_conv", _convolution(c, part.part("conv."))
        else:
            mixer = "attention", _attention(c, part.part("self_attn."))
        w = part.part("feed_forward.")
        sparse = isinstance(c, Lfm2MoeConfiguration) and i >= c.num_dense_layers
        mlp = _experts(c, w) if sparse else gated_mlp(w, names=MLP)  # type: ignore[arg-type]
        layers.add((part, "operator_norm", "ffn_norm"), mixer, mlp)
    shape: dict[str, Any] = {"hidden_size": c.hidden_size, "norm": "rms", "norm_options": {"eps": c.norm_eps}}
    tied = c.tie_word_embeddings if c.tie_embedding is None else c.tie_embedding
    return layers.model(c, weights, final="model.embedding_norm", tied=tied, **shape)


def _kinds(c: Lfm2Configuration) -> list[str]:
    """What each layer is."""
    if c.layer_types is None:
        full = range(c.num_hidden_layers) if c.full_attn_idxs is None else c.full_attn_idxs
        return ["full_attention" if i in full else "conv" for i in range(c.num_hidden_layers)]
    for kind in c.layer_types:
        require("layer_types", kind, ("conv", "full_attention"), REMEDY)
    if len(c.layer_types) != c.num_hidden_layers:
        got = f"{len(c.layer_types)} layer_types for {c.num_hidden_layers} layers"
        raise argument_error("load_checkpoint", got, "one for each", "correct the configuration")
    return c.layer_types


def _convolution(c: Lfm2Configuration, w: Weights) -> Part:
    hyper = {"hidden_size": c.hidden_size, "conv_L_cache": c.conv_L_cache, "conv_bias": c.conv_bias}
    return {"d_conv": c.conv_L_cache, "bias": c.conv_bias}, convert_short_conv(w, hyper)


def _attention(c: Lfm2Configuration, w: Weights) -> Part:
    head_dim = c.head_dim or c.hidden_size // c.num_attention_heads
    options = {
        "num_heads": c.num_attention_heads,
        "num_kv_heads": c.num_key_value_heads,
        "head_dim": head_dim,
        "qk_norm": True,
        "qk_norm_eps": c.norm_eps,
    } | rotation(c, head_dim, theta=ROTARY_BASE)
    norms = {f"{n}_norm.weight": w.take(f"{n}_layernorm.weight") for n in "qk"}
    return options, norms | attention(w, output="out_proj")


def _experts(c: Lfm2MoeConfiguration, w: Weights) -> Part:
    return experts(
        w, number=c.num_experts, router="gate.weight", names=MLP, top_k=c.num_experts_per_tok, score="sigmoid",
        normalize=c.norm_topk_prob, normalize_eps=NORMALIZE_EPS, scale=float(c.routed_scaling_factor),
        correction="expert_bias" if c.use_expert_bias else None,
    )  # fmt: skip


add_checkpoint("lfm2", read_lfm2)
add_checkpoint("lfm2_moe", read_lfm2_moe)
