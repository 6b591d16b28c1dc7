"""Taking tokens back: what was read since tokens were last accepted, and from which states.

A recurrent state does not say what it was before its last token, so the state before every call is kept. Tokens are
taken back by going to the state before the call that read the first of them, and reading what stays once more::

    before ──read x1 x2 x3 x4──▶ after          rollback(2):   before ──read x1 x2──▶ state

This is exact for every state, growing ones included, and costs a copy of the state per call and at most one more
prefill of the tokens that stay, never a forward pass over the context.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ..packing import padding_first
from ..state import State
from .stateful import Stateful, StateT

Prefill = Callable[[Tensor, Any, Tensor | None], State]
"""Inputs, the state before them (``None``: the initial one) and their mask, to the state after them."""


@dataclass(frozen=True)
class _Call:
    """What one call read, and from where."""

    before: State | None
    inputs: Tensor
    mask: Tensor | None


class History:
    """The calls that can be taken back."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def __len__(self) -> int:
        """Positions that can be taken back, padding included."""
        return sum(call.inputs.shape[1] for call in self._calls)

    def copy(self) -> "History":
        """A copy that continues independently."""
        twin = History()
        twin._calls = list(self._calls)
        return twin

    def record(
        self,
        before: State | None,
        inputs: Float[Tensor, "batch length d_model"],
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> None:
        """Keep a call; nothing may write into ``before`` any more: give the call a clone of it."""
        self._calls.append(_Call(before, inputs.detach(), mask))

    def accept(self) -> None:
        """Forget all calls: their tokens stay."""
        self._calls.clear()

    def rollback(self, after: Any, count: int | Tensor, prefill: Prefill) -> Any:
        """The state without the last positions; those that stay are accepted.

        Args:
            after: the state after all calls.
            count: positions to take back, one number or one per row, (batch,).
            prefill: reads inputs again.

        Raises:
            ValueError: fewer than 0 positions, or more than were recorded.
        """
        most, least = _range(count)
        if least < 0 or most > len(self):
            wanted = f"0 to the {len(self)} that were read while recording"
            remedy = "take back what was read since tokens were last accepted"
            raise argument_error("rollback", f"{count} tokens", wanted, remedy)
        undone: list[_Call] = []
        while sum(call.inputs.shape[1] for call in undone) < most:
            undone.insert(0, self._calls.pop())
        self.accept()
        return _again(undone, count if most > least else most, prefill) if undone else after


def _range(count: int | Tensor) -> tuple[int, int]:
    """Largest and smallest of the numbers."""
    if not isinstance(count, Tensor) or count.numel() == 1:
        return int(count), int(count)
    return int(count.max()), int(count.min())


def _again(calls: list[_Call], count: int | Tensor, prefill: Prefill) -> Any:
    """The state after the positions of ``calls`` but the last ``count`` of them."""
    before = calls[0].before
    inputs = torch.cat([call.inputs for call in calls], dim=1)
    mask = _joined_mask(calls)
    if isinstance(count, Tensor):
        stays = torch.arange(inputs.shape[1], device=inputs.device) < inputs.shape[1] - count.to(inputs.device)[:, None]
        mask = stays if mask is None else mask & stays
    else:
        inputs = inputs[:, : inputs.shape[1] - count]
        mask = None if mask is None else mask[:, : inputs.shape[1]]
    if mask is not None:  # a state belongs to the last token of every row
        order = padding_first(mask)
        inputs, mask = inputs.take_along_dim(order[..., None], 1), mask.take_along_dim(order, 1)
    if not inputs.shape[1]:
        return before
    with torch.no_grad():
        return prefill(inputs, None if before is None else before.clone(), mask)


def _joined_mask(calls: list[_Call]) -> Tensor | None:
    if all(call.mask is None for call in calls):
        return None
    masks = (
        call.inputs.new_ones(call.inputs.shape[:2], dtype=torch.bool) if call.mask is None else call.mask
        for call in calls
    )
    return torch.cat(list(masks), dim=1)


class Stream(Generic[StateT]):
    """The state of a module between calls, with tokens that can be taken back: for drafts that may be rejected.

    Args:
        module: a causal mixer, block or backbone.
        state: the state to begin with; it must not be used elsewhere. The initial one by default.

    Attributes:
        state: the state after all tokens that were not taken back; pass on a clone of it.
    """

    def __init__(self, module: Stateful[StateT], state: StateT | None = None) -> None:
        self.module = module
        self.state: StateT | None = state
        self._history = History()

    def prefill(
        self, x: Float[Tensor, "batch length d_model"], *, mask: Bool[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch length d_model"]:
        """Outputs of the next tokens; arguments and errors as ``Mixer.prefill``."""
        y, after = self.module.prefill(x, None if self.state is None else self.state.clone(), mask=mask)
        self._history.record(self.state, x, mask)
        self.state = after
        return y

    def step(self, x_t: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_model"]:
        """Output of the next token."""
        y_t, after = self.module.step(x_t, None if self.state is None else self.state.clone())
        self._history.record(self.state, x_t[:, None])
        self.state = after
        return y_t

    def rollback(self, count: int | Tensor) -> None:
        """Take back the last ``count`` positions, one number or one per row; the others are accepted.

        Raises:
            ValueError: positions that were accepted before.
        """
        self.state = self._history.rollback(self.state, count, self._again)

    def accept(self) -> None:
        """Keep all tokens so far: frees the states before them."""
        self._history.accept()

    def _again(self, x: Tensor, state: Any, mask: Tensor | None) -> State:
        return self.module.prefill(x, state, mask=mask)[1]
