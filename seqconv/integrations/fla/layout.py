"""How fla lays out the sequences of a call: packed, backwards, states with the values first.

fla's functions share (batch, length, heads, width), ``cu_seqlens`` over a batch of one, and a pair (o, final state) as
result, whose second part is ``None`` where it was not asked for.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ..arguments import no_others
from ..segments import reversed_order, states_of_all, without_empty

HINTS = ("chunk_size", "cu_seqlens_cpu", "chunk_indices", "safe_gate", "disable_recompute", "lower_bound")
"""Arguments that choose how fla's kernels compute and change no result."""

EPS = 1e-6
"""Under the root of the norm of queries and keys."""

Op = Callable[..., Any]


@dataclass(frozen=True)
class Layout:
    """The layout of one call.

    Attributes:
        cu_seqlens: bounds of packed sequences, empty ones included.
        reverse: whether the recurrence runs from the last token to the first.
        state_v_first: whether states are (..., d_v, d_k).
    """

    cu_seqlens: Tensor | None = None
    reverse: bool = False
    state_v_first: bool = False

    def run(
        self,
        op: Op,
        tokens: dict[str, Tensor | None],
        initial_state: Tensor | None,
        output_final_state: bool,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Run one of seqconv's ops.

        Args:
            op: takes the tokens, ``initial_state``, ``return_final_state`` and ``cu_seqlens`` by name.
            tokens: arguments with a time axis, by the op's names.
            initial_state: as the caller gave it.
            output_final_state: whether to return the final state.
            options: further arguments of the op.

        Raises:
            ValueError: not one initial state per packed sequence, empty ones included.
        """
        given = {name: t for name, t in tokens.items() if t is not None}
        if initial_state is not None and self.cu_seqlens is not None:
            self._check_rows(initial_state.shape[0], self.cu_seqlens.shape[0] - 1)
        state = initial_state.mT if initial_state is not None and self.state_v_first else initial_state
        bounds, stay = (None, None) if self.cu_seqlens is None else without_empty(self.cu_seqlens)
        rows = state if stay is None or state is None else state[stay]
        turn = self._turn(bounds)
        o: Tensor
        o, last = op(
            **{name: turn(t) for name, t in given.items()},
            initial_state=rows,
            return_final_state=True,
            cu_seqlens=bounds,
            **options,
        )
        if not output_final_state:
            return turn(o), None
        if self.cu_seqlens is not None:
            last = states_of_all(self.cu_seqlens, stay, state, last)
        return turn(o), last.mT.contiguous() if self.state_v_first else last

    @staticmethod
    def _check_rows(rows: int, sequences: int) -> None:
        if rows != sequences:
            got, wanted = f"{rows} initial states for {sequences} sequences", "one per sequence"
            raise argument_error("cu_seqlens", got, wanted, "give a state to empty sequences too, and to no others")

    def _turn(self, bounds: Tensor | None) -> Callable[[Tensor], Tensor]:
        """Reverse the time axis, or leave it."""
        if not self.reverse:
            return lambda x: x
        if bounds is None:
            return lambda x: x.flip(1)
        order = reversed_order(bounds)
        return lambda x: x[:, order]


def layout(
    function: str,
    cu_seqlens: Tensor | None,
    others: dict[str, Any],
    *,
    reverse: bool = False,
    state_v_first: bool = False,
    hints: tuple[str, ...] = HINTS,
) -> Layout:
    """The layout that the arguments describe, those in ``**kwargs`` included.

    Raises:
        ValueError: an argument that is not served, by its name.
    """
    others = dict(others)
    if (renamed := others.pop("transpose_state_layout", None)) is not None:
        if state_v_first:
            got = "state_v_first and transpose_state_layout"
            raise argument_error(function, got, "one of them", "leave out the older name")
        message = "`transpose_state_layout` is deprecated and renamed to `state_v_first`."
        warnings.warn(message, DeprecationWarning, stacklevel=3)
        state_v_first = renamed
    no_others(function, others, *hints)
    return Layout(cu_seqlens, reverse, state_v_first)


def unit_length(x: Tensor, eps: float = EPS) -> Tensor:
    """``x / sqrt(sum x^2 + eps)`` over the last axis, in float32 at least."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + eps)
