"""Two towers: one backbone reads both texts of a pair, a small network compares their features.

With ``a`` and ``b`` the pooled features of the texts, ``logits = W_n σ(… σ(W_1 f(a, b)))``:

========  ====================  ==========================================================
``s4``    ``a, b, a-b, a⊙b``    one hidden layer of the model's width, GELU (S4's code)
``mega``  ``b, a``              one hidden layer of ``classifier_hidden``, GELU (MEGA's code)
``jax``   ``a, b``              two hidden layers, ``classifier_hidden`` and half of it, ReLU (the benchmark)
========  ====================  ==========================================================

``classifier_hidden`` is twice the model's width by default.
"""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from seqconv import SeqConvModel
from seqconv.hf.base import SeqConvPreTrainedModel
from seqconv.hf.tasks.heads import Pooling
from seqconv_kernels._core.errors import argument_error

from .configuration import PairConfig


class PairClassifier(SeqConvPreTrainedModel):
    """A classifier of pairs of token sequences; read it back with ``AutoModelForSequenceClassification``.

    Raises:
        ValueError: ``pooling="cls"``, which this model has no token for.
    """

    config_class = PairConfig
    accepts_loss_kwargs = False

    def __init__(self, config: PairConfig) -> None:
        if config.pooling == "cls":
            raise argument_error(
                "PairClassifier", "pooling='cls'", "mean, last, first or max", "choose another pooling"
            )
        super().__init__(config)
        self.model = SeqConvModel(config)
        self.pooling = Pooling(config)
        self.compare = build_comparison(config)
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "batch 2 length"],
        attention_mask: Int[Tensor, "batch 2 length"],
        labels: Int[Tensor, " batch"] | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Logits (batch, num_labels), and the cross-entropy where there are labels.

        Raises:
            ValueError: the ids are no pairs.
        """
        if input_ids.dim() != 3 or input_ids.shape[1] != 2:
            got = f"input_ids of shape {tuple(input_ids.shape)}"
            raise argument_error("PairClassifier", got, "(batch, 2, length)", "stack both texts of a pair, padded")
        ids, mask = input_ids.flatten(0, 1), attention_mask.flatten(0, 1)
        hidden = self.model(input_ids=ids, attention_mask=mask, use_cache=False, return_dict=True).last_hidden_state
        logits = self._compare(self.pooling(hidden, mask.bool()))
        return SequenceClassifierOutput(
            loss=None if labels is None else F.cross_entropy(logits.float(), labels),
            logits=logits,
        )

    def _compare(self, pooled: Float[Tensor, "texts d_model"]) -> Float[Tensor, "batch labels"]:
        a, b = pooled.unflatten(0, (-1, 2)).unbind(1)
        features = {"s4": [a, b, a - b, a * b], "mega": [b, a], "jax": [a, b]}[self.config.comparison]
        logits: Tensor = self.compare(torch.cat(features, dim=1))
        return logits


def build_comparison(config: PairConfig) -> nn.Sequential:
    """The network after both towers."""
    width, labels = config.hidden_size, len(config.id2label or {})
    hidden = config.classifier_hidden or 2 * width
    widths = {"s4": [4 * width, width], "mega": [2 * width, hidden], "jax": [2 * width, hidden, hidden // 2]}
    sizes = widths[config.comparison]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU() if config.comparison == "jax" else nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], labels))
