"""Reading adaptive embeddings with their softmax: fairseq's as MEGA uses them, and state-spaces/s4's Transformer-XL's.

Read in ``fairseq/models/mega_lm.py`` and ``fairseq/modules/adaptive_{input,softmax}.py`` of facebookresearch/mega at
aeaa4b4, in ``src/models/nn/adaptive_softmax.py`` and ``src/tasks/tasks.py`` of state-spaces/s4 at e757cef. The tensors
are those of the decoder (``embed_tokens.*``, ``adaptive_softmax.*``) and of the task (``encoder.*``, ``loss.*``).
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from .importer import Weights, add_importer, options

if TYPE_CHECKING:
    from ..hf.adaptive.build import AdaptiveVocabulary

S4 = "state-spaces/s4:AdaptiveLMTask"
S4_DEFAULTS = {
    "n_tokens": ..., "d_model": ..., "div_val": ..., "cutoffs": ..., "tie_weights": ..., "tie_projs": ...,
    "dropemb": 0.0, "dropsoft": 0.0, "init_scale": 1.0, "bias_scale": 0.0,
}  # fmt: skip
MEGA = "facebookresearch/mega:AdaptiveSoftmax"
MEGA_DEFAULTS = {
    "vocab_size": ..., "decoder_embed_dim": ..., "cutoff": ..., "factor": 4, "tie_adaptive_weights": False,
    "tie_adaptive_proj": False, "adaptive_softmax_dropout": 0.0, "no_scale_embedding": True,
}  # fmt: skip


def _s4(hyper: Mapping[str, Any]) -> Any:
    o = options(S4, hyper, S4_DEFAULTS)
    if len(set(o.tie_projs)) != 1 or len(o.tie_projs) != len(o.cutoffs):
        got, wanted = f"tie_projs={o.tie_projs}", "one value for every cutoff, all the same"
        raise argument_error(f"from_original({S4!r})", got, wanted, "this variant is not supported")
    if o.tie_projs[0] and not o.tie_weights:
        got, wanted = "tie_projs without tie_weights", "both, or weights alone"
        raise argument_error(f"from_original({S4!r})", got, wanted, "this variant is not supported")
    return o


def _vocabulary(tokens: int, width: int, cutoffs: Any, scale: float, own: Mapping[str, Any]) -> "AdaptiveVocabulary":
    from ..hf.adaptive.build import AdaptiveVocabulary
    from ..hf.adaptive.layers import AdaptiveEmbedding, AdaptiveSoftmax
    from ..hf.adaptive.options import AdaptiveOptions

    sizes = (tokens, width, list(cutoffs), AdaptiveOptions(**own))
    return AdaptiveVocabulary(AdaptiveEmbedding(*sizes), AdaptiveSoftmax(*sizes), scale)


def _build_s4(**hyper: Any) -> "AdaptiveVocabulary":
    o = _s4(hyper)
    projected = o.div_val != 1
    own = {
        "factor": o.div_val, "project": projected, "head_projection": projected, "tie_projections": o.tie_projs[0],
        "bias": True, "dropout": o.dropsoft, "embedding_dropout": o.dropemb, "init": "transformer_xl",
        "init_scale": o.init_scale, "bias_scale": o.bias_scale,
    }  # fmt: skip
    return _vocabulary(o.n_tokens, o.d_model, o.cutoffs, math.sqrt(o.d_model), own)


def _convert_s4(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """Clusters stand in reverse there; without projections all bands share one matrix and one bias."""
    o = _s4(hyper)
    bounds = list(zip([0, *o.cutoffs], [*o.cutoffs, o.n_tokens], strict=True))
    w.ignore_part("loss.shared_out_projs.")
    if o.tie_weights:
        w.ignore_part("loss.out_layers_weights.")
    words = "encoder.emb_layers.{}.weight" if o.tie_weights else "loss.out_layers_weights.{}"
    found = {"lm_head.clusters.weight": w.take("loss.cluster_weight").flip(0)}
    found["lm_head.clusters.bias"] = w.take("loss.cluster_bias").flip(0)
    for i, (start, end) in enumerate(bounds):
        band, rows = (i, slice(None)) if o.div_val != 1 else (0, slice(start, end))
        found[f"embed_tokens.bands.{i}.weight"] = w.take(f"encoder.emb_layers.{band}.weight")[rows]
        found[f"lm_head.words.{i}.weight"] = w.take(words.format(band))[rows]
        found[f"lm_head.words.{i}.bias"] = w.take(f"loss.out_layers_biases.{band}")[rows]
        if o.div_val != 1:
            own = i == 0 or not o.tie_projs[0]
            found[f"embed_tokens.projections.{i}.weight"] = w.take(f"encoder.emb_projs.{i}")
            found[f"lm_head.projections.{i}.weight"] = w.take(f"{'loss.out' if own else 'encoder.emb'}_projs.{i}")
    return found


def _build_mega(**hyper: Any) -> "AdaptiveVocabulary":
    o = options(MEGA, hyper, MEGA_DEFAULTS)
    own = {
        "factor": o.factor, "tie_projections": o.tie_adaptive_proj, "dropout": o.adaptive_softmax_dropout,
        "hidden_dropout": o.adaptive_softmax_dropout,
    }  # fmt: skip
    scale = 1.0 if o.no_scale_embedding else math.sqrt(o.decoder_embed_dim)
    return _vocabulary(o.vocab_size, o.decoder_embed_dim, o.cutoff, scale, own)


def _convert_mega(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """Projections of the embedding are linear layers (d, width); the head's own are (width, d)."""
    o = options(MEGA, hyper, MEGA_DEFAULTS)
    tied, tied_projections = o.tie_adaptive_weights, o.tie_adaptive_weights and o.tie_adaptive_proj
    w.ignore("embed_tokens._float_tensor", "adaptive_softmax.version", "adaptive_softmax.head._float_tensor")
    found: dict[str, Tensor] = {}
    head, frequent = "adaptive_softmax.head.", o.cutoff[0]
    if tied:
        w.ignore(f"{head}word_proj.weight")
    for i in range(len(o.cutoff) + 1):
        band, tail = f"embed_tokens.embeddings.{i}.", f"adaptive_softmax.tail.{i - 1}."
        vectors, projection = w.take(f"{band}0.weight"), w.take(f"{band}1.weight")
        found |= {f"embed_tokens.bands.{i}.weight": vectors, f"embed_tokens.projections.{i}.weight": projection}
        if i == 0:
            found["lm_head.clusters.weight"] = w.take(f"{head}class_proj.weight" if tied else f"{head}weight")
            found["lm_head.words.0.weight"] = vectors if tied else found["lm_head.clusters.weight"][:frequent]
            continue
        if tied:
            w.ignore(f"{tail}2.weight")
        if tied_projections:
            w.ignore(f"{tail}0.weight")
        found[f"lm_head.words.{i}.weight"] = vectors if tied else w.take(f"{tail}2.weight")
        own = projection if tied_projections else w.take(f"{tail}0.weight").mT
        found[f"lm_head.projections.{i}.weight"] = own
    if not tied:
        found["lm_head.clusters.weight"] = found["lm_head.clusters.weight"][frequent:]
    return found


add_importer(S4, build=_build_s4, convert=_convert_s4)
add_importer(MEGA, build=_build_mega, convert=_convert_mega)
