"""Filters around a filter: cut after some taps, dropped taps in training."""

from typing import cast

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from .base import Filter, Recurrence


class TruncatedFilter(Filter):
    """The first ``taps`` taps of a filter in ``forward``; its recurrence, where it has one, goes on beyond them.

    This is what S4's original does with sequences longer than the length it was tuned for; up to ``taps`` tokens all
    forms agree.
    """

    def __init__(self, inner: Filter, taps: int) -> None:
        if taps < 1:
            raise argument_error("TruncatedFilter", f"taps={taps}", "at least 1", "keep one tap or more")
        super().__init__(inner.channels, max_length=None if inner.recurrent else taps, recurrent=inner.recurrent)
        self.inner, self.taps = inner, taps

    def forward(self, length: int) -> Float[Tensor, "channels length"]:
        kept = min(length, self.taps)
        return F.pad(cast(Tensor, self.inner(kept)), (0, length - kept))

    def recurrence(self) -> Recurrence | None:
        return self.inner.recurrence()


class TapDropout(Filter):
    """Dropout on the taps of a filter in training."""

    def __init__(self, inner: Filter, p: float) -> None:
        super().__init__(inner.channels, max_length=inner.max_length, recurrent=inner.recurrent)
        self.inner, self.p = inner, p

    def forward(self, length: int) -> Float[Tensor, "channels length"]:
        return F.dropout(cast(Tensor, self.inner(length)), self.p, self.training)

    def recurrence(self) -> Recurrence | None:
        return self.inner.recurrence()
