"""The interface of every sequence mixer.

A mixer maps ``(batch, length, d_model)`` to the same shape and computes one function in three forms:

* ``mixer(x)``: all tokens in parallel;
* ``mixer(x, state)`` or ``prefill``: any number of tokens, from a state to a state;
* ``mixer(x_t, state)`` or ``step``: one token ``(batch, d_model)``, from a state to a state.

``mixer(x) == mixer.prefill(x)[0] ==`` the outputs of ``step`` over the tokens, for any split into chunks. All three
go through ``nn.Module.__call__``, so that forward hooks, FSDP, offloading and adapters act in each of them. The
checks are here, once; a concrete mixer fills in the four methods with a leading underscore and is final.
"""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqconv_kernels._core.checks import check_cu_seqlens
from seqconv_kernels._core.errors import argument_error
from seqconv_kernels.token_program import Rows, Unfused

from .decoding.mixer_state import StateOwner
from .inputs import check_placement, check_shape
from .packing import check_left_padding, check_mask, pack, unpack, zero_padding
from .parameters import copy_for_rate
from .rows import RowGroups, begun_rows_wait, groups_apart, rows_apart
from .state import InitialState, State, carries_state
from .types import StateKind

if TYPE_CHECKING:
    from .decoding.fused import StepProgram

MixerT = TypeVar("MixerT", bound="Mixer")
StateT = TypeVar("StateT", bound=State)

SharedValues = dict[str, Tensor]
"""Values that layers of a stack hand on for the tokens of one call, such as the first layer's values in RWKV-7."""


class Mixer(StateOwner):
    """Base of all sequence mixers.

    Parameters that must not be rounded are kept in float32 by ``self.keep_float32("A_log", "D")`` in the constructor.
    A mixer with ``shares_values`` takes a keyword ``shared`` in ``_forward``, ``_prefill`` and ``_step``: a dictionary
    with what earlier layers of the stack have put there for the same tokens, into which it may put values itself.

    Attributes:
        d_model: width of inputs and outputs.
        causal: whether an output depends on no later input. Only causal mixers have a state.
        name: name in the registry, set by ``register``.
        residual_inside: whether the mixer holds its norm and residual connection itself; a block then adds neither.
        shares_values: whether it reads or writes values shared between the layers of a stack.
    """

    residual_inside: ClassVar[bool] = False
    shares_values: ClassVar[bool] = False

    @abstractmethod
    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """All tokens in parallel. ``x`` is zero at padding; a bias added inside must be masked again."""

    @abstractmethod
    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        """Tokens from ``state``. Masked tokens lead their row, whose state is the initial one until its first token."""

    @abstractmethod
    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        """One token from ``state``."""

    def _write_step(self, program: "StepProgram", x: Rows, state: State) -> State:
        """Append the ops of one token, whose output joins ``program.stream``; returns the state after it.

        Raises:
            Unfused: the mixer has no such form, which is the default; then it is called by itself.
        """
        raise Unfused

    @final  # type: ignore[misc]  # nn.Module types forward as a writable attribute
    @carries_state
    def forward(
        self,
        x: Float[Tensor, "batch *length d_model"],
        state: State | None = None,
        *,
        mask: Bool[Tensor, "batch length"] | None = None,
        cu_seqlens: Int[Tensor, " bounds"] | None = None,
        shared: SharedValues | None = None,
    ) -> Any:
        """Mix tokens: all in parallel without a state, from the state to a new one with it.

        The state that was passed in must not be used again (its memory may have been); ``state.clone()`` branches.

        Args:
            x: inputs (batch, length, d_model), or (batch, d_model) for one token from a state.
            state: state after the tokens before, or :class:`~seqconv.state.InitialState`.
            mask: True at real tokens, (batch, length); padding changes no other output and yields zeros. Without a
                state on the left or right; with one on the left only: rows that have begun wait until their tokens.
            cu_seqlens: boundaries of sequences packed along the length of a batch of one; without a state only.
            shared: values of earlier layers for the same tokens.

        Returns:
            The outputs ``y``, shaped as ``x``, followed by the new state where a state was given and by the shared
            values where those were: ``y``, ``(y, state)``, ``(y, shared)`` or ``(y, state, shared)``.

        Raises:
            ValueError: wrong rank, width, dtype, device or length; a mask with holes or, with a state, with padding on
                the right; boundaries that do not increase to the length; both a mask and boundaries; a state of
                another mixer or batch size; a state for a mixer that is not causal.
        """
        values = {"shared": dict(shared or {})} if self.shares_values else {}
        if state is None:
            outputs: tuple[Any, ...] = (self._parallel(x, mask, cu_seqlens, values),)
        elif cu_seqlens is not None:
            wanted, remedy = "one of them: packed sequences start from the initial state", "drop the state"
            raise argument_error(self._op("forward"), "a state and cu_seqlens", wanted, remedy)
        else:
            outputs = self._one_token(x, state, mask, values) if x.dim() == 2 else self._from(x, state, mask, values)
        if shared is not None:
            outputs = (*outputs, values.get("shared", shared))
        return outputs if len(outputs) > 1 else outputs[0]

    @final
    def at_rate(self: MixerT, rate: float) -> MixerT:
        """The same mixer, with the same parameters, for tokens ``rate`` times as far apart in time as now.

        With ``rate=2.0`` a mixer that was trained on every sample runs on every second one, with 0.5 on a signal that
        is sampled twice as finely; signals without frequencies beyond the coarser rate's Nyquist frequency give the
        same outputs, up to the error of the discretisation.

        Raises:
            ValueError: a rate that is not positive; a mixer that is not a function of time.
        """
        made = copy_for_rate(self._op("at_rate"), self, rate)
        made._change_rate(rate)
        made.forget_state_sizes()
        return made

    def _change_rate(self, rate: float) -> None:
        """Take tokens ``rate`` times as far apart as now; mixers by functions of time alone override it."""
        wanted, remedy = "a mixer by functions of time alone, such as s4, s4d or ckconv", "resample the inputs instead"
        raise argument_error(self._op("at_rate"), f"rate={rate}", wanted, remedy)

    def _parallel(
        self, x: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, values: dict[str, SharedValues]
    ) -> Tensor:
        check_shape(self._op("forward"), x, 3, self.d_model)
        check_placement(self._op("forward"), x, self)
        if cu_seqlens is not None:
            if mask is not None:
                raise argument_error(self._op("forward"), "a mask and cu_seqlens", "one of them", "drop the mask")
            check_cu_seqlens(self._op("forward"), cu_seqlens, x)
            padded, mask = unpack(x, cu_seqlens)
            return pack(self._forward(padded, mask, **values), mask)
        if mask is None:
            return self._forward(x, None, **values)
        check_mask(self._op("forward"), mask, x)
        return zero_padding(self._forward(zero_padding(x, mask), mask, **values), mask)

    def _from(
        self, x: Tensor, state: State, mask: Tensor | None, values: dict[str, SharedValues]
    ) -> tuple[Tensor, State]:
        check_shape(self._op("prefill"), x, 3, self.d_model)
        check_placement(self._op("prefill"), x, self)
        fresh, state = isinstance(state, InitialState), self._own_state("prefill", state, x)
        if mask is None:
            if isinstance(state, RowGroups):
                return groups_apart(self._tokens, x, state, values.get("shared", {}))
            return self._prefill(x, state, None, **values)
        check_mask(self._op("prefill"), mask, x)
        check_left_padding(self._op("prefill"), mask)
        eager = not torch.compiler.is_compiling()
        not_begun = torch.ones_like(mask[:, 0]) if fresh else state.not_begun
        apart = isinstance(state, RowGroups)
        if apart and not eager:
            wanted, remedy = "no mask, or a state of rows that are together", "call the mixer outside of torch.compile"
            raise argument_error(self._op("prefill"), "a compiled call with a mask and RowGroups", wanted, remedy)
        if eager and (apart or begun_rows_wait(mask, not_begun)):
            return rows_apart(self._tokens, x, state, mask, values.get("shared", {}))
        if eager:
            state.not_begun = not_begun  # for mixers inside this one, which get their part of the state
        y, state = self._prefill(zero_padding(x, mask), state, mask, **values)
        if eager and not_begun is not None:
            state.not_begun = not_begun & ~mask.any(1)
        return zero_padding(y, mask), state

    def _tokens(self, x: Tensor, state: State, shared: SharedValues) -> tuple[Tensor, State]:
        """Tokens of rows that all take part."""
        if isinstance(state, RowGroups):
            return groups_apart(self._tokens, x, state, shared)
        values = {"shared": shared} if self.shares_values else {}
        return self._prefill(x, state, None, **values) if x.dim() == 3 else self._step(x, state, **values)

    def _one_token(
        self, x_t: Tensor, state: State, mask: Tensor | None, values: dict[str, SharedValues]
    ) -> tuple[Tensor, State]:
        eager = not torch.compiler.is_compiling()
        checked = getattr(state, "checked", None) if eager and mask is None else None  # anything may be passed in
        if checked is None or checked != self._fits(x_t):
            state = self._check_token(x_t, state, mask)
            checked = self._fits(x_t) if eager else None
        if isinstance(state, RowGroups):
            return groups_apart(self._tokens, x_t, state, values.get("shared", {}))
        y, after = self._step(x_t, state, **values)
        if eager:
            after.checked = checked
        return y, after


class ScanMixer(Mixer, Generic[StateT]):
    """A mixer whose state has a fixed size, and which scans a sequence alike from the initial state and from any other.

    ``class Mamba(ScanMixer[MambaState])`` fills in ``_scan_from`` in the place of ``_forward`` and ``_prefill``.
    """

    @property
    def state_kind(self) -> StateKind:
        """The state has a fixed size."""
        return "constant"

    @abstractmethod
    def _scan_from(self, x: Tensor, state: StateT | None, mask: Tensor | None) -> tuple[Tensor, State]:
        """All tokens from ``state``, ``None`` for the initial one; ``mask`` as in ``_forward`` and ``_prefill``."""

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self._scan_from(x, None, mask)[0]

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        return self._scan_from(x, cast(StateT, state), mask)
