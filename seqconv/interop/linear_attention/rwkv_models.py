"""Reading language models of RWKV: fla's folders and the single ``.pth`` files of BlinkDL/RWKV-LM.

Blocks are ``x + att(ln1(x))``, then ``x + ffn(ln2(x))``, with a norm after the embeddings and one before the head:
read in RWKV-v7/rwkv_v7_demo.py and RWKV-v5/src/model.py of BlinkDL/RWKV-LM at 524481d5, and in fla/models/rwkv7 and
rwkv6 of fla-org/flash-linear-attention at bc3b101d. A ``.pth`` file has no configuration: its tensors give all sizes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ..checkpoint import add_checkpoint
from ..configurations import FLA, Configuration, read_configuration, require
from ..files import PTH
from ..importer import Weights
from . import rwkv6, rwkv7

Read = tuple[dict[str, Any], dict[str, Tensor]]
"""Options of ``SeqConvConfig`` and tensors of ``SeqConvForCausalLM``."""
Convert = Callable[[Weights, int], dict[str, Tensor]]
"""From the tensors of a layer's part and the layer's number to those of seqconv."""

NORM_EPS = 1e-5
END_OF_TEXT = 0
"""Token between documents in the files of BlinkDL/RWKV-LM."""
UNSUPPORTED = "this variant is not supported"


@dataclass(frozen=True, kw_only=True)
class RWKV7Configuration(Configuration):
    """``RWKV7Config`` of fla-org/flash-linear-attention, fla/models/rwkv7/configuration_rwkv7.py at commit bc3b101d.

    Without effect: what all models of fla have, and the widths of bottlenecks, known from the shapes of tensors.
    """

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = FLA | frozenset({
        "decay_low_rank_dim", "gate_low_rank_dim", "a_low_rank_dim", "v_low_rank_dim",
    })  # fmt: skip

    hidden_size: int = 2048
    num_hidden_layers: int = 24
    head_dim: int | None = 64
    num_heads: int | None = None
    hidden_act: str = "sqrelu"
    norm_first: bool = True
    norm_bias: bool = True
    norm_eps: float = NORM_EPS
    fuse_norm: bool = True
    value_dim: int | list[int] | None = None
    attn: dict[str, Any] | None = None
    tie_word_embeddings: bool = False
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2


@dataclass(frozen=True, kw_only=True)
class RWKV6Configuration(Configuration):
    """``RWKV6Config`` of fla-org/flash-linear-attention, fla/models/rwkv6/configuration_rwkv6.py at commit bc3b101d.

    Without effect: as in :class:`RWKV7Configuration`; ``fuse_norm`` changes speed alone.
    """

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = FLA | frozenset({
        "proj_low_rank_dim", "gate_low_rank_dim", "fuse_norm",
    })  # fmt: skip

    hidden_size: int = 2048
    num_hidden_layers: int = 24
    expand_k: int | float = 0.5
    expand_v: int | float = 1.0
    num_heads: int = 4
    hidden_act: str = "sqrelu"
    norm_first: bool = True
    norm_bias: bool = True
    norm_eps: float = NORM_EPS
    attn: dict[str, Any] | None = None
    tie_word_embeddings: bool = False
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2


def read_rwkv7(config: Mapping[str, Any], weights: Weights) -> Read:
    """``RWKV7ForCausalLM`` of fla."""
    c = read_configuration(RWKV7Configuration, config)
    _check_fla(c)
    widths = c.value_dim if isinstance(c.value_dim, list) else [c.value_dim]
    for width in widths:
        require("value_dim", width, (None, c.hidden_size), UNSUPPORTED)
    names = ("hidden_size", "head_dim", "num_heads", "norm_eps", "fuse_norm")
    ranks = {}
    for part, bottleneck in (("decay", "w"), ("a", "a"), ("gate", "g"), ("v", "v")):
        name = f"model.layers.{min(1, c.num_hidden_layers - 1)}.attn.{bottleneck}_lora.lora.0.weight"
        if name in weights:
            ranks[f"{part}_low_rank_dim"] = weights.peek(name).shape[0]
    options = rwkv7.fla_options(**{name: getattr(c, name) for name in names}, **ranks)

    def ffn(part: Weights, _: int) -> dict[str, Tensor]:
        return rwkv7.convert_channel_mix(part, {})

    return _read_fla(c, weights, ["rwkv7", options], lambda w, i: rwkv7.convert_fla_time_mix(w, i == 0), ffn)


def read_rwkv6(config: Mapping[str, Any], weights: Weights) -> Read:
    """``RWKV6ForCausalLM`` of fla."""
    c = read_configuration(RWKV6Configuration, config)
    _check_fla(c)
    names = ("hidden_size", "expand_k", "expand_v", "num_heads", "norm_eps")
    first = weights.part("model.layers.0.attn.")
    ranks = {
        "proj_low_rank_dim": first.peek("x_proj.0.linear.weight").shape[0] // 5,
        "gate_low_rank_dim": first.peek("w_proj.linear.lora.0.weight").shape[0],
    }
    options = rwkv6.fla_options(**{name: getattr(c, name) for name in names}, **ranks)

    def ffn(part: Weights, _: int) -> dict[str, Tensor]:
        found = {"value.weight": part.take("value.weight")}
        for name, shift in (("key", "x_k"), ("receptance", "x_r")):
            found |= {f"{name}.weight": part.take(f"{name}.linear.weight"), shift: part.take(f"{name}.mu")}
        return found

    return _read_fla(c, weights, ["rwkv6", options], lambda w, _: rwkv6.convert_fla_time_mix(w, {}), ffn)


def _check_fla(c: RWKV7Configuration | RWKV6Configuration) -> None:
    require("attn", c.attn, (None,), "hybrids with attention are not supported")
    require("hidden_act", c.hidden_act, ("sqrelu",), UNSUPPORTED)
    require("norm_bias", c.norm_bias, (True,), UNSUPPORTED)
    require("norm_eps", float(c.norm_eps), (NORM_EPS,), UNSUPPORTED)


def _read_fla(
    c: RWKV7Configuration | RWKV6Configuration, weights: Weights, spec: list[Any], att: Convert, ffn: Convert
) -> Read:
    names = _Names("model.layers", "attn_norm", "ffn_norm", "attn", "ffn", "pre_norm" if c.norm_first else None)
    tensors = _blocks(weights, c.num_hidden_layers, names, att, ffn) | _norm(weights, "model.norm", "backbone.norm")
    head = "model.embeddings.weight" if c.tie_word_embeddings else "lm_head.weight"
    if c.tie_word_embeddings:
        weights.ignore("lm_head.weight")
    tensors |= {"model.embed_tokens.weight": weights.take("model.embeddings.weight")}
    tensors |= {"lm_head.weight": weights.take(head)}
    tokens = {name: getattr(c, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    sizes = {"embedding_norm": c.norm_first, "tie_word_embeddings": c.tie_word_embeddings}
    return _options(c.num_hidden_layers, spec, tensors) | sizes | tokens, tensors


def read_pth(_: Mapping[str, Any], weights: Weights) -> Read:
    """A ``.pth`` file of BlinkDL/RWKV-LM, of RWKV-6 or RWKV-7.

    Raises:
        ValueError: another version of RWKV.
    """
    depth = 0
    while f"blocks.{depth}.ln1.weight" in weights:
        depth += 1
    first = weights.part("blocks.0.att.")
    names = _Names("blocks", "ln1", "ln2", "att", "ffn", "ln0")
    if "x_r" in first and "w1" in first and depth:
        spec = ["rwkv7", _rwkv7_options(weights.part(f"blocks.{min(1, depth - 1)}.att."))]
        att: Convert = lambda w, i: rwkv7.convert_time_mix(w, i == 0)  # noqa: E731
        ffn: Convert = lambda w, _: rwkv7.convert_channel_mix(w, {})  # noqa: E731
    elif "time_maa_x" in first and "time_maa_w1" in first and depth:
        spec = ["rwkv6", _rwkv6_options(first)]
        att = lambda w, _: rwkv6.convert_time_mix(w, {})  # noqa: E731
        ffn = lambda w, _: rwkv6.convert_channel_mix(w, {})  # noqa: E731
    else:
        remedy = "load RWKV-4 from transformers' folders, or take RWKV-6 or RWKV-7"
        raise argument_error("load_checkpoint", "a .pth file of another model", "one of RWKV-6 or RWKV-7", remedy)
    tensors = _blocks(weights, depth, names, att, ffn) | _norm(weights, "ln_out", "backbone.norm")
    tensors |= {"model.embed_tokens.weight": weights.take("emb.weight"), "lm_head.weight": weights.take("head.weight")}
    rest = {"embedding_norm": True, "tie_word_embeddings": False, "eos_token_id": END_OF_TEXT}
    return _options(depth, spec, tensors) | rest | {"bos_token_id": END_OF_TEXT}, tensors


def _rwkv7_options(w: Weights) -> dict[str, Any]:
    ranks = {"decay_low_rank_dim": "w1", "a_low_rank_dim": "a1", "gate_low_rank_dim": "g1", "v_low_rank_dim": "v1"}
    found = {name: w.peek(tensor).shape[1] for name, tensor in ranks.items() if tensor in w}
    return {"head_dim": w.peek("r_k").shape[1]} | found


def _rwkv6_options(w: Weights) -> dict[str, Any]:
    heads, head_size = w.peek("time_faaaa").shape
    _, mix, width = w.peek("time_maa_w2").shape
    expand = heads * head_size / width
    ranks = {"proj_low_rank_dim": mix, "decay_low_rank_dim": w.peek("time_decay_w1").shape[1]}
    return {"head_dim": head_size, "expand_k": expand, "expand_v": expand} | ranks


@dataclass(frozen=True)
class _Names:
    """What the original calls the layers and their parts; ``embedding``: the norm that the first layer begins with."""

    layers: str
    mixer_norm: str
    mlp_norm: str
    mixer: str
    mlp: str
    embedding: str | None


def _blocks(weights: Weights, depth: int, names: _Names, att: Convert, ffn: Convert) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for i in range(depth):
        part, block = weights.part(f"{names.layers}.{i}."), f"backbone.blocks.{i}"
        tensors |= _norm(part, names.mixer_norm, f"{block}.mixer_norm")
        tensors |= _norm(part, names.mlp_norm, f"{block}.mlp_norm")
        if i == 0 and names.embedding is not None:
            tensors |= _norm(part, names.embedding, "embedding_norm")
        for kind, original, convert in (("mixer", names.mixer, att), ("mlp", names.mlp, ffn)):
            converted = convert(part.part(f"{original}."), i)
            tensors |= {f"model.{block}.{kind}.{name}": t for name, t in converted.items()}
    return tensors


def _norm(weights: Weights, original: str, name: str) -> dict[str, Tensor]:
    return {f"model.{name}.{tensor}": weights.take(f"{original}.{tensor}") for tensor in ("weight", "bias")}


def _options(depth: int, spec: list[Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    mixer, options = spec
    hidden, width = tensors["model.backbone.blocks.0.mlp.key.weight"].shape
    return {
        "hidden_size": width,
        "vocab_size": tensors["model.embed_tokens.weight"].shape[0],
        "num_hidden_layers": depth,
        "mixer": mixer,
        "mixer_options": {name: value for name, value in options.items() if name != "d_model"},
        "mlp": mixer,
        "mlp_hidden": hidden,
        "norm": "layer",
        "norm_options": {"eps": NORM_EPS},
        "final_norm": True,
    }


add_checkpoint("rwkv7", read_rwkv7)
add_checkpoint("rwkv6", read_rwkv6)
add_checkpoint(PTH, read_pth)
