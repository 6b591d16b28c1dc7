"""A backbone: a stack of blocks and a final norm."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels.token_program import Unfused

from .blocks import Block, BlockState
from .decoding.fused import StepProgram, can_step, write_block
from .decoding.stateful import Stateful
from .layers.norms import create_norm
from .layers.residual import Dropout
from .mixer import SharedValues
from .packing import zero_padding
from .state import InitialState, State, call_with_state, carries_state, state_class
from .types import StateKind, most_growing


@state_class
class BackboneState(State):
    """States of all blocks."""

    layers: tuple[BlockState, ...]

    of_modules: ClassVar[bool] = True


class Backbone(Stateful[BackboneState]):
    """Blocks one after the other, then a norm.

    Args:
        blocks: the layers, all of one width.
        norm, norm_options: norm after the last block, ``"none"`` for none.
        input_dropout, tie_dropout: dropout of the input.

    Attributes:
        shares_values: whether a layer reads or writes values shared between layers.
        gradient_checkpointing: recompute every block in the backward pass of training instead of storing what it
            computed.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        *,
        norm: str = "none",
        norm_options: Mapping[str, Any] | None = None,
        input_dropout: float = 0.0,
        tie_dropout: bool = False,
    ) -> None:
        super().__init__()
        if not blocks or len({block.d_model for block in blocks}) > 1:
            got = f"blocks of widths {[block.d_model for block in blocks]}"
            raise argument_error(
                "Backbone", got, "at least one block, all of one width", "build the blocks with one d_model"
            )
        self.d_model = blocks[0].d_model
        self.dropout = Dropout(input_dropout, tied=tie_dropout)
        self.blocks = nn.ModuleList(blocks)
        self.norm = create_norm(norm, self.d_model, **(norm_options or {}))
        self.shares_values = any(block.shares_values for block in blocks)
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., Any] = partial(checkpoint, use_reentrant=False)

    @property
    def layers(self) -> list[Block]:
        """The blocks, with their type."""
        return cast(list[Block], list(self.blocks))

    @property
    def causal(self) -> bool:
        """Whether an output depends on no later input."""
        return self.norm.per_token and all(block.causal for block in self.layers)

    @property
    def state_kind(self) -> StateKind:
        """The kind of the layer whose state grows most with the context."""
        if not self.causal:
            return "none"
        return most_growing(block.state_kind for block in self.layers)

    @carries_state
    def forward(
        self,
        x: Float[Tensor, "batch *length d_model"],
        state: State | None = None,
        *,
        mask: Bool[Tensor, "batch length"] | None = None,
        cu_seqlens: Int[Tensor, " bounds"] | None = None,
        output_hidden_states: bool = False,
    ) -> Any:
        """All tokens in parallel, or any number of tokens or one from ``state``; arguments and errors as ``Mixer``.

        Args:
            output_hidden_states: also return the input of every block and the output.

        Returns:
            The outputs, followed by the new :class:`BackboneState` where a state was given and by a tuple of hidden
            states where those were asked for.
        """
        before = self._layer_states(state)
        if x.dim() == 2 and mask is None and not output_hidden_states and self._steps_at_once(x, state):
            return self._step_at_once(x, cast(tuple[BlockState, ...], before))
        x, after, hidden_states = self.dropout(x), [], []
        shared: SharedValues | None = {} if self.shares_values else None
        checkpoints = self._checkpoints
        for block, layer_state in zip(self.layers, before, strict=True):
            if output_hidden_states:
                hidden_states.append(x)
            call = block if layer_state is None else partial(call_with_state, block, state=layer_state)
            run = partial(call, mask=mask, cu_seqlens=cu_seqlens, shared=shared)
            outputs = self._checkpointed(run, x, state, shared) if checkpoints else run(x)
            x, *rest = outputs if isinstance(outputs, tuple) else (outputs,)
            shared = None if shared is None else {**shared, **rest.pop()}
            after.extend(rest)
        x = zero_padding(self.norm(x, mask), mask)
        results: list[Any] = [x] if state is None else [x, BackboneState(tuple(after))]
        if output_hidden_states:
            results.append((*hidden_states, x))
        return tuple(results) if len(results) > 1 else x

    def _steps_at_once(self, x: Tensor, state: State | None) -> bool:
        """Whether layers may be written into one list of ops."""
        plain = isinstance(state, BackboneState) and not self.shares_values and not self.training
        return plain and self.d_model == x.shape[1] and can_step(x, self.dropout)

    def _step_at_once(self, x: Tensor, before: tuple[BlockState, ...]) -> tuple[Tensor, BackboneState]:
        """One token, neighbouring layers in one list of ops where they have that form, and the others called."""
        program, after = StepProgram(x), []
        current: Tensor | None = x  # the residual stream, where it is not that of the program
        for block, state in zip(self.layers, before, strict=True):
            mark = program.mark()
            try:
                if current is not None:
                    program.read(current)
                after.append(write_block(program, block, x, state))
                current = None
            except Unfused:
                program.cut(mark)
                current = program.written() if current is None else current
                current, layer_state = call_with_state(block, current, state)
                after.append(layer_state)
        if current is None:
            current = program.written_normalised(self.norm)
        else:
            current = self.norm(current)
        return current, BackboneState(tuple(after))

    def init_state(
        self,
        batch_size: int,
        *,
        max_length: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> BackboneState:
        """The state before the first token; arguments and errors as ``Mixer.init_state``."""
        self._check_causal()
        sizes: dict[str, Any] = {"max_length": max_length, "device": device, "dtype": dtype}
        return BackboneState(tuple(block.init_state(batch_size, **sizes) for block in self.layers))

    @property
    def _checkpoints(self) -> bool:
        return self.gradient_checkpointing and self.training and torch.is_grad_enabled()

    def _checkpointed(
        self, run: Callable[..., Any], x: Tensor, state: State | None, shared: SharedValues | None
    ) -> Any:
        """``run(x)``, recomputed in the backward pass.

        Reentrant checkpoints lose gradients of all but ``x``: states and shared values take the other kind.
        """
        function, options = self._gradient_checkpointing_func, {}
        if (state is not None or shared is not None) and checkpoint in (function, getattr(function, "func", None)):
            options = {"use_reentrant": False}
        return function(run, x, **options)

    def _layer_states(self, state: State | None) -> tuple[State | None, ...]:
        if state is None:
            return (None,) * len(self.blocks)
        if isinstance(state, InitialState):
            self._check_causal()
            return (state,) * len(self.blocks)
        if not isinstance(state, BackboneState) or len(state.layers) != len(self.blocks):
            got = f"{len(state.layers)} layer states" if isinstance(state, BackboneState) else type(state).__name__
            remedy = "pass what this backbone's init_state, prefill or step returned"
            raise argument_error("Backbone", got, f"a BackboneState of {len(self.blocks)} layers", remedy)
        if not self.norm.per_token:
            self._check_causal()  # a block checks its own norms and mixers
        return state.layers

    def _check_causal(self) -> None:
        if self.causal:
            return
        non_causal = [i for i, block in enumerate(self.layers) if not block.causal]
        got = (
            f"layers {non_causal} that are not causal" if non_causal else "a final norm with statistics over the length"
        )
        remedy = "build every layer causal (bidirectional=False, norms of single tokens), or use forward"
        raise argument_error("Backbone.init_state", got, "causal layers: only those have a state", remedy)
