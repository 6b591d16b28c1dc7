"""Distilling whole models: every long convolution whose filter has no recurrence gets a modal one."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from seqconv_kernels.errors import refusal

from ..convolution import LongConvolution
from ..replacement import long_convolutions, replace_filter
from .certificate import Certificate
from .filter import distill_filter


@dataclass(frozen=True)
class DistilledModel:
    """A distilled copy of a model, and what is proven about each of its filters.

    Attributes:
        model: the copy; its original is unchanged.
        certificates: of every filter that was tried, by the name of its convolution.
        kept: names of convolutions that keep their exact filter, because some channel cannot meet the tolerance.
    """

    model: nn.Module
    certificates: dict[str, Certificate]
    kept: tuple[str, ...]

    def __str__(self) -> str:
        parts = []
        for name, certificate in self.certificates.items():
            fate = "kept exact: not every channel meets the tolerance" if name in self.kept else "distilled"
            parts.append(f"{name or 'the module itself'} ({fate})\n{certificate}")
        return "\n\n".join(parts)


def distill(
    model: nn.Module,
    order: int | None = None,
    tolerance: float | None = None,
    *,
    length: int | None = None,
    recurrent: bool = False,
    **options: Any,
) -> DistilledModel:
    """Replace the filters of a model by certified recurrences, so that it decodes with a constant state.

    Args:
        model: a model or mixer of ours; it is copied.
        order: real order of every recurrence.
        tolerance: relative H-infinity error allowed; a convolution with a channel that cannot be proven to meet it
            keeps its exact filter.
        length: taps that are fitted; by default as many as the filter defines.
        recurrent: also replace filters that have a recurrence already (S4 to a lower order, say).
        **options: as for :func:`~seqconv.distill.distill_filter`.

    Raises:
        ValueError: nothing to distil, a filter without end and no ``length``; as ``distill_filter``.
    """
    copied = copy.deepcopy(model)
    found = {n: c for n, c in long_convolutions(copied).items() if c.backward is None}
    chosen = {n: c for n, c in found.items() if recurrent or not c.filter.recurrent}
    if not chosen:
        got = f"a model with {len(found)} causal long convolutions, none without a recurrence"
        remedy = "pass recurrent=True to reduce recurrences, or a model with convolutional mixers"
        raise refusal("distill", got, "a filter without a recurrence", remedy)
    certificates, kept = {}, []
    for name, conv in chosen.items():
        distilled = distill_filter(_taps(name, conv, length), order, tolerance, **options)
        certificates[name] = distilled.certificate
        if bool(distilled.certificate.met.all()):
            like = next(conv.filter.parameters())
            dtype = torch.promote_types(like.dtype, torch.float32)
            replace_filter(copied, name, distilled.filter.to(like.device, dtype))
        else:
            kept.append(name)
    return DistilledModel(copied, certificates, tuple(kept))


def _taps(name: str, conv: LongConvolution, length: int | None) -> torch.Tensor:
    length = length or conv.filter.max_length
    if length is None:
        remedy = "pass length, the number of taps to fit"
        raise refusal("distill", f"a filter without end in {name!r}", "a length", remedy)
    with torch.no_grad():
        taps: torch.Tensor = conv.filter(length)
    return taps.double()
