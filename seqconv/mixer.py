"""The interface of every sequence mixer.

A mixer maps ``(batch, length, d_model)`` to the same shape and computes one function in three forms:

* ``forward``: all tokens in parallel;
* ``prefill``: any number of tokens, from a state to a state;
* ``step``: one token, from a state to a state.

``forward(x) == prefill(x)[0] ==`` the outputs of ``step`` over the tokens, for any split into pieces. The
checks live here, once; a concrete mixer fills in the four methods with a leading underscore and is final.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqconv_kernels._core.checks import check_cu_seqlens
from seqconv_kernels._core.errors import argument_error

from .packing import check_left_padding, check_mask, pack, unpack, zero_padding
from .parameters import KeepFloat32
from .state import State
from .types import StateKind


class Mixer(KeepFloat32, ABC):
    """Base of all sequence mixers.

    Parameters that must not be rounded are kept in float32 by ``self.keep_float32("A_log", "D")`` in the constructor.

    Attributes:
        d_model: width of inputs and outputs.
        causal: whether an output depends on no later input. Only causal mixers have a state.
        name: name in the registry, set by ``register``.
        residual_inside: whether the mixer holds its norm and residual connection itself; a block then adds neither.
    """

    d_model: int
    causal: bool
    name: ClassVar[str] = "mixer"
    residual_inside: ClassVar[bool] = False
    float32_names: frozenset[str] | None = frozenset()

    def __init__(self, d_model: int, *, causal: bool = True) -> None:
        super().__init__()
        if d_model < 1:
            raise argument_error(
                f"{self.name} mixer", f"d_model={d_model}", "at least 1", "give the width of the inputs"
            )
        self.d_model, self.causal = d_model, causal
        self._state_like: tuple[type[State], dict[str, tuple[int, ...]]] | None = None

    @property
    @abstractmethod
    def state_kind(self) -> StateKind:
        """How the state scales with the context; ``"none"`` if and only if the mixer is not causal."""

    @abstractmethod
    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """All tokens in parallel. ``x`` is zero at padding; a bias added inside must be masked again."""

    @abstractmethod
    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        """The state before the first token."""

    @abstractmethod
    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        """Tokens from ``state``. Masked tokens lead their row, whose state is the initial one until its first token."""

    @abstractmethod
    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        """One token from ``state``."""

    @final  # type: ignore[misc]  # nn.Module types forward as a writable attribute
    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        *,
        mask: Bool[Tensor, "batch length"] | None = None,
        cu_seqlens: Int[Tensor, " bounds"] | None = None,
    ) -> Float[Tensor, "batch length d_model"]:
        """Mix all tokens in parallel.

        Args:
            x: inputs.
            mask: True at real tokens; padding on the left or right changes no other output and yields zeros.
            cu_seqlens: boundaries of sequences packed along the length of a batch of one.

        Raises:
            ValueError: wrong rank, width, dtype, device or length; a mask with holes; boundaries that do not
                increase to the length; both a mask and boundaries.
        """
        self._check_input("forward", x, rank=3)
        if cu_seqlens is not None:
            if mask is not None:
                raise argument_error(self._op("forward"), "a mask and cu_seqlens", "one of them", "drop the mask")
            check_cu_seqlens(self._op("forward"), cu_seqlens, x)
            padded, mask = unpack(x, cu_seqlens)
            return pack(self._forward(padded, mask), mask)
        if mask is None:
            return self._forward(x, None)
        check_mask(self._op("forward"), mask, x)
        return zero_padding(self._forward(zero_padding(x, mask), mask), mask)

    @final
    def init_state(
        self,
        batch_size: int,
        *,
        max_length: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """The state before the first token.

        Args:
            batch_size: rows.
            max_length: longest context to come, where known; a growing state reserves room for it.
            device, dtype: of the activations; the parameters' own by default. States accumulate in float32 at least.

        Raises:
            ValueError: the mixer is not causal, ``batch_size < 0`` or ``max_length < 1``.
        """
        if not self.causal:
            raise argument_error(
                self._op("init_state"),
                "a mixer that is not causal",
                "a causal mixer: only those have a state",
                "build it with bidirectional=False, or use forward on the whole sequence",
            )
        if batch_size < 0 or (max_length is not None and max_length < 1):
            got = f"batch_size={batch_size}, max_length={max_length}"
            raise argument_error(
                self._op("init_state"), got, "batch_size >= 0 and max_length >= 1", "correct the sizes"
            )
        own_device, own_dtype = self._placement() or (torch.device("cpu"), torch.get_default_dtype())
        return self._init_state(batch_size, max_length, torch.device(device or own_device), dtype or own_dtype)

    @final
    def prefill(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: State | None = None,
        *,
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], State]:
        """Mix any number of tokens, continuing from ``state``; return the outputs and the state after the last one.

        The state that was passed in must not be used again (its memory may have been); ``state.clone()`` branches.

        Args:
            x: inputs, at least one token.
            state: state after the tokens before; ``None`` is the initial state.
            mask: True at real tokens; padding on the left only, before the first token of its row.

        Raises:
            ValueError: as ``forward``; padding on the right; a state of another mixer or batch size.
        """
        self._check_input("prefill", x, rank=3)
        state = self.init_state(x.shape[0], device=x.device, dtype=x.dtype) if state is None else state
        self._check_state("prefill", state, x.shape[0])
        if mask is None:
            return self._prefill(x, state, None)
        check_mask(self._op("prefill"), mask, x)
        check_left_padding(self._op("prefill"), mask)
        y, state = self._prefill(zero_padding(x, mask), state, mask)
        return zero_padding(y, mask), state

    @final
    def step(self, x_t: Float[Tensor, "batch d_model"], state: State) -> tuple[Float[Tensor, "batch d_model"], State]:
        """Mix one token, continuing from ``state``; the state that was passed in must not be used again.

        Raises:
            ValueError: wrong rank, width, dtype or device; a state of another mixer or batch size.
        """
        self._check_input("step", x_t, rank=2)
        self._check_state("step", state, x_t.shape[0])
        return self._step(x_t, state)

    @final
    def forget_state_sizes(self) -> None:
        """Measure the state anew at its next check; to be called when a filter inside was replaced by another."""
        self._state_like = None

    def _op(self, operation: str) -> str:
        return f"{self.name}.{operation}"

    def _check_input(self, operation: str, x: Tensor, rank: int) -> None:
        axes = "(batch, length, d_model)" if rank == 3 else "(batch, d_model)"
        if x.dim() != rank or x.shape[-1] != self.d_model:
            wanted = f"{axes} with d_model={self.d_model}"
            raise argument_error(
                self._op(operation), f"x of shape {tuple(x.shape)}", wanted, "reshape or project the input"
            )
        if rank == 3 and x.shape[1] == 0:
            raise argument_error(
                self._op(operation), "a sequence of length 0", "at least one token", "leave empty inputs out"
            )
        activations = self._placement()
        if activations is None:
            return
        device, dtype = activations
        if x.device != device:
            raise argument_error(
                self._op(operation), f"x on {x.device}", f"the mixer on {device}", "move one with .to()"
            )
        if x.dtype != dtype and not (x.is_floating_point() and torch.is_autocast_enabled(x.device.type)):
            remedy = "convert one with .to(dtype), or run under torch.autocast"
            raise argument_error(self._op(operation), f"x of dtype {x.dtype}", f"{dtype}", remedy)

    def _placement(self) -> tuple[torch.device, torch.dtype] | None:
        """Device and dtype of the activations: the narrowest of the parameters', some of which may stay wider.

        ``None`` without parameters of a floating point dtype (a quantised mixer).
        """
        parameters = [p for p in self.parameters() if p.is_floating_point()]
        if not parameters:
            return None
        narrowest = parameters[0].dtype
        for parameter in parameters:  # compilers do not look through min(..., key=)
            narrowest = parameter.dtype if parameter.dtype.itemsize < narrowest.itemsize else narrowest
        return parameters[0].device, narrowest

    def _check_state(self, operation: str, state: State, batch_size: int) -> None:
        if torch.compiler.is_compiling():
            return
        if self._state_like is None:
            with torch.no_grad():
                like = self.init_state(1, max_length=1)
            self._state_like = (type(like), like.sizes())
        kind, sizes = self._state_like
        if type(state) is not kind or state.sizes() != sizes:
            got = f"{type(state).__name__} with sizes {state.sizes() if isinstance(state, State) else None}"
            remedy = "pass what this mixer's init_state, prefill or step returned"
            raise argument_error(self._op(operation), got, f"{kind.__name__} with sizes {sizes}", remedy)
        if state.batch_size != batch_size:
            raise argument_error(
                self._op(operation),
                f"a state of {state.batch_size} rows for {batch_size} inputs",
                "equal batch sizes",
                "select the state's rows with state.select(index)",
            )
