"""States of a convolution where some channels have a recurrence and the others are convolved exactly online.

``y[.., distilled] = recurrence(u[.., distilled])`` and ``y[.., exact] = online(u[.., exact])``: the channels are taken
apart, each part goes on from its own state, and the outputs are put together in their order.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..filters.mixed import StageChannels, positions
from ..state import State, state_class

Advance = Callable[[Tensor, State, Tensor | None, Tensor | None], tuple[Tensor, State]]
"""From inputs, a state, the channels of the filter they belong to and their skip to outputs and the state after."""


@state_class
class MixedState(State):
    """A state for each kind of channels, and where they are in the width.

    Attributes:
        distilled: positions of the channels with a recurrence.
        exact: positions of the others.
        channels: the others, counted within the stage of the filter.
        order: where each channel of the width is among first ``distilled``, then ``exact``.
    """

    distilled: Int[Tensor, " distilled"]
    exact: Int[Tensor, " exact"]
    channels: Int[Tensor, " channels"]
    order: Int[Tensor, " width"]
    of_distilled: State
    of_exact: State

    batch_free: ClassVar[frozenset[str]] = frozenset({"distilled", "exact", "channels", "order"})

    def advance(self, u: Float[Tensor, "*batch width"], skip: Tensor | None, part: Advance) -> tuple[Tensor, State]:
        """Apply ``part`` to the channels of both kinds."""
        outputs, states = [], []
        kinds = ((self.distilled, self.of_distilled, None), (self.exact, self.of_exact, self.channels))
        for where, state, channels in kinds:
            own = None if skip is None else skip[where]
            y, after = part(u.index_select(-1, where), state, channels, own)
            outputs.append(y)
            states.append(after)
        y = torch.cat(outputs, dim=-1).index_select(-1, self.order)
        return y, replace(self, of_distilled=states[0], of_exact=states[1])


def mixed_state(
    split: StageChannels, heads: int, of_distilled: State, of_exact: State, device: torch.device
) -> MixedState:
    """The state of one stage from those of its two kinds of channels."""
    size = len(split.distilled) + len(split.exact)
    distilled, exact = (positions(channels, size, heads) for channels in (split.distilled, split.exact))
    order = torch.cat([distilled, exact]).argsort().to(device)
    channels = torch.tensor(split.exact, dtype=torch.int64, device=device)
    return MixedState(distilled.to(device), exact.to(device), channels, order, of_distilled, of_exact)
