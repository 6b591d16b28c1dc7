"""Reading Bamba and Granite 4: Mamba-2, attention, MLPs and experts.

Read in transformers 5.23.0: ``models/bamba`` and ``models/granitemoehybrid``, configuration and modeling.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from seqconv_kernels._core.errors import argument_error

from ..checkpoint import add_checkpoint
from ..configurations import read_configuration, require
from ..importer import Weights
from ..language_models import Read
from .parts import (
    ATTENTION,
    LINEAR,
    REMEDY,
    Layers,
    Part,
    RotaryConfiguration,
    attention,
    experts,
    gated_mlp,
    layer_kinds,
    mamba2,
    rotation,
)

BAMBA_ROTARY_FACTOR = 0.5
STACKED = ("input_linear.weight", "output_linear.weight")
"""Tensors of all experts of Granite."""


@dataclass(frozen=True, kw_only=True)
class BambaConfiguration(RotaryConfiguration):
    """``BambaConfig``.

    Without effect: what all hybrids have, :data:`~seqconv.interop.hybrids.parts.HYBRID`. ``attn_rotary_emb`` of older
    files is read by nothing: half of each head turns.
    """

    hidden_size: int = 4096
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 8
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-5
    attention_bias: bool = False
    mlp_bias: bool = False
    attn_rotary_emb: int | None = None
    attn_layer_indices: list[int] | None = None
    mamba_n_heads: int = 128
    mamba_d_head: int | Literal["auto"] = "auto"
    mamba_n_groups: int = 1
    mamba_d_state: int = 256
    mamba_d_conv: int = 4
    mamba_expand: int = 2
    mamba_chunk_size: int = 256
    mamba_conv_bias: bool = True
    mamba_proj_bias: bool = False
    time_step_limit: list[float] = field(default_factory=lambda: [0.0, float("inf")])
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2


@dataclass(frozen=True, kw_only=True)
class GraniteConfiguration(BambaConfiguration):
    """``GraniteMoeHybridConfig``; files name their norm and the scheme of their initial values too."""

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"init_method"})
    FIXED: ClassVar[Mapping[str, tuple[Any, ...]]] = {"normalization_function": ("rmsnorm",)}

    num_key_value_heads: int | None = None
    rms_norm_eps: float = 1e-6
    layer_types: list[str] | None = None
    layers_block_type: list[str] | None = None
    position_embedding_type: str | None = None
    num_local_experts: int | None = 8
    num_experts_per_tok: int | None = 2
    embedding_multiplier: int | float = 1.0
    logits_scaling: int | float = 1.0
    residual_multiplier: int | float = 1.0
    attention_multiplier: int | float = 1.0
    pad_token_id: int | None = None


def mamba2_layer(c: BambaConfiguration, w: Weights) -> Part:
    """Mamba-2 whose sizes have the names of these configurations."""
    require("hidden_act", c.hidden_act, ("silu", "swish"), REMEDY)
    inner = c.mamba_expand * c.hidden_size
    head_dim = inner // c.mamba_n_heads if c.mamba_d_head == "auto" else c.mamba_d_head
    if head_dim * c.mamba_n_heads != inner:
        got = f"mamba_n_heads={c.mamba_n_heads}, mamba_d_head={head_dim} for {inner} inner channels"
        raise argument_error("load_checkpoint", got, "heads that make up the inner channels", "correct config.json")
    return mamba2(
        w, norm_eps=c.rms_norm_eps, num_heads=c.mamba_n_heads, head_dim=head_dim, d_model=c.hidden_size,
        d_state=c.mamba_d_state, d_conv=c.mamba_d_conv, ngroups=c.mamba_n_groups, dt_limit=c.time_step_limit,
        bias=c.mamba_proj_bias, conv_bias=c.mamba_conv_bias, chunk_size=c.mamba_chunk_size,
    )  # fmt: skip


def attention_layer(c: BambaConfiguration, w: Weights, positions: Mapping[str, Any]) -> Part:
    """Attention whose sizes have the names of these configurations."""
    options = {
        "num_heads": c.num_attention_heads,
        "num_kv_heads": c.num_key_value_heads or c.num_attention_heads,
        "head_dim": c.hidden_size // c.num_attention_heads,
        "qkv_bias": c.attention_bias,
        "o_bias": c.attention_bias,
    }
    return options | dict(positions), attention(w, bias=c.attention_bias)


def read_bamba(config: Mapping[str, Any], weights: Weights) -> Read:
    """``BambaForCausalLM`` of transformers."""
    c = read_configuration(BambaConfiguration, config)
    positions = rotation(c, c.hidden_size // c.num_attention_heads, factor=BAMBA_ROTARY_FACTOR)
    require("attn_rotary_emb", c.attn_rotary_emb, (None, positions["rotary_dim"]), REMEDY)
    layers = Layers()
    for i in range(c.num_hidden_layers):
        part = weights.part(f"model.layers.{i}.")
        if i in (c.attn_layer_indices or []):
            mixer = "attention", attention_layer(c, part.part("self_attn."), positions)
        else:
            mixer = "mamba2", mamba2_layer(c, part.part("mamba."))
        mlp = gated_mlp(part.part("feed_forward."), act=c.hidden_act, bias=c.mlp_bias)
        layers.add((part, "input_layernorm", "pre_ff_layernorm"), mixer, mlp)
    shape: dict[str, Any] = {"hidden_size": c.hidden_size, "norm": "rms", "norm_options": {"eps": c.rms_norm_eps}}
    return layers.model(c, weights, final="model.final_layernorm", **shape)


def read_granite(config: Mapping[str, Any], weights: Weights) -> Read:
    """``GraniteMoeHybridForCausalLM`` of transformers."""
    c = read_configuration(GraniteConfiguration, config)
    require("position_embedding_type", c.position_embedding_type, (None, "rope", "nope"), REMEDY)
    rotates = c.position_embedding_type == "rope"
    positions = rotation(c, c.hidden_size // c.num_attention_heads) if rotates else dict[str, Any](rotary=False)
    positions["scale"] = float(c.attention_multiplier)
    layers = Layers()
    for i, kind in enumerate(
        layer_kinds(c.layer_types or c.layers_block_type, [LINEAR] * c.num_hidden_layers, c.num_hidden_layers)
    ):
        part = weights.part(f"model.layers.{i}.")
        if kind == ATTENTION:
            mixer = "attention", attention_layer(c, part.part("self_attn."), positions)
        else:
            mixer = "mamba2", mamba2_layer(c, part.part("mamba."))
        layers.add((part, "input_layernorm", "post_attention_layernorm"), mixer, _granite_mlp(c, part))
    shape: dict[str, Any] = {
        "hidden_size": c.hidden_size,
        "norm": "rms",
        "norm_options": {"eps": c.rms_norm_eps},
        "residual_options": {"beta": float(c.residual_multiplier)},
        "embedding_scale": float(c.embedding_multiplier),
        "logits_scale": 1 / c.logits_scaling,
    }
    return layers.model(c, weights, final="model.norm", **shape)


def _granite_mlp(c: GraniteConfiguration, part: Weights) -> Part:
    """An MLP for every token and, where there are any, experts that a router chooses."""
    w = part.part("shared_mlp.")
    down = w.take("output_linear.weight")
    tensors = {"up.weight": w.take("input_linear.weight"), "down.weight": down}
    shared = {"mlp": "swiglu", "mlp_hidden": down.shape[1], "mlp_bias": False}, tensors
    if not c.num_local_experts:
        return shared
    w = part.part("block_sparse_moe.")
    router = "router.weight" if "router.weight" in w else "router.layer.weight"
    return experts(
        w, number=c.num_local_experts, router=router, shared=shared, stacked=STACKED,
        top_k=c.num_experts_per_tok or 1,
    )  # fmt: skip


add_checkpoint("bamba", read_bamba)
add_checkpoint("granitemoehybrid", read_granite)
