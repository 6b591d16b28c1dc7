"""The state of a mixer: how it begins, and the checks of tokens and states before a mixer takes them."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ..inputs import check_placement, check_shape, check_state
from ..parameters import KeepFloat32
from ..state import InitialState, State, StateSizes
from ..types import StateKind
from .stateful import Stateful


class StateOwner(KeepFloat32, Stateful[State], ABC):
    """A module with states of a kind of its own.

    Attributes:
        d_model: width of inputs and outputs.
        causal: whether an output depends on no later input. Only causal modules have a state.
        name: in error messages.
    """

    d_model: int
    causal: bool
    name: ClassVar[str] = "mixer"
    float32_names: frozenset[str] | None = frozenset()

    def __init__(self, d_model: int, *, causal: bool = True) -> None:
        super().__init__()
        if d_model < 1:
            raise argument_error(
                f"{self.name} mixer", f"d_model={d_model}", "at least 1", "give the width of the inputs"
            )
        self.d_model, self.causal = d_model, causal
        self._state_sizes: StateSizes | None = None

    @property
    @abstractmethod
    def state_kind(self) -> StateKind:
        """How the state scales with the context; ``"none"`` if and only if the mixer is not causal."""

    @abstractmethod
    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        """The state before the first token."""

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
            max_length: longest context to come, where known; a growing state allocates memory for it.
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
        if device is None or dtype is None:
            found = self.activation_parameter()
            like = torch.empty(0) if found is None else found[0]
            device, dtype = device or like.device, dtype or like.dtype
        return self._init_state(batch_size, max_length, torch.device(device), dtype)

    @final
    def forget_state_sizes(self) -> None:
        """Read the sizes of the state again at its next check; for code that replaced a filter inside the mixer."""
        self._state_sizes = None

    def _own_state(self, operation: str, state: State, x: Tensor) -> State:
        """The state to continue from: built now where it is the initial one, checked where it is not."""
        if isinstance(state, InitialState):
            return self.init_state(x.shape[0], max_length=state.max_length, device=x.device, dtype=x.dtype)
        if not torch.compiler.is_compiling():
            if self._state_sizes is None:
                with torch.no_grad():
                    like = self.init_state(1, max_length=1)
                self._state_sizes = (type(like), like.sizes())
            check_state(self._op(operation), state, self._state_sizes, x.shape[0])
        return state

    def _check_token(self, x_t: Tensor, state: State, mask: Tensor | None) -> State:
        check_shape(self._op("step"), x_t, 2, self.d_model)
        check_placement(self._op("step"), x_t, self)
        if mask is not None:
            remedy = "pass the token as (batch, 1, d_model) with its mask"
            raise argument_error(self._op("step"), "a mask for a single token", "no mask", remedy)
        return self._own_state("step", state, x_t)

    def _fits(self, x_t: Tensor) -> tuple[Any, ...] | None:
        """What the checks of a token and of a state made for it depend on; ``None`` where that is not known.

        It holds no tensor, so that a state may keep it.
        """
        if self._state_sizes is None:
            return None
        found = self.activation_parameter()
        if found is not None and (x_t.dtype != found[0].dtype or x_t.device != found[0].device):
            return None
        return self._state_sizes, x_t.shape, x_t.dtype, x_t.device
