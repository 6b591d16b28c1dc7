"""Pooling over time and back, causal, from a whole sequence or token by token.

With p tokens of width d a chunk, ``c_j = W [x_{jp}, ..., x_{jp+p-1}] + b`` are the pooled tokens, of width ``e d``.
What a network makes of them, ``y_j``, comes back one chunk later, so that no output depends on a later input::

    [z_{jp}, ..., z_{jp+p-1}] = V y_{j-1} + a,    y_{-1}: zeros in the place of V y + a

Token by token the last chunk, which is not complete, waits: the state holds its inputs, and the outputs that the chunk
before gave to it. Rows may be at different places of their chunks.

Source: ``DownPool`` and ``UpPool`` of ``models/sashimi/sashimi.py`` in state-spaces/s4 at e757cef.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..layers.linear import Linear
from ..state import State, state_class


class DownPool(nn.Module):
    """Chunks of tokens as one token each.

    Args:
        d_in, d_out: widths.
        pool: tokens of a chunk.
    """

    def __init__(self, d_in: int, d_out: int, pool: int) -> None:
        super().__init__()
        self.pool = pool
        self.linear = Linear(pool * d_in, d_out)

    def forward(self, x: Float[Tensor, "batch length d_in"]) -> Float[Tensor, "batch chunks d_out"]:
        """Whole chunks to tokens."""
        y: Tensor = self.linear(x.unflatten(1, (-1, self.pool)).flatten(2))
        return y


class UpPool(nn.Module):
    """Tokens as chunks of tokens; the shift by a chunk is the caller's.

    Args:
        d_in, d_out: widths.
        pool: tokens of a chunk.
    """

    def __init__(self, d_in: int, d_out: int, pool: int) -> None:
        super().__init__()
        self.pool = pool
        self.linear = Linear(d_in, pool * d_out)

    def forward(self, y: Float[Tensor, "batch chunks d_in"]) -> Float[Tensor, "batch length d_out"]:
        """Tokens to whole chunks."""
        z: Tensor = self.linear(y).unflatten(2, (self.pool, -1)).flatten(1, 2)
        return z


@state_class
class PoolState(State):
    """What a chunk that is not complete waits with.

    Attributes:
        count: inputs of the chunk so far, below ``pool``.
        pending: the last ``pool - 1`` inputs, the latest last.
        outgoing: outputs for this chunk, from the chunk before it.
    """

    count: Int[Tensor, " batch"]
    pending: Float[Tensor, "batch pool_minus_one d_model"]
    outgoing: Float[Tensor, "batch pool d_model"]


def initial_pool_state(batch: int, d_model: int, pool: int, device: torch.device, dtype: torch.dtype) -> PoolState:
    """The state before the first token."""
    count = torch.zeros(batch, dtype=torch.int64, device=device)
    pending = torch.zeros(batch, pool - 1, d_model, device=device, dtype=dtype)
    return PoolState(count, pending, torch.zeros(batch, pool, d_model, device=device, dtype=dtype))


class Chunks(NamedTuple):
    """Which chunks a call completes.

    Attributes:
        pool: tokens of a chunk.
        most: chunks of the row that completes most.
        start: inputs that wait in every row, where rows are alike; else ``None``, and the rest says it row by row.
        waiting: inputs that wait in each row.
        padding: tokens of padding in front of each row.
        complete: chunks that each row completes.
    """

    pool: int
    most: int
    start: int | None
    waiting: Int[Tensor, " batch"]
    padding: Int[Tensor, " batch"]
    complete: Int[Tensor, " batch"]


def chunks_of(state: PoolState, length: int, mask: Bool[Tensor, "batch length"] | None) -> Chunks:
    """The chunks that ``length`` tokens complete, of which ``mask`` leaves out the first ones of a row."""
    count, pool = state.count, state.outgoing.shape[1]
    low, high = (int(n) for n in count.aminmax())
    alike = mask is None and low == high
    padding = torch.zeros_like(count) if mask is None else (~mask).sum(1)
    complete = (count + length - padding) // pool
    most = (low + length) // pool if alike else int(complete.max())
    return Chunks(pool, most, low if alike else None, count, padding, complete)


def take_in(
    state: PoolState, x: Float[Tensor, "batch length d_model"], at: Chunks
) -> tuple[Float[Tensor, "batch tokens d_model"], Tensor, Bool[Tensor, "batch most"] | None]:
    """The inputs of the chunks that are complete now, those that wait, and which chunks are real.

    Rows that complete fewer chunks have them last, padding in front.
    """
    stream, waits = torch.cat([state.pending, x], dim=1), at.pool - 1
    if at.start is not None:
        first = waits - at.start
        return stream[:, first : first + at.most * at.pool], stream[:, stream.shape[1] - waits :], None
    chunk = torch.arange(at.most, device=x.device) - (at.most - at.complete)[:, None]
    slots = torch.arange(at.pool, device=x.device)
    wanted = (chunk[..., None] * at.pool + slots).flatten(1)
    total = (at.waiting + x.shape[1] - at.padding)[:, None]
    last = total - waits + torch.arange(waits, device=x.device)
    mask = chunk >= 0
    return _of_stream(stream, wanted, at), _of_stream(stream, last, at), None if bool(mask.all()) else mask


def _of_stream(stream: Tensor, index: Tensor, at: Chunks) -> Tensor:
    """Inputs by their number since the begin of the waiting chunk: those that wait, then those after the padding."""
    place = index + at.pool - 1 - at.waiting[:, None] + at.padding[:, None] * (index >= at.waiting[:, None])
    return stream.take_along_dim(place.clamp(min=0)[..., None], 1)


def give_out(
    state: PoolState, z: Float[Tensor, "batch tokens d_model"] | None, length: int, at: Chunks
) -> tuple[Float[Tensor, "batch length d_model"], Float[Tensor, "batch pool d_model"]]:
    """Outputs of ``length`` tokens, a chunk late, and those that the chunk after them will get.

    Args:
        z: outputs that the complete chunks gave, ``None`` where no row completed one.
    """
    table = state.outgoing if z is None else torch.cat([state.outgoing, z], dim=1)
    if at.start is not None:
        return table[:, at.start : at.start + length], table[:, -at.pool :]
    token = torch.arange(length, device=table.device) + (at.waiting - at.padding)[:, None]
    later = (at.most - at.complete)[:, None] * at.pool * (token >= at.pool)
    outputs = table.take_along_dim((token + later).clamp(min=0)[..., None], 1)
    return outputs, torch.where((at.complete > 0)[:, None, None], table[:, -at.pool :], state.outgoing)
