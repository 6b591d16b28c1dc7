"""SaShiMi: stacks of blocks at several rates of time, joined by pooling; a backbone for waveforms.

A level reads a sequence x, pools it by p (:mod:`~seqconv.audio.pooling`), hands it to the level below, which is wider,
and adds what comes back one chunk later::

    level(x) = s + f(s),    s = x + up(level'(down(x)));    innermost level: x + f(x)

with f the blocks of the level. With ``unet`` blocks also precede the pooling, and every block after it gets the output
of its counterpart before it instead of its own input: ``s ← f_k(s) + skip_{n-k}``.

All levels are causal if their mixers are, so that the backbone decodes token by token: a level computes where a chunk
is complete, on average ``1 + 1/p_1 + 1/(p_1 p_2) + …`` blocks of each place per token.

Source: Goel et al. 2022, "It's Raw! Audio Generation with State-Space Models" (arXiv 2202.09729); ``Sashimi`` of
``models/sashimi/sashimi.py`` in state-spaces/s4 at e757cef, which takes lengths that all pools divide. Here a sequence
of any length is padded with zeros to whole chunks, which no causal output sees.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ..backbone import Backbone
from ..blocks import Block
from ..decoding.stateful import Stateful
from ..inputs import check_shape
from ..layers.norms import create_norm
from ..layers.residual import Dropout
from ..packing import check_left_padding, check_mask, pack, unpack, zero_padding
from ..state import InitialState, State, carries_state
from ..types import StateKind, most_growing
from .pooling import DownPool, PoolState, UpPool, initial_pool_state
from .walk import FromState, Place, SashimiState, Walk, Whole


class Sashimi(Stateful[SashimiState]):
    """Levels of blocks with pooling between them.

    Args:
        down: stacks before each level's pooling: lists of blocks, the outermost level first; empty without ``unet``.
        center: blocks of the innermost level.
        up: blocks after each level's pooling, the outermost level first.
        pool: tokens of a chunk at each level.
        expand: width of a level over that of the level around it.
        unet: skip connections from every block before the pooling to its counterpart after it.
        norm, norm_options: norm after the last block.
        input_dropout, tie_dropout: dropout of the input.

    Raises:
        ValueError: blocks that do not fit to the levels, or share values between layers.
    """

    def __init__(
        self,
        down: Sequence[Sequence[Block]],
        center: Sequence[Block],
        up: Sequence[Sequence[Block]],
        *,
        pool: Sequence[int],
        expand: int = 2,
        unet: bool = False,
        norm: str = "layer",
        norm_options: Mapping[str, Any] | None = None,
        input_dropout: float = 0.0,
        tie_dropout: bool = False,
    ) -> None:
        super().__init__()
        _check_levels(down, center, up, pool, expand, unet)
        self.pool, self.unet, self.d_model = tuple(pool), unet, up[0][0].d_model
        self.widths = tuple(self.d_model * expand**level for level in range(len(pool) + 1))
        self.dropout = Dropout(input_dropout, tied=tie_dropout)
        self.down = nn.ModuleList(_stacks(blocks, apart=True) for blocks in down or [()] * len(pool))
        self.center = Backbone(center)
        self.up = nn.ModuleList(_stacks(blocks, apart=unet) for blocks in up)
        between = [(*self.widths[i : i + 2], p) for i, p in enumerate(pool)]
        self.down_pools = nn.ModuleList(DownPool(outer, inner, p) for outer, inner, p in between)
        self.up_pools = nn.ModuleList(UpPool(inner, outer, p) for outer, inner, p in between)
        self.norm = create_norm(norm, self.d_model, **(norm_options or {}))
        before, after = [len(blocks) if unet else 0 for blocks in up], [len(blocks) if unet else 1 for blocks in up]
        self.stacks = {"down": before, "up": after}
        self.places: list[Place] = [("center", len(pool), 0)]
        for side, counts in self.stacks.items():
            self.places += [(side, level, k) for level, count in enumerate(counts) for k in range(count)]

    def stack(self, place: Place) -> Backbone:
        """The blocks at a place."""
        side, level, number = place
        levels: Any = self.center if side == "center" else getattr(self, side)[level][number]
        return cast(Backbone, levels)

    @property
    def layers(self) -> list[Block]:
        """All blocks."""
        return [block for place in self.places for block in self.stack(place).layers]

    @property
    def causal(self) -> bool:
        """Whether an output depends on no later input."""
        return self.norm.per_token and all(block.causal for block in self.layers)

    @property
    def state_kind(self) -> StateKind:
        """The kind of the block whose state grows most with the context."""
        return most_growing(block.state_kind for block in self.layers) if self.causal else "none"

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
            output_hidden_states: also return the inputs of the outermost level's stacks, and the output.

        Returns:
            The outputs, followed by the new :class:`SashimiState` where a state was given and by a tuple of hidden
            states where those were asked for.
        """
        check_shape("Sashimi", x, 2 if x.dim() == 2 and state is not None else 3, self.d_model)
        if mask is not None:
            check_mask("Sashimi", mask, x)
        x = self.dropout(x)
        if state is not None:
            y, hidden, after = self._continue(x, state, mask)
            results: list[Any] = [y, after]
        elif cu_seqlens is not None:
            padded, mask = unpack(x, cu_seqlens)
            y, hidden = self._whole(padded, mask)
            hidden, results = [pack(h, mask) for h in hidden], [pack(y, mask)]
        else:
            y, hidden = self._whole(x, mask)
            results = [y]
        if output_hidden_states:
            results.append((*hidden, results[0]))
        return tuple(results) if len(results) > 1 else results[0]

    def init_state(
        self,
        batch_size: int,
        *,
        max_length: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> SashimiState:
        """The state before the first token; arguments and errors as ``Mixer.init_state``."""
        self._check_causal()
        weight = next(self.down_pools.parameters())
        where, kind = torch.device(device or weight.device), dtype or weight.dtype
        layers = (
            self.stack(place).init_state(
                batch_size, max_length=self._at_level(place[1], max_length), device=where, dtype=kind
            )
            for place in self.places
        )
        return SashimiState(tuple(layers), self._initial_pools(batch_size, where, kind))

    def _initial_pools(self, batch: int, device: torch.device, dtype: torch.dtype) -> tuple[PoolState, ...]:
        levels = zip(self.widths, self.pool, strict=False)
        return tuple(initial_pool_state(batch, width, p, device, dtype) for width, p in levels)

    def _at_level(self, level: int, length: int | None) -> int | None:
        """Tokens of a level for a number of tokens of the outermost one."""
        for p in self.pool[:level] if length is not None else ():
            length = -(-cast(int, length) // p)
        return length

    def _whole(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Outputs and hidden states of whole sequences; rows begin with their first token meanwhile."""
        if mask is None:
            walk = Whole(self)
            return self.norm(self._level(0, x, None, walk)), walk.hidden
        order = (~mask).byte().argsort(dim=1, stable=True)
        back, aligned, walk = order.argsort(1)[..., None], mask.take_along_dim(order, 1), Whole(self)
        x = zero_padding(x, mask).take_along_dim(order[..., None], 1)
        y = self.norm(self._level(0, x, aligned, walk), aligned).take_along_dim(back, 1)
        return zero_padding(y, mask), [zero_padding(h.take_along_dim(back, 1), mask) for h in walk.hidden]

    def _continue(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, list[Tensor], SashimiState]:
        if mask is not None:
            check_left_padding("Sashimi", mask)
        one, tokens = x.dim() == 2, x[:, None] if x.dim() == 2 else x
        walk = FromState(self, self._own_state(state, tokens), tokens)
        y = zero_padding(self.norm(self._level(0, tokens, mask, walk), mask), mask)
        hidden = [zero_padding(h, mask) for h in walk.hidden]
        if one:
            y, hidden = y[:, 0], [h[:, 0] for h in hidden]
        return y, hidden, walk.after(tokens)

    def _level(self, level: int, x: Tensor, mask: Tensor | None, walk: Walk) -> Tensor:
        """A level and all inside it."""
        if level == len(self.pool):
            return walk.blocks(("center", level, 0), x, mask) + x
        skips = [x]
        for number in range(self.stacks["down"][level]):
            skips.append(walk.blocks(("down", level, number), skips[-1], mask))
        chunks, chunk_mask = walk.down(level, skips[-1], mask)
        inner = None if chunks is None else self._level(level + 1, chunks, chunk_mask, walk)
        x = walk.up(level, inner, x.shape[1]) + skips.pop()
        for number in range(self.stacks["up"][level]):
            y = walk.blocks(("up", level, number), x, mask)
            x = y + (skips.pop() if self.unet else x)
        return x

    def _own_state(self, state: State, x: Tensor) -> SashimiState:
        if isinstance(state, InitialState):
            self._check_causal()
            at = (InitialState(self._at_level(place[1], state.max_length)) for place in self.places)
            return SashimiState(tuple(at), self._initial_pools(x.shape[0], x.device, x.dtype))
        if not isinstance(state, SashimiState) or len(state.layers) != len(self.places):
            remedy = "pass what this backbone's init_state, prefill or step returned"
            wanted = f"a SashimiState of {len(self.places)} stacks"
            raise argument_error("Sashimi", f"a {type(state).__name__}", wanted, remedy)
        if state.pools[0].count.shape[0] != x.shape[0]:
            got, wanted = f"a state of {state.pools[0].count.shape[0]} rows", f"{x.shape[0]}, as the inputs"
            raise argument_error("Sashimi", got, wanted, "pass the state of these rows")
        return state

    def _check_causal(self) -> None:
        if not self.causal:
            got, wanted = "blocks or a norm that are not causal", "causal ones: only those have a state"
            remedy = "build every layer causal (bidirectional=False, norms of single tokens), or use forward"
            raise argument_error("Sashimi.init_state", got, wanted, remedy)


def _stacks(blocks: Sequence[Block], *, apart: bool) -> nn.ModuleList:
    """Blocks one by one, or as one stack."""
    return nn.ModuleList([Backbone([block]) for block in blocks] if apart else [Backbone(blocks)])


def _check_levels(
    down: Sequence[Sequence[Block]],
    center: Sequence[Block],
    up: Sequence[Sequence[Block]],
    pool: Sequence[int],
    expand: int,
    unet: bool,
) -> None:
    """Raise for blocks that do not fit to the levels.

    Raises:
        ValueError: see :class:`Sashimi`.
    """
    if not pool or min(pool) < 1 or expand < 1:
        got = f"pool={list(pool)}, expand={expand}"
        raise argument_error("Sashimi", got, "at least one level, and numbers of at least 1", "correct them")
    sizes = [len(blocks) for blocks in down]
    if len(up) != len(pool) or not all(up) or not center or sizes != ([len(b) for b in up] if unet else []):
        got = f"{sizes} blocks before, {len(center)} inside and {[len(b) for b in up]} after {len(pool)} pools"
        wanted = "blocks inside and after each pool, and with unet as many before it"
        raise argument_error("Sashimi", got, wanted, "take build_sashimi, which makes them")
    if any(block.shares_values for blocks in (*down, center, *up) for block in blocks):
        remedy = "take mixers without shared values, such as 's4', 's4d' or 'mamba'"
        raise argument_error("Sashimi", "layers that share values", "layers of one rate of time each", remedy)
