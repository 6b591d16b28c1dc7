"""Going through the levels of :class:`~seqconv.audio.sashimi.Sashimi`: whole sequences, or tokens from a state."""

from typing import TYPE_CHECKING, Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..backbone import Backbone, BackboneState
from ..packing import zero_padding
from ..state import InitialState, State, call_with_state, state_class
from .pooling import PoolState, chunks_of, give_out, take_in

if TYPE_CHECKING:
    from .sashimi import Sashimi

Place = tuple[str, int, int]
"""``"down"``, ``"center"`` or ``"up"``, the level and the number of a stack there."""


@state_class
class SashimiState(BackboneState):
    """States of all stacks, in the order of :attr:`Sashimi.places`, and of the pooling of every level."""

    layers: tuple[Any, ...]  # a BackboneState each, or rows of them that are apart
    pools: tuple[PoolState, ...]

    of_modules: ClassVar[bool] = True


class Walk:
    """How the levels are gone through: calls of stacks and of the pooling between levels."""

    def __init__(self, model: "Sashimi") -> None:
        self.model = model
        self.hidden: list[Tensor] = []

    def blocks(self, place: Place, x: Tensor, mask: Tensor | None) -> Tensor:
        """Outputs of the stack at a place."""
        if place[1] == 0:
            self.hidden.append(x)
        return self._run(place, self.model.stack(place), x, mask)

    def _run(self, place: Place, stack: Backbone, x: Tensor, mask: Tensor | None) -> Tensor:
        raise NotImplementedError

    def down(self, level: int, x: Tensor, mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Pooled tokens and their mask; ``None`` where no chunk is complete."""
        raise NotImplementedError

    def up(self, level: int, y: Tensor | None, length: int) -> Tensor:
        """What ``length`` tokens get from the level inside."""
        raise NotImplementedError


class Whole(Walk):
    """Whole sequences, padding on the right alone."""

    def _run(self, place: Place, stack: Backbone, x: Tensor, mask: Tensor | None) -> Tensor:
        y: Tensor = stack(x, mask=mask)
        return y

    def down(self, level: int, x: Tensor, mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        p = self.model.pool[level]
        chunks = self.model.down_pools[level](F.pad(x, (0, 0, 0, -x.shape[1] % p)))
        mask = None if mask is None else mask[:, ::p]  # a chunk is real where its first token is
        return zero_padding(chunks, mask), mask

    def up(self, level: int, y: Tensor | None, length: int) -> Tensor:
        later: Tensor = F.pad(self.model.up_pools[level](y), (0, 0, self.model.pool[level], 0))
        return later[:, :length]


class FromState(Walk):
    """Tokens from a state."""

    def __init__(self, model: "Sashimi", state: SashimiState, x: Tensor) -> None:
        super().__init__(model)
        self.states: dict[Place, State] = dict(zip(model.places, state.layers, strict=True))
        self.pools, self.chunks = list(state.pools), dict[int, Any]()

    def _run(self, place: Place, stack: Backbone, x: Tensor, mask: Tensor | None) -> Tensor:
        one = x.shape[1] == 1 and mask is None
        y: Tensor
        y, self.states[place] = call_with_state(stack, x[:, 0] if one else x, self.states[place], mask=mask)
        return y[:, None] if one else y

    def down(self, level: int, x: Tensor, mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        state = self.pools[level]
        at = self.chunks[level] = chunks_of(state, x.shape[1], mask)
        inputs, pending, chunk_mask = take_in(state, x, at)
        count = (at.waiting + x.shape[1] - at.padding) % at.pool
        self.pools[level] = PoolState(count, pending, state.outgoing)
        return (self.model.down_pools[level](inputs), chunk_mask) if at.most else (None, None)

    def up(self, level: int, y: Tensor | None, length: int) -> Tensor:
        z = None if y is None else self.model.up_pools[level](y)
        state = self.pools[level]
        outputs, outgoing = give_out(state, z, length, self.chunks[level])
        self.pools[level] = PoolState(state.count, state.pending, outgoing)
        return outputs

    def after(self, x: Tensor) -> SashimiState:
        """The state after the tokens; stacks that were not reached yet get their initial one."""
        for place, state in self.states.items():
            if isinstance(state, InitialState):
                sizes: Any = {"max_length": state.max_length, "device": x.device, "dtype": x.dtype}
                self.states[place] = self.model.stack(place).init_state(x.shape[0], **sizes)
        return SashimiState(tuple(self.states[place] for place in self.model.places), tuple(self.pools))
