"""Reading StripedHyena-7B and Evo: Hyena with modal filters, attention, gated MLPs.

Read in stripedhyena/{model,engine,layers,positional_embeddings}.py of togethercomputer/stripedhyena at 7e13f618,
evo/models.py and evo/configs of evo-design/evo at 6856bba4, and a copy of configuration_hyena.py, the configuration
class of the folders on the hub. A configuration is ``config.json`` with ``model_type`` "stripedhyena", or the YAML file
that the inference code takes; their defaults differ. Names of tensors begin with ``backbone.`` on the hub.

Poles and residues become the filters as they are, so that decoding is the recurrence of the same function.
``use_flash_rmsnorm`` has ε inside of the root.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ..checkpoint import add_checkpoint
from ..configurations import Configuration, read_configuration, require
from ..convolution.gated.striped_hyena import ACTIVATIONS, convert_block, mixer_options, norm_options
from ..importer import Weights
from ..language_models import Read, language_model

UNREAD = "this variant is not supported"
CHARACTERS = "CharLevelTokenizer"
END, PADDING = 0, 1
"""Ids of ``CharLevelTokenizer``, whose tokens are bytes: stripedhyena/tokenizer.py, vortex/model/tokenizer.py."""
ROUNDING = 4
"""Units in the last place by which stored frequencies may differ."""


@dataclass(frozen=True, kw_only=True)
class HyenaConfiguration(Configuration):
    """What the configurations of StripedHyena and of vortex have in common.

    ``inner_size_multiple_of`` and ``model_parallel_size`` give the width of the MLP, as do the shapes of its tensors.
    ``column_split`` and ``split_k0`` are read by nothing in StripedHyena. ``prefill_style`` chooses between ways to
    compute one state.
    """

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({
        "model_name", "num_filters", "mlp_init_method", "mlp_output_init_method", "make_vocab_size_divisible_by",
        "log_intermediate_values", "split_k0", "pipe_parallel_size", "pile_parallel_size", "max_seqlen",
        "max_sequence_len", "max_batch_size", "use_flash_attn", "use_flash_attention_2", "use_flash_depthwise",
        "use_flashfft", "use_laughing_hyena", "inference_mode", "vocab_file", "rng_fork", "compile", "low_mem_mode",
        "depthwise_dtype", "hyena_block_dtype", "attn_block_dtype", "mlp_dtype", "params_dtype", "seqlen",
        "inner_size_multiple_of", "model_parallel_size", "prefill_style", "print_activations",
    })  # fmt: skip

    hidden_size: int
    num_layers: int
    num_attention_heads: int
    attn_layer_idxs: list[int]
    state_size: int
    short_filter_bias: bool
    qkv_proj_bias: bool
    eps: float
    tie_embeddings: bool
    short_filter_length: int = 3
    column_split_hyena: bool = True
    long_fir_threshold: int | None = None
    proj_groups: int = 1
    smeared_gqa: bool = False
    mha_out_proj_bias: bool = True
    rotary_emb_base: int | float = 10000.0
    use_interpolated_rotary_pos_emb: bool = False
    rotary_emb_scaling_factor: int | float = 1.0
    mlp_activation: str = "silu"
    inner_mlp_size: int | None = None
    use_flash_rmsnorm: bool = False
    final_norm: bool = True
    tokenizer_type: str | None = None


@dataclass(frozen=True, kw_only=True)
class StripedHyenaConfiguration(HyenaConfiguration):
    """The YAML file of StripedHyena-7B and Evo."""

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"column_split"})

    hyena_layer_idxs: list[int]
    hyena_filter_groups: int | None = None
    qkv_proj_bias: bool = True


@dataclass(frozen=True, kw_only=True)
class StripedHyenaHubConfiguration(StripedHyenaConfiguration):
    """``StripedHyenaConfig``, the class of ``config.json``."""

    hidden_size: int = 4096
    num_layers: int = 32
    num_attention_heads: int = 32
    attn_layer_idxs: list[int] = field(default_factory=list)
    hyena_layer_idxs: list[int] = field(default_factory=list)
    state_size: int = 2
    short_filter_bias: bool = True
    eps: float = 1e-5
    tie_embeddings: bool = False
    hyena_filter_groups: int | None = 1
    proj_groups: int = 4
    qkv_proj_bias: bool = False
    mha_out_proj_bias: bool = False
    rotary_emb_base: int | float = 500000
    inner_mlp_size: int | None = 14336
    use_flash_rmsnorm: bool = True


BLOCK = ("hidden_size", "state_size", "num_attention_heads", "hyena_filter_groups", "short_filter_length",
         "short_filter_bias", "column_split_hyena", "long_fir_threshold", "mlp_activation")  # fmt: skip
"""Options of the model that each of its blocks of Hyena gets under the same name."""


def read(config: Mapping[str, Any], weights: Weights) -> Read:
    """``StripedHyena``, and ``StripedHyenaModelForCausalLM`` of the hub."""
    kind = StripedHyenaHubConfiguration if config.get("model_type") else StripedHyenaConfiguration
    c: StripedHyenaConfiguration = read_configuration(kind, config)
    check(c)
    require("mlp_activation", c.mlp_activation, tuple(ACTIVATIONS), UNREAD)
    hyper = {name: getattr(c, name) for name in BLOCK}
    options = mixer_options(**hyper)
    inner = weights.part("backbone.") if "backbone.embedding_layer.weight" in weights else weights
    specs: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for i in range(c.num_layers):
        part = inner.part(f"blocks.{i}.")
        if i in c.attn_layer_idxs:
            mixer, converted = ["attention", attention_options(c)], attention_block(c, part)
        elif i in c.hyena_layer_idxs:
            mixer, converted = ["striped_hyena", options], convert_block(part, hyper)
        else:
            raise layer_error(i)
        specs.append(layer(c, mixer, ACTIVATIONS[c.mlp_activation], converted))
        tensors |= {f"model.backbone.blocks.{i}.{name}": tensor for name, tensor in converted.items()}
    return model(c, inner, specs, tensors)


def check(c: HyenaConfiguration) -> None:
    """Raise for options that the originals' forward fails with, or that were not read there."""
    require("final_norm", c.final_norm, (True,), "the original's forward has no other form")
    require("smeared_gqa", c.smeared_gqa, (False,), UNREAD)
    if c.num_attention_heads % c.proj_groups or c.hidden_size % c.num_attention_heads:
        got = f"hidden_size={c.hidden_size}, num_attention_heads={c.num_attention_heads}, proj_groups={c.proj_groups}"
        raise argument_error("load_checkpoint", got, "each a multiple of the next", "correct the configuration")


def layer_error(index: int) -> ValueError:
    """The error of a layer of no kind."""
    got = f"layer {index} in none of the lists of layers"
    return argument_error("load_checkpoint", got, "each layer in one of them", "correct the configuration")


def attention_options(c: HyenaConfiguration) -> dict[str, Any]:
    """Options of the attention mixer; positions may be interpolated."""
    return {
        "num_heads": c.num_attention_heads,
        "num_kv_heads": c.num_attention_heads // c.proj_groups,
        "qkv_bias": c.qkv_proj_bias,
        "o_bias": c.mha_out_proj_bias,
        "rotary_base": float(c.rotary_emb_base),
        "rotary_scaling": float(c.rotary_emb_scaling_factor) if c.use_interpolated_rotary_pos_emb else 1.0,
    }


def attention_block(c: HyenaConfiguration, w: Weights) -> dict[str, Tensor]:
    """``AttentionBlock``: its MHA is flash_attn's, whose rows are queries, keys, values."""
    heads = w.part("inner_mha_cls.")
    _check_frequencies(c, heads)
    tensors = {"mixer.qkv_proj.weight": heads.take("Wqkv.weight"), "mixer.o_proj.weight": heads.take("out_proj.weight")}
    if c.qkv_proj_bias:
        tensors["mixer.qkv_proj.bias"] = heads.take("Wqkv.bias")
    if c.mha_out_proj_bias:
        tensors["mixer.o_proj.bias"] = heads.take("out_proj.bias")
    return tensors | norms_and_mlp(w)


def norms_and_mlp(w: Weights) -> dict[str, Tensor]:
    """What both kinds of blocks have around their mixer."""
    return {
        "mixer_norm.weight": w.take("pre_norm.scale"),
        "mlp_norm.weight": w.take("post_norm.scale"),
        "mlp.up.weight": torch.cat([w.take("mlp.l1.weight"), w.take("mlp.l2.weight")]),
        "mlp.down.weight": w.take("mlp.l3.weight"),
    }


def layer(c: HyenaConfiguration, mixer: list[Any], mlp: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """A layer of the pattern."""
    hidden = tensors["mlp.down.weight"].shape[1]
    require("inner_mlp_size", c.inner_mlp_size, (None, hidden), "correct the configuration")
    return {"mixer": mixer[0], "options": mixer[1], "mlp": mlp, "mlp_hidden": hidden, "mlp_bias": False}


def model(c: HyenaConfiguration, w: Weights, specs: list[Any], tensors: dict[str, Tensor]) -> Read:
    """Embeddings, the layers, the last norm and the head."""
    tensors["model.backbone.norm.weight"] = w.take("norm.scale")
    shape = {"hidden_size": c.hidden_size, "norm": "rms", "norm_options": norm_options(c)}
    embedding, head = "embedding_layer.weight", "unembed.weight"
    options, tensors = language_model(c, w, embedding, specs, tensors, shape, c.tie_embeddings, head)
    ends = {"eos_token_id": END, "pad_token_id": PADDING} if c.tokenizer_type == CHARACTERS else {}
    return {**options, **{name: token for name, token in ends.items() if options[name] is None}}, tensors


def _check_frequencies(c: HyenaConfiguration, heads: Weights) -> None:
    """Some checkpoints store the frequencies of rotation, which follow from the configuration."""
    name = "rotary_emb.inv_freq"
    if name not in heads:
        return
    stored, width = heads.take(name), c.hidden_size // c.num_attention_heads
    computed = float(c.rotary_emb_base) ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    rounding = ROUNDING * torch.finfo(stored.dtype).eps
    if stored.shape != computed.shape or not torch.allclose(stored.double().cpu(), computed, rtol=rounding, atol=0.0):
        got = f"{name} that is not that of rotary_emb_base={c.rotary_emb_base}"
        raise argument_error("load_checkpoint", got, "the frequencies of the base", "correct rotary_emb_base")


add_checkpoint("stripedhyena", read)
