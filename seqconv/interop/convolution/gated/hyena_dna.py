"""Whole checkpoints of HazyResearch/hyena-dna: ``HyenaDNAModel`` and its language model.

Read in standalone_hyenadna.py and src/models/sequence/long_conv_lm.py at commit d553021b. A folder holds
``config.json``, the arguments of the model, whose ``layer`` are those of the Hyena operator, and the tensors of
``backbone``, with or without ``model.`` in front, as safetensors. The published ``weights.ckpt`` are pickles of a
training framework: save their ``state_dict`` as ``model.safetensors`` first. Models trained with ``checkpoint_mixer``
or ``checkpoint_mlp`` have ``.layer`` in the names of what is inside. The head is tied to the embeddings.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...checkpoint import add_checkpoint
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


def read(config: Mapping[str, Any], weights: Weights) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Options of ``SeqConvConfig`` and tensors of ``SeqConvForCausalLM``."""
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
