"""Filters around a filter: cut after some taps, dropped taps in training."""

import math
from typing import cast

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ..options import check_probability
from .base import Filter, Recurrence


class TruncatedFilter(Filter):
    """The first ``taps`` taps of a filter; every later one is zero.

    A truncated response has no recurrence: steps keep the inputs that its taps still reach.

    Args:
        inner: the filter.
        taps: how many are kept.
        untruncated_steps: give the recurrence of the whole response in spite of the truncation, as some originals do:
            steps then differ from the parallel form beyond the truncation.

    Raises:
        ValueError: ``taps < 1``.
    """

    def __init__(self, inner: Filter, taps: int, *, untruncated_steps: bool = False) -> None:
        if taps < 1:
            raise argument_error("TruncatedFilter", f"taps={taps}", "at least 1", "keep one tap or more")
        recurrent = untruncated_steps and inner.recurrent
        super().__init__(inner.channels, max_length=None if recurrent else taps, recurrent=recurrent)
        self.inner, self.taps = inner, taps

    def change_rate(self, rate: float) -> None:
        self.inner.change_rate(rate)
        self.taps = max(1, math.ceil(self.taps / rate - 1e-9))
        self.max_length = None if self.recurrent else self.taps

    def _taps(self, length: int) -> Float[Tensor, "channels length"]:
        kept = min(length, self.taps)
        return F.pad(cast(Tensor, self.inner(kept)), (0, length - kept))

    def _recurrence(self) -> Recurrence | None:
        return self.inner.recurrence() if self.recurrent else None


class TapDropout(Filter):
    """Dropout on the taps of a filter in training."""

    def __init__(self, inner: Filter, p: float) -> None:
        super().__init__(inner.channels, max_length=inner.max_length, recurrent=inner.recurrent)
        check_probability("kernel_dropout", p)
        self.inner, self.p = inner, p

    def change_rate(self, rate: float) -> None:
        self.inner.change_rate(rate)
        self.max_length = self.inner.max_length

    def _taps(self, length: int) -> Float[Tensor, "channels length"]:
        return F.dropout(cast(Tensor, self.inner(length)), self.p, self.training)

    def _recurrence(self) -> Recurrence | None:
        return cast("Recurrence | None", self.inner.recurrence())
