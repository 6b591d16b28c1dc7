"""Mixed filter: a recurrence in the channels where one is good enough, the exact response in the others.

``h[c] = modal[c]`` in the distilled channels and ``h[c] = exact[c]`` in all others. Together the channels have no
recurrence; :class:`~seqconv.convolution.long_convolution.LongConvolution` decodes each by what it has.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from .base import Filter, Recurrence
from .state_space.modal import ModalFilter


class StageChannels(NamedTuple):
    """Channels of one stage of a convolution.

    Attributes:
        distilled: those with a recurrence, counted within the stage.
        exact: the others.
        rows: where the distilled ones are in the modal filter.
    """

    distilled: list[int]
    exact: list[int]
    rows: slice


class MixedFilter(Filter):
    """Modal responses in some channels of a filter.

    Args:
        exact: the filter; it goes on defining the taps of ``exact_channels``.
        modal: responses of all other channels, in their order.
        exact_channels: channels that keep their exact response, ascending.

    Raises:
        ValueError: channels that are not ascending or outside the filter; a modal filter of another number of channels.
    """

    distilled: Tensor

    def __init__(self, exact: Filter, modal: ModalFilter, exact_channels: Sequence[int]) -> None:
        kept = sorted({c for c in exact_channels if 0 <= c < exact.channels})
        if kept != list(exact_channels) or modal.channels + len(kept) != exact.channels:
            got = f"exact_channels={list(exact_channels)}, {modal.channels} modal of {exact.channels} channels"
            wanted = "ascending channels of the filter, and a modal one for each of the others"
            raise argument_error("MixedFilter", got, wanted, "correct the channels")
        super().__init__(exact.channels)
        self.exact, self.modal, self.exact_channels = exact, modal, tuple(kept)
        self.register_buffer("distilled", torch.empty(modal.channels, dtype=torch.int64), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Where the modal responses go."""
        self.distilled.copy_(torch.tensor(self._distilled(), device="cpu"))

    def of_stage(self, stage: int, stages: int) -> StageChannels:
        """The channels of one of several stages that share the filter, each with its own slice."""
        size = self.channels // stages
        first, last = stage * size, (stage + 1) * size
        exact = [c - first for c in self.exact_channels if first <= c < last]
        rows = [i for i, c in enumerate(self._distilled()) if first <= c < last]
        distilled = sorted(set(range(size)) - set(exact))
        return StageChannels(distilled, exact, slice(rows[0], rows[-1] + 1) if rows else slice(0))

    def _distilled(self) -> list[int]:
        return sorted(set(range(self.channels)) - set(self.exact_channels))

    def _taps(self, length: int) -> Float[Tensor, "channels length"]:
        reach = length if self.exact.max_length is None else min(length, self.exact.max_length)
        h = F.pad(cast(Tensor, self.exact(reach)), (0, length - reach))
        modal: Tensor = self.modal(length)
        return h.index_copy(0, self.distilled, modal.to(h.dtype))

    def _recurrence(self) -> Recurrence | None:
        """None: some channels have none."""
        return None


def positions(channels: Sequence[int], size: int, heads: int) -> Int[Tensor, " width"]:
    """Where these channels of every head are in a signal of ``heads`` times ``size`` channels."""
    return torch.tensor([head * size + c for head in range(heads) for c in channels], dtype=torch.int64)
