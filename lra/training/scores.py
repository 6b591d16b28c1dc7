"""Metrics by a task's score: what is kept of the logits of a batch, and the numbers over a whole split.

Every score is called ``accuracy`` and is better the greater it is. Language models are chosen by ``bits`` instead, the
mean of ``-log2 p`` over the tokens asked, which are bytes in EnWik8; 2 to its power is the perplexity. Their
``accuracy`` is the share of tokens that the most probable one equals.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import EvalPrediction

from seqconv import SeqConvForCausalLM

from ..tasks.base import Kind, Score
from ..tasks.synthetic.signals import explained

IGNORED = -100
NATS, RIGHT, ASKED = range(3)
"""Columns of what is kept of a window: sums over its tokens."""


def keep(kind: Kind, score: Score) -> Callable[[Any, Tensor], Tensor]:
    """What of the logits of a batch is kept until the end of the split: decisions, numbers, or sums over each row."""
    if kind == "language":
        return lambda logits, labels: logits if _first(logits).dim() == 2 else window_sums(_first(logits), labels)
    if score == "accuracy":
        return lambda logits, labels: _first(logits).argmax(-1)
    return lambda logits, labels: _first(logits)


def measure(score: Score) -> Callable[[EvalPrediction], dict[str, float]]:
    """The metrics of a split, from what :func:`keep` kept and its labels."""
    found: Mapping[str, Callable[[NDArray[Any], NDArray[Any]], dict[str, float]]] = {
        "accuracy": lambda answers, labels: {"accuracy": right_share(answers, labels)},
        "explained variance": lambda answers, labels: {"accuracy": explained(labels, answers)},
        "macro AUROC": lambda answers, labels: {"accuracy": macro_auroc(answers, labels)},
    }
    compute = found.get(score, lambda sums, labels: language_metrics(sums))
    return lambda prediction: compute(np.asarray(prediction.predictions), np.asarray(prediction.label_ids))


def right_share(answers: NDArray[Any], labels: NDArray[Any]) -> float:
    """Share of right decisions among the labels that are asked (not -100)."""
    asked = labels != IGNORED
    return float(np.mean(answers[asked] == labels[asked]))


def window_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """Per row: nats of the tokens asked, how many of them are right, how many are asked; (batch, 3), float64."""
    wanted = labels[:, 1:]
    scores = logits[:, : wanted.shape[1]].float()
    asked = wanted != IGNORED
    nats = torch.nn.functional.cross_entropy(scores.mT, wanted, ignore_index=IGNORED, reduction="none")
    right = (scores.argmax(-1) == wanted) & asked
    return torch.stack([part.double().sum(1) for part in (nats, right, asked)], dim=1)


def sums_in_parts(model: SeqConvForCausalLM, input_ids: Tensor, labels: Tensor, most: int) -> Tensor:
    """As :func:`window_sums`, with a bounded number of logits at a time: those of a vocabulary of words are large."""
    hidden = model.model(input_ids=input_ids, use_cache=False, return_dict=True).last_hidden_state
    size = max(1, most // (len(hidden) * model.config.vocab_size))
    found = torch.zeros(len(hidden), 3, dtype=torch.float64, device=hidden.device)
    for start in range(0, hidden.shape[1] - 1, size):
        logits = model.logits_of(hidden[:, start : start + size])
        wanted = labels[:, start + 1 : start + size + 1]
        asked = torch.cat([wanted.new_full((len(wanted), 1), IGNORED), wanted], dim=1)
        found += window_sums(logits[:, : wanted.shape[1]], asked)
    return found


def language_metrics(sums: NDArray[Any]) -> dict[str, float]:
    """Bits of a token, its perplexity, and the share of right tokens."""
    nats, right, asked = sums.reshape(-1, 3).sum(0)
    mean = float(nats / asked)
    return {"accuracy": float(right / asked), "bits": mean / math.log(2), "perplexity": math.exp(min(mean, 700.0))}


def macro_auroc(scores: NDArray[Any], labels: NDArray[Any]) -> float:
    """Mean over the labels of the area under the receiver operating characteristic; equal scores count half.

    Labels that every row or none bears have no such area and are left out; without any other it is 0.5.
    """
    areas = []
    for given, wanted in zip(scores.T, labels.T > 0.5, strict=True):
        positive, negative = int(wanted.sum()), int((~wanted).sum())
        if positive and negative:
            _, place, count = np.unique(given, return_inverse=True, return_counts=True)
            ranks = (np.cumsum(count) - (count - 1) / 2)[place]  # the mean rank of equal scores
            areas.append((ranks[wanted].sum() - positive * (positive + 1) / 2) / (positive * negative))
    return float(np.mean(areas)) if areas else 0.5


def _first(logits: Any) -> Tensor:
    return logits[0] if isinstance(logits, tuple) else logits  # type: ignore[no-any-return]
