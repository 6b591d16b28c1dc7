"""Adaptive embedding and softmax: wide vectors for frequent tokens, narrow ones and clusters for rare tokens.

Token ids are sorted by falling frequency and cut at ``c_1 < … < c_n`` into bands 0 … n. Band i has a matrix ``E_i`` of
vectors of width ``d_i = ⌊d / factor^i⌋`` and a projection ``P_i``, (d, d_i). With a token t of band i, its index j
there and hidden states h::

    embedding(t) = P_i drop(E_i[j])
    u_i = drop(P_i^T h)                                           u_0 = h without head_projection
    log p(t) = log softmax([E_0 u_0 + b_0; C u_0 + b_C])[j]                                    i = 0
    log p(t) = log softmax([E_0 u_0 + b_0; C u_0 + b_C])[c_1 + i - 1] + log softmax(E_i u_i + b_i)[j]    i > 0

A training step computes the logits of a rare band for the tokens of that band alone, so that its memory does not grow
with batch × length × vocabulary.

Sources: Grave et al. 2017 (arXiv 1609.04309), Baevski & Auli 2019 (arXiv 1809.10853);
``fairseq/modules/adaptive_input.py`` and ``adaptive_softmax.py`` of facebookresearch/mega at aeaa4b4 (fairseq's), and
``src/models/nn/adaptive_softmax.py`` of state-spaces/s4 at e757cef (after Transformer-XL).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...layers.linear import Linear
from .options import AdaptiveOptions, check_adaptive

IGNORED = -100


class _Bands(nn.Module):
    """Sizes and widths of the bands.

    Args:
        vocab_size: tokens.
        d_model: width of hidden states.
        cutoffs: first tokens of the bands after the first.
        options: see :class:`AdaptiveOptions`.

    Raises:
        ValueError: as :func:`check_adaptive`.
    """

    def __init__(self, vocab_size: int, d_model: int, cutoffs: Sequence[int], options: AdaptiveOptions) -> None:
        super().__init__()
        check_adaptive(vocab_size, d_model, cutoffs, options)
        self.d_model, self.options = d_model, options
        self.bounds = list(pairwise([0, *cutoffs, vocab_size]))
        self.sizes = [end - start for start, end in self.bounds]
        self.widths = [int(d_model // options.factor**i) for i in range(len(self.bounds))]


class AdaptiveEmbedding(_Bands):
    """Embedding of tokens by bands; arguments and equation as in the module's docstring and :class:`_Bands`."""

    def __init__(self, vocab_size: int, d_model: int, cutoffs: Sequence[int], options: AdaptiveOptions) -> None:
        super().__init__(vocab_size, d_model, cutoffs, options)
        self.num_embeddings, self.embedding_dim = vocab_size, d_model
        self.bands = nn.ModuleList(nn.Embedding(*shape) for shape in zip(self.sizes, self.widths, strict=True))
        self.dropout = nn.Dropout(options.embedding_dropout)
        projections = [Linear(width, d_model, bias=False) for width in self.widths] if options.project else []
        self.projections = nn.ModuleList(projections)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """See ``init`` of :class:`AdaptiveOptions`."""
        for band in self.bands:
            reset_vectors(cast(nn.Embedding, band).weight, self.options)
        for projection in self.projections:
            reset_projection(cast(Linear, projection).weight, self.options)

    def forward(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d_model"]:
        """Every band reads every token and is masked: nothing waits for the device, and nothing depends on the ids."""
        embedded: Tensor | None = None
        for i, (start, end) in enumerate(self.bounds):
            vectors = self.dropout(self.bands[i]((ids - start).clamp(0, end - start - 1)))
            vectors = self.projections[i](vectors) if self.options.project else vectors
            inside = ((ids >= start) & (ids < end))[..., None]
            embedded = vectors if embedded is None else torch.where(inside, vectors, embedded)
        return cast(Tensor, embedded)


class BandProjection(nn.Module):
    """``u = P^T h`` with P, (d_model, width), as the embedding has it, so that both can be one parameter."""

    def __init__(self, d_model: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_model, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform by Xavier."""
        nn.init.xavier_uniform_(self.weight)

    def forward(self, hidden: Float[Tensor, "*shape d_model"]) -> Float[Tensor, "*shape width"]:
        return F.linear(hidden, self.weight.mT)


class AdaptiveSoftmax(_Bands):
    """Log-probabilities of all tokens, or what given tokens cost; as in the module's docstring and :class:`_Bands`."""

    def __init__(self, vocab_size: int, d_model: int, cutoffs: Sequence[int], options: AdaptiveOptions) -> None:
        super().__init__(vocab_size, d_model, cutoffs, options)
        self.hidden_dropout, self.dropout = nn.Dropout(options.hidden_dropout), nn.Dropout(options.dropout)
        first = [BandProjection(d_model, self.widths[0]) if options.head_projection else nn.Identity()]
        rest = [BandProjection(d_model, width) if options.project else nn.Identity() for width in self.widths[1:]]
        self.projections = nn.ModuleList(first + rest)
        shapes = zip(self.widths, self.sizes, strict=True)
        self.words = nn.ModuleList(Linear(*shape, bias=options.bias) for shape in shapes)
        self.clusters = Linear(self.widths[0], len(cutoffs), bias=options.bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """See ``init`` of :class:`AdaptiveOptions`."""
        layers = [cast(Linear, words) for words in self.words]
        for layer in layers:
            reset_vectors(layer.weight, self.options)
        reset_projection(self.clusters.weight, self.options)
        for projection in self.projections:
            if isinstance(projection, BandProjection):
                reset_projection(projection.weight, self.options)
        if self.options.init == "transformer_xl":
            nn.init.zeros_(self.clusters.weight)
            if self.options.head_projection:
                nn.init.zeros_(cast(BandProjection, self.projections[0]).weight)
        bound = self.options.bias_scale * self.d_model**-0.5
        for layer in [*layers, self.clusters] if self.options.bias else []:
            nn.init.uniform_(layer.bias, -bound, bound)
        if self.options.bias and self.options.init == "transformer_xl":
            nn.init.zeros_(self.clusters.bias)

    def forward(self, hidden: Float[Tensor, "*shape d_model"], targets: Int[Tensor, "*shape"] | None = None) -> Tensor:
        """Log-probabilities, ``(*shape, vocab_size)``; with targets what those cost, ``(*shape)``, 0 where -100."""
        hidden = self.hidden_dropout(hidden)
        if targets is None:
            return self._log_probabilities(hidden)
        return self._costs(hidden.flatten(0, -2), targets.flatten()).view(targets.shape)

    def _log_probabilities(self, hidden: Tensor) -> Tensor:
        frequent = self.sizes[0]
        head = self._head(hidden).log_softmax(-1)
        parts = [head[..., :frequent]]
        for i in range(1, len(self.bounds)):
            cluster = frequent + i - 1
            parts.append(head[..., cluster : cluster + 1] + self._rare(i, hidden).log_softmax(-1))
        return torch.cat(parts, dim=-1)

    def _costs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        wanted, rare = targets, []
        for i, (start, end) in list(enumerate(self.bounds))[1:]:
            inside = (targets >= start) & (targets < end)
            rows = inside.nonzero().squeeze(-1)
            wanted = wanted.masked_fill(inside, self.sizes[0] + i - 1)
            rare.append((rows, F.cross_entropy(self._rare(i, hidden[rows]), targets[rows] - start, reduction="none")))
        costs = F.cross_entropy(self._head(hidden), wanted, ignore_index=IGNORED, reduction="none")
        for rows, cost in rare:
            costs = costs.index_add(0, rows, cost)
        return costs

    def _head(self, hidden: Tensor) -> Tensor:
        """Logits of the frequent tokens, then of the clusters."""
        projected = self.projections[0](hidden)
        projected = self.dropout(projected) if self.options.head_projection else projected
        return wide(torch.cat([self.words[0](projected), self.clusters(projected)], dim=-1))

    def _rare(self, i: int, hidden: Tensor) -> Tensor:
        """Logits of the tokens of band i among themselves."""
        projected = self.projections[i](hidden)
        projected = self.dropout(projected) if self.options.project else projected
        return wide(self.words[i](projected))


def wide(logits: Tensor) -> Tensor:
    """In float32 at least."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def reset_vectors(weight: Tensor, options: AdaptiveOptions) -> None:
    """Vectors of tokens, (tokens, width)."""
    nn.init.normal_(weight, std=options.init_scale * weight.shape[1] ** -0.5)


def reset_projection(weight: Tensor, options: AdaptiveOptions) -> None:
    """A projection, (d_model, width), or the vectors of the clusters."""
    if options.init == "fairseq":
        nn.init.xavier_uniform_(weight)
    else:
        nn.init.normal_(weight, std=options.init_scale * weight.shape[0] ** -0.5)
