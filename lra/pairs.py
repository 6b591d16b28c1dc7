"""Two towers: one backbone reads both texts of a pair, a small network compares what it made of them.

With ``a`` and ``b`` the pooled features of the texts, ``logits = W_2 GELU(W_1 [a, b, a - b, a ⊙ b])``, as in S4's
code for the Long Range Arena.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from seqconv import SeqConvConfig, SeqConvModel
from seqconv.hf.base import SeqConvPreTrainedModel
from seqconv.hf.heads import Pooling
from seqconv_kernels.errors import refusal


class PairClassifier(SeqConvPreTrainedModel):
    """A classifier of pairs of token sequences; read it back with ``PairClassifier.from_pretrained``.

    Raises:
        ValueError: ``pooling="cls"``, which this model has no token for.
    """

    accepts_loss_kwargs = False

    def __init__(self, config: SeqConvConfig) -> None:
        if config.pooling == "cls":
            raise refusal("PairClassifier", "pooling='cls'", "mean, last, first or max", "choose another pooling")
        super().__init__(config)
        width = config.hidden_size
        self.model = SeqConvModel(config)
        self.pooling = Pooling(config)
        self.compare = nn.Sequential(
            nn.Linear(4 * width, width), nn.GELU(), nn.Linear(width, len(config.id2label or {}))
        )
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
            raise refusal("PairClassifier", got, "(batch, 2, length)", "stack both texts of a pair, padded")
        ids, mask = input_ids.flatten(0, 1), attention_mask.flatten(0, 1)
        hidden = self.model(input_ids=ids, attention_mask=mask, use_cache=False, return_dict=True).last_hidden_state
        logits = self._compare(self.pooling(hidden, mask.bool()))
        return SequenceClassifierOutput(
            loss=None if labels is None else F.cross_entropy(logits.float(), labels),
            logits=logits,
        )

    def _compare(self, pooled: Float[Tensor, "texts d_model"]) -> Float[Tensor, "batch labels"]:
        first, second = pooled.unflatten(0, (-1, 2)).unbind(1)
        logits: Tensor = self.compare(torch.cat([first, second, first - second, first * second], dim=1))
        return logits
