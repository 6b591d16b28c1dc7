"""facebookresearch/mega: the moving average, the gated attention block, and the encoder layer around it.

Which of the two attention masks the original is called with is not part of its constructor: ``causal`` says so
here, and means one direction for the moving average too, unless ``bidirectional`` is given instead (the original's
encoder and decoder layers know no other combination). The original counts padding as tokens, takes rotary tables in
float32 and steps without the truncation; so does what is imported.

Every option was read in the original at aeaa4b4, in ``fairseq/modules``: ``exponential_moving_average.py``,
``moving_average_gated_attention.py``, ``mega_sentence_encoder_layer.py``, ``normalized_feedforward_network.py``,
``sequence_norm.py``, ``relative_positional_bias.py``; the activations in ``get_activation_fn`` of ``fairseq/utils.py``.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...blocks import Block
from ...mixers.attention.mega import Mega
from ...mixers.recurrent.ema import EMA
from ..importer import Weights, add_importer, options

EMA_ORIGINAL = "facebookresearch/mega:MultiHeadEMA"
BLOCK_ORIGINAL = "facebookresearch/mega:MovingAverageGatedAttention"
LAYER_ORIGINAL = "facebookresearch/mega:MegaSentenceEncoderLayer"

EMA_DEFAULTS = {"embed_dim": ..., "ndim": 2, "bidirectional": False, "truncation": None}
BLOCK_DEFAULTS = {
    "embed_dim": ...,
    "zdim": ...,
    "hdim": ...,
    "ndim": ...,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
    "activation": "silu",
    "attention_activation": "softmax",
    "bidirectional": None,
    "causal": None,
    "chunk_size": -1,
    "truncation": None,
    "norm_type": "layernorm",
    "prenorm": True,
    "norm_affine": True,
    "feature_dropout": False,
    "rel_pos_bias": "simple",
    "max_positions": 1024,
}
LAYER_DEFAULTS = {k: v for k, v in BLOCK_DEFAULTS.items() if k != "norm_affine"} | {
    "embed_dim": 512,
    "zdim": 128,
    "hdim": 1024,
    "ndim": 16,
    "ffn_hidden_dim": 1024,
    "bidirectional": True,
}
RENAMED = {"embedding_dim": "embed_dim", "hidden_dim": "hdim", "z_dim": "zdim", "n_dim": "ndim"}
"""Names of the layer's constructor for those of the block."""

NORMS = {
    "layernorm": "layer",
    "scalenorm": "scale",
    "rmsnorm": "rms",
    "batchnorm": "batch",
    "syncbatchnorm": "batch",
}
ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "silu": "silu",
    "linear": "identity",
}
IGNORED = ("export",)


def build_ema(**hyper: Any) -> EMA:
    """The moving average with the options of the original."""
    o = options(EMA_ORIGINAL, hyper, EMA_DEFAULTS)
    return EMA(
        o.embed_dim,
        d_state=o.ndim,
        bidirectional=o.bidirectional,
        truncation=o.truncation,
        untruncated_steps=True,
    )


def convert_ema(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The original's tensors; it concatenates both directions."""
    o = options(EMA_ORIGINAL, hyper, EMA_DEFAULTS)
    return _ema(weights, "", o.embed_dim, o.bidirectional)


def build_block(**hyper: Any) -> Mega:
    """The mixer with the options of the original."""
    return _mega(_block_options(BLOCK_ORIGINAL, hyper), BLOCK_ORIGINAL)


def convert_block(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The original's tensors under seqconv's names."""
    return _gated(weights, "", _block_options(BLOCK_ORIGINAL, hyper))


def build_layer(**hyper: Any) -> Block:
    """The mixer and the feed-forward network with the options of the original."""
    o = _layer_options(hyper)
    norm, options_ = _norm(o, LAYER_ORIGINAL)
    return Block(
        _mega(o, LAYER_ORIGINAL),
        mlp=_activation(o, LAYER_ORIGINAL) if o.ffn_hidden_dim else "none",
        mlp_hidden=o.ffn_hidden_dim,
        norm=norm,
        norm_options=options_,
        norm_placement="pre" if o.prenorm else "post",
        dropout=float(o.dropout),
        mlp_dropout=float(o.hidden_dropout),
        tie_dropout=o.feature_dropout,
    )


def convert_layer(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The original's tensors under seqconv's names."""
    o = _layer_options(hyper)
    converted = {f"mixer.{name}": tensor for name, tensor in _gated(weights, "mega_layer.", o).items()}
    if not o.ffn_hidden_dim:
        return converted
    for original, name in (("fc1", "mlp.up"), ("fc2", "mlp.down")):
        for part in ("weight", "bias"):
            converted[f"{name}.{part}"] = weights.take(f"nffn.{original}.{part}")
    norm = _norm_weights(weights, "nffn.norm.norm.", o)
    return converted | {f"mlp_norm.{name}": tensor for name, tensor in norm.items()}


def _block_options(original: str, hyper: Mapping[str, Any], known: Mapping[str, Any] = BLOCK_DEFAULTS) -> Any:
    ignored = IGNORED if "ffn_hidden_dim" in known else (*IGNORED, "ffn_hidden_dim")
    o = options(original, hyper, known, ignored)
    if o.causal is not None and hyper.get("bidirectional") not in (None, not o.causal):
        got = f"causal={o.causal} and bidirectional={hyper['bidirectional']}"
        raise argument_error(
            f"from_original({original!r})", got, "one the opposite of the other", "give one of the two"
        )
    o.bidirectional = bool(o.bidirectional) if o.causal is None else not o.causal
    return o


def _layer_options(hyper: Mapping[str, Any]) -> Any:
    named = {RENAMED.get(name, name): value for name, value in hyper.items()}
    o = _block_options(LAYER_ORIGINAL, named, LAYER_DEFAULTS)
    o.norm_affine = True
    o.ffn_hidden_dim = _bound(o.ffn_hidden_dim)
    return o


def _mega(o: Any, original: str) -> Mega:
    return Mega(
        o.embed_dim,
        d_k=o.zdim,
        d_v=o.hdim,
        d_state=o.ndim,
        bidirectional=o.bidirectional,
        truncation=o.truncation,
        untruncated_steps=True,
        attention=o.attention_activation,
        position_bias=o.rel_pos_bias,
        max_positions=o.max_positions,
        attention_chunk_size=_bound(o.chunk_size),
        activation=_activation(o, original),
        norm=_norm(o, original)[0],
        prenorm=o.prenorm,
        norm_affine=o.norm_affine,
        dropout=float(o.dropout),
        attention_dropout=float(o.attention_dropout),
        hidden_dropout=float(o.hidden_dropout),
        tie_dropout=o.feature_dropout,
        count_padding=True,
        float32_table=True,
    )


def _activation(o: Any, original: str) -> str:
    if o.activation not in ACTIVATIONS:
        raise unknown_name(f"from_original({original!r})", "activation", o.activation, ACTIVATIONS)
    return ACTIVATIONS[o.activation]


def _bound(size: int | None) -> int | None:
    """Sizes that are not positive mean none in the original."""
    return size if size is not None and size > 0 else None


def _norm(o: Any, original: str) -> tuple[str, dict[str, Any]]:
    if o.norm_type not in NORMS:
        raise unknown_name(f"from_original({original!r})", "norm_type", o.norm_type, NORMS)
    name = NORMS[o.norm_type]
    given = {} if o.norm_affine else {"affine": False}
    return name, given | ({"masked": False} if name == "batch" else {})


def _gated(weights: Weights, prefix: str, o: Any) -> dict[str, Tensor]:
    """The tensors of the gated attention and its moving average, under seqconv's names."""
    converted = {"qk_scale": weights.take(f"{prefix}gamma"), "qk_shift": weights.take(f"{prefix}beta")}
    for name in ("v_proj", "mx_proj", "h_proj"):
        for part in ("weight", "bias"):
            converted[f"{name}.{part}"] = weights.take(f"{prefix}{name}.{part}")
    bias = f"{prefix}rel_pos_bias."
    if o.rel_pos_bias == "simple":
        converted["rel_pos_bias.weight"] = weights.take(f"{bias}rel_pos_bias")
    else:
        weights.ignore(f"{bias}_float_tensor")
        for original, name in (("alpha", "query"), ("beta", "key")):
            converted[f"rel_pos_bias.{name}"] = weights.take(f"{bias}{original}")[0]
    memory = _ema(weights, f"{prefix}move.", o.embed_dim, o.bidirectional)
    converted |= {f"memory.{name}": tensor for name, tensor in memory.items()}
    norm = _norm_weights(weights, f"{prefix}norm.norm.", o)
    converted |= {f"norm.{name}": tensor for name, tensor in norm.items()}
    return converted


def _norm_weights(weights: Weights, prefix: str, o: Any) -> dict[str, Tensor]:
    names = {
        "layernorm": {"weight": "weight", "bias": "bias"},
        "scalenorm": {"scalar": "weight"},
        "rmsnorm": {"weight": "weight"},
    }.get(o.norm_type, {"weight": "tokens.weight", "bias": "tokens.bias"})
    taken = {name: weights.take(prefix + original) for original, name in names.items()} if o.norm_affine else {}
    if NORMS[o.norm_type] == "batch":
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            taken[f"tokens.{name}"] = weights.take(prefix + name).detach()
    return taken


def _ema(weights: Weights, prefix: str, d_model: int, bidirectional: bool) -> dict[str, Tensor]:
    converted = {"skip": weights.take(f"{prefix}omega")}
    for name in ("delta", "alpha", "beta", "gamma"):
        both = weights.take(prefix + name)
        both = both if name == "gamma" else both.squeeze(-1)
        converted[f"convolution.filter.{name}"] = both[:d_model]
        if bidirectional:
            converted[f"convolution.backward.{name}"] = both[d_model:]
    return converted


add_importer(EMA_ORIGINAL, build=build_ema, convert=convert_ema)
add_importer(BLOCK_ORIGINAL, build=build_block, convert=convert_block)
add_importer(LAYER_ORIGINAL, build=build_layer, convert=convert_layer)
