"""What classifiers share: summing up a sequence, the classifier itself, and its loss."""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...layers.linear import Linear
from ..configuration import SeqConvConfig


class Classifier(nn.Module):
    """Dropout and a linear map to the labels, with one hidden GELU layer if ``classifier_hidden`` is set."""

    def __init__(self, config: SeqConvConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.classifier_dropout)
        width = config.classifier_hidden or config.hidden_size
        self.hidden = None if config.classifier_hidden is None else Linear(config.hidden_size, width)
        self.output = Linear(width, cast(int, config.num_labels))

    def forward(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows labels"]:
        x = self.dropout(x)
        if self.hidden is not None:
            x = nn.functional.gelu(self.hidden(x))
        logits: Tensor = self.output(x)
        return logits


class Pooling(nn.Module):
    """One vector per sequence; ``"cls"`` puts a learned token into it beforehand and reads it out."""

    def __init__(self, config: SeqConvConfig) -> None:
        super().__init__()
        self.kind, self.position = config.pooling, config.cls_position
        if self.kind == "cls":
            self.token = nn.Embedding(1, config.hidden_size)

    def insert(
        self,
        x: Float[Tensor, "batch length d_model"],
        mask: Bool[Tensor, "batch length"] | None,
        positions: Int[Tensor, "rows length"] | None = None,
    ) -> tuple[
        Float[Tensor, "batch longer d_model"],
        Bool[Tensor, "batch longer"] | None,
        Int[Tensor, "any_rows longer"] | None,
    ]:
        """The sequence with the learned token among its real tokens, if there is one, and the positions of all."""
        if self.kind != "cls":
            return x, mask, positions
        batch, length, d_model = x.shape
        real = torch.ones(batch, length, dtype=torch.bool, device=x.device) if mask is None else mask
        start, count = _run(real)
        at = self._cls_index(start, count)[:, None]
        source = torch.arange(length + 1, device=x.device)[None].expand(batch, -1)
        kept = (source - (source > at).long()).clamp(max=length - 1)
        longer = x.gather(1, kept[..., None].expand(-1, -1, d_model))
        token = self.token.weight[0].to(x.dtype)
        longer = torch.where((source == at)[..., None], token, longer)
        if positions is not None:  # the token stands at the position after the one before it; later ones move by one
            positions = positions.expand(batch, -1)
            own = positions.gather(1, torch.maximum(at - 1, start[:, None])) + (at > start[:, None])
            positions = torch.where(source == at, own, positions.gather(1, kept) + (source > at))
        return longer, None if mask is None else mask.gather(1, kept) | (source == at), positions

    def forward(
        self, x: Float[Tensor, "batch length d_model"], mask: Bool[Tensor, "batch length"] | None
    ) -> Float[Tensor, "batch d_model"]:
        """Sum up the real tokens; a row without any gives zeros."""
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        if self.kind == "mean":
            total = x.masked_fill(~real[..., None], 0).sum(1)
            return total / real.sum(1, keepdim=True).clamp(min=1).to(x.dtype)
        if self.kind == "max":
            return x.masked_fill(~real[..., None], float("-inf")).amax(1).masked_fill(~real.any(1, keepdim=True), 0)
        start, count = _run(real)
        if self.kind == "cls":
            index = self._cls_index(start, count - 1)
        else:
            index = start if self.kind == "first" else (start + count - 1).clamp(min=0)
        return x[torch.arange(x.shape[0], device=x.device), index]

    def _cls_index(self, start: Tensor, count: Tensor) -> Tensor:
        return {"first": start, "middle": start + count // 2, "last": start + count}[self.position]


def _run(real: Bool[Tensor, "batch length"]) -> tuple[Tensor, Tensor]:
    """Where the real tokens of each row start, and how many there are."""
    return real.long().argmax(1), real.sum(1)


def require_modality(model: str, config: SeqConvConfig, *modalities: str) -> None:
    """Raise for a configuration of inputs that this model does not read; fill in the first where none is given.

    Raises:
        ValueError: another modality.
    """
    config.modality = config.modality or modalities[0]
    if config.modality not in modalities:
        wanted = " or ".join(map(repr, modalities))
        remedy = "change the configuration, or take the model of that modality"
        raise argument_error(model, f"modality={config.modality!r}", f"modality {wanted}", remedy)


def real_tokens(input_ids: Int[Tensor, "batch length"], pad_token_id: int) -> Bool[Tensor, "batch length"]:
    """Tokens from the first to the last that is no padding."""
    real = input_ids != pad_token_id
    return real.cumsum(1).bool() & real.flip(1).cumsum(1).flip(1).bool()


def mean_cross_entropy(logits: Float[Tensor, "..."], labels: Int[Tensor, "..."], ignored: int) -> Float[Tensor, ""]:
    """Mean over the labels that count; 0, with gradients of zero, where none does (a crop of void pixels, padding)."""
    total = F.cross_entropy(logits, labels, ignore_index=ignored, reduction="sum")
    return total / (labels != ignored).sum().clamp(min=1)
