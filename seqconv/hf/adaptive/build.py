"""Embedding and head of a configuration: of one width, or adaptive where it has ``adaptive_cutoffs``."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from ...layers.linear import Linear
from .layers import AdaptiveEmbedding, AdaptiveSoftmax
from .options import read_adaptive_options

TIED = {"lm_head.weight": "model.embed_tokens.weight"}


def tied_names(config: Any) -> dict[str, str]:
    """Parameters of the head that are the embedding's, by name."""
    if config.adaptive_cutoffs is None:
        return TIED
    options, bands = read_adaptive_options(config.adaptive_options), range(len(config.adaptive_cutoffs) + 1)
    names = {f"lm_head.words.{i}.weight": f"model.embed_tokens.bands.{i}.weight" for i in bands}
    if options.project and options.tie_projections:
        names |= {f"lm_head.projections.{i}.weight": f"model.embed_tokens.projections.{i}.weight" for i in bands[1:]}
    return names


def make_embedding(config: Any) -> nn.Embedding | AdaptiveEmbedding:
    """The embedding of a configuration's tokens."""
    if config.adaptive_cutoffs is None:
        return nn.Embedding(config.vocab_size, config.hidden_size)
    options = read_adaptive_options(config.adaptive_options)
    return AdaptiveEmbedding(config.vocab_size, config.hidden_size, config.adaptive_cutoffs, options)


def make_head(config: Any) -> nn.Module:
    """The layer that turns hidden states into logits, or log-probabilities, of a configuration's tokens."""
    if config.adaptive_cutoffs is None:
        return Linear(config.hidden_size, config.vocab_size, bias=False)
    options = read_adaptive_options(config.adaptive_options)
    return AdaptiveSoftmax(config.vocab_size, config.hidden_size, config.adaptive_cutoffs, options)


class AdaptiveVocabulary(nn.Module):
    """An adaptive embedding, scaled, with its head, as :func:`seqconv.from_original` reads both at once.

    Their state dicts are those of ``model.embed_tokens`` and ``lm_head`` of a model with the same options, whose
    ``embedding_scale`` is ``scale``. Where the original ties parameters, both have their values.

    Args:
        embed_tokens, lm_head: see the classes.
        scale: of the embeddings.
    """

    def __init__(self, embed_tokens: AdaptiveEmbedding, lm_head: AdaptiveSoftmax, scale: float = 1.0) -> None:
        super().__init__()
        self.embed_tokens, self.lm_head, self.scale = embed_tokens, lm_head, scale

    def forward(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d_model"]:
        embedded: Tensor = self.embed_tokens(ids)
        return embedded * self.scale
