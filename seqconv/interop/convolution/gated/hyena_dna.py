"""Whole checkpoints of HazyResearch/hyena-dna: ``HyenaDNAModel`` and its language model.

Read in standalone_hyenadna.py and src/models/sequence/long_conv_lm.py at commit d553021b. A folder holds
``config.json``, the arguments of the model, whose ``layer`` are those of the Hyena operator, and the tensors of
``backbone``, with or without ``model.`` in front, as safetensors. The published ``weights.ckpt`` are pickles of a
training framework: save their ``state_dict`` as ``model.safetensors`` first. Models trained with ``checkpoint_mixer``
or ``checkpoint_mlp`` have ``.layer`` in the names of what is inside. The head is tied to the embeddings.

Folders of the hub in transformers' style (``hyenadna-…-hf``) have the same tensors under ``hyena.`` and a flat
configuration; read in a copy of their configuration_hyena.py and modeling_hyena.py. Their filters have order 2, and the
ε of their blocks' norms is 1e-5 whatever ``layer_norm_epsilon`` says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...checkpoint import add_checkpoint
from ...configurations import Configuration, read_configuration, require
from ...importer import Weights
from .hyena import DNA
from .hyena import build as build_operator
from .hyena import convert as convert_operator

KIND = "hyenadna"
IGNORED = ("resid_dropout", "embed_dropout", "fused_mlp", "fused_dropout_add_ln", "residual_in_fp32", "initializer_cfg",
           "checkpoint_mixer", "checkpoint_mlp", "model_type", "architectures", "_name_")  # fmt: skip
"""Options that act on training, speed and dtypes alone."""

DEFAULTS: Mapping[str, Any] = {
    "d_model": ...,
    "n_layer": ...,
    "d_inner": ...,
    "vocab_size": ...,
    "layer": ...,
    "attn_layer_idx": None,
    "attn_cfg": None,
    "max_position_embeddings": 0,
    "layer_norm_epsilon": 1e-5,
    "pad_vocab_size_multiple": 1,
}
SHIFT = 0.05
"""Added to the windows by standalone_hyenadna.py, which loads the published weights; 0 in the training code.
A ``shift`` in ``layer`` comes first."""

OPTIONS = {
    "l_max": "l_max",
    "order": "order",
    "d_conv": "short_filter_order",
    "filter_order": "filter_order",
    "emb_dim": "emb_dim",
    "num_inner_mlps": "num_inner_mlps",
    "modulate": "modulate",
    "w": "w",
    "shift": "shift",
    "lr": "lr",
    "wd": "wd",
    "lr_pos_emb": "lr_pos_emb",
}
"""Options of our mixer, and those of the original that they come from."""


BLOCK_NORM_EPS = 1e-5
LAYER = {
    "l_max": "max_seq_len",
    "order": "hyena_order",
    "short_filter_order": "short_filter_order",
    "filter_order": "filter_order",
    "emb_dim": "emb_dim",
    "num_inner_mlps": "num_inner_mlps",
    "w": "activation_freq",
}
"""Options of the operator, and those of the hub's configuration."""


@dataclass(frozen=True, kw_only=True)
class HyenaDNAConfiguration(Configuration):
    """``HyenaConfig`` of the hub; without effect: dropout in training, and ``use_bias``, which nothing reads."""

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({
        "use_bias", "embed_dropout", "hyena_dropout", "hyena_filter_dropout", "pad_vocab_size_multiple",
    })  # fmt: skip
    FIXED: ClassVar[Mapping[str, tuple[Any, ...]]] = {"bidirectional": (False,)}

    d_model: int = 256
    d_inner: int | None = None
    n_layer: int = 12
    max_seq_len: int = 1024
    emb_dim: int = 3
    num_inner_mlps: int = 2
    hyena_order: int = 2
    short_filter_order: int = 3
    filter_order: int = 64
    activation_freq: int | float = 1
    train_freq: bool = True
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = True


def read(config: Mapping[str, Any], weights: Weights) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Options of ``SeqConvConfig`` and tensors of ``SeqConvForCausalLM``."""
    return _read(config, weights) if "layer" in config else _read_of_the_hub(config, weights)


def _read_of_the_hub(config: Mapping[str, Any], weights: Weights) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """``HyenaDNAForCausalLM``."""
    c = read_configuration(HyenaDNAConfiguration, config)
    require("hyena_order", c.hyena_order, (2,), "the original fails in its forward otherwise")
    require("short_filter_order", c.short_filter_order, (3,), "the original pads for three taps")
    require("train_freq", c.train_freq, (True,), "its frequencies are not stored otherwise")
    sizes = {"d_model": c.d_model, "n_layer": c.n_layer, "d_inner": c.d_inner or 4 * c.d_model}
    layer = {name: getattr(c, original) for name, original in LAYER.items()} | {"modulate": True}
    inner = {**sizes, "vocab_size": config.get("vocab_size"), "layer": layer, "layer_norm_epsilon": BLOCK_NORM_EPS}
    shape, tensors = _read(inner, weights.part("hyena."))
    if c.tie_word_embeddings:
        weights.ignore("lm_head.weight")
    else:
        tensors["lm_head.weight"] = weights.take("lm_head.weight")
    shape |= {"tie_word_embeddings": c.tie_word_embeddings, "final_norm_options": {"eps": c.layer_norm_epsilon}}
    tokens = {name: getattr(c, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    return shape | {name: token for name, token in tokens.items() if token is not None}, tensors


def _read(config: Mapping[str, Any], weights: Weights) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """``HyenaDNAModel`` of the training code, with its tied head."""
    for name in config:
        if name not in DEFAULTS and name not in IGNORED:
            raise unknown_name("load_checkpoint", "option of a HyenaDNA model", name, (*DEFAULTS, *IGNORED))
    c = {name: config.get(name, default) for name, default in DEFAULTS.items()}
    if c["attn_layer_idx"] or c["max_position_embeddings"]:
        got, wanted = "a model with attention layers or positions", "Hyena layers alone"
        raise argument_error("load_checkpoint", got, wanted, "import its layers one by one with from_original")
    given = {k: v for k, v in c["layer"].items() if k not in ("_name_", "local_order")}
    layer = {"shift": SHIFT, **given, "d_model": c["d_model"]}
    build_operator(DNA, **layer)  # raises for options that were not checked
    weights = weights.part("model.") if "model.backbone.ln_f.weight" in weights else weights
    tensors = {"model.embed_tokens.weight": weights.take("backbone.embeddings.word_embeddings.weight")}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    weights.ignore("lm_head.weight")
    for i in range(c["n_layer"]):
        tensors |= _block(config, layer, weights.part(f"backbone.layers.{i}."), f"model.backbone.blocks.{i}")
    tensors |= _affine(weights, "backbone.ln_f", "model.backbone.norm")
    mixer = {name: layer[original] for name, original in OPTIONS.items() if original in layer}
    shape = {
        "hidden_size": c["d_model"],
        "num_hidden_layers": c["n_layer"],
        "vocab_size": len(tensors["model.embed_tokens.weight"]),
        "mixer": "hyena",
        "mixer_options": {"lr_pos_emb": 1e-5, "lr": 1e-3} | mixer,
        "norm": "layer",
        "norm_options": {"eps": c["layer_norm_epsilon"]},
        "mlp": "gelu_tanh",
        "mlp_hidden": c["d_inner"],
        "mlp_bias": True,
        "tie_word_embeddings": True,
        "final_norm": True,
        "pad_token_id": 4,
        "bos_token_id": 2,
        "eos_token_id": 1,
    }
    return shape, tensors


def _block(config: Mapping[str, Any], layer: Mapping[str, Any], part: Weights, block: str) -> dict[str, Tensor]:
    mixer, mlp = (f"{kind}.layer." if config.get(f"checkpoint_{kind}") else f"{kind}." for kind in ("mixer", "mlp"))
    converted = convert_operator(part.part(mixer), layer, original=DNA)
    tensors = {f"{block}.mixer.{name}": tensor for name, tensor in converted.items()}
    tensors |= _affine(part, "norm1", f"{block}.mixer_norm") | _affine(part, "norm2", f"{block}.mlp_norm")
    for name, original in (("up", "fc1"), ("down", "fc2")):
        tensors |= _affine(part, f"{mlp}{original}", f"{block}.mlp.{name}")
    return tensors


def _affine(weights: Weights, original: str, name: str) -> dict[str, Tensor]:
    return {f"{name}.{tensor}": weights.take(f"{original}.{tensor}") for tensor in ("weight", "bias")}


add_checkpoint(KIND, read)
