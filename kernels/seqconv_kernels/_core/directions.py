"""Sequences read in several orders at once, and put back: gathers in both passes, no scatter.

With K orders ``o_k`` of L places, step s of direction k is entry ``s K + k`` of one sequence of L K entries::

    spread(x)[s, k]  = x[o_k[s]]              one input for all directions
    scan(x)[s, k]    = x[o_k[s], k]           a value of its own for each direction
    unscan(y)[p, k]  = y[inverse(o_k)[p], k]

The last two are permutations of the L K entries, inverse to each other, so that the adjoint of each is the other; the
adjoint of ``spread`` is ``unscan`` summed over the directions.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .native import transformed


class Directions(NamedTuple):
    """Orders of the members of a batch, as indices into the entries above; ``rows`` is 1 or the batch.

    Attributes:
        cells: the place of every entry.
        there: the entry that :func:`scan` reads for every entry.
        back: the inverse permutation.
        num: number of directions.
    """

    cells: Int[Tensor, "rows entries"]
    there: Int[Tensor, "rows entries"]
    back: Int[Tensor, "rows entries"]
    num: int


def directions_along(orders: Int[Tensor, "rows directions places"]) -> Directions:
    """The indices for orders of all places."""
    order, count = orders.mT, orders.shape[1]
    steps = torch.arange(orders.shape[2], device=orders.device)[:, None].expand_as(order)
    step = torch.zeros_like(order).scatter(1, order, steps)  # not empty_like: its strides have no operator in ONNX
    direction = torch.arange(count, device=orders.device)
    cells, there, back = (index.flatten(1) for index in (order, order * count + direction, step * count + direction))
    return Directions(cells, there, back, count)


def spread(
    x: Float[Tensor, "batch places channels"], directions: Directions
) -> Float[Tensor, "batch places directions channels"]:
    """Every sequence along all directions."""
    y: Tensor = _rearrange(x, directions.cells, directions.back, directions.num).unflatten(1, (-1, directions.num))
    return y


def scan(
    x: Float[Tensor, "batch places directions channels"], directions: Directions
) -> Float[Tensor, "batch places directions channels"]:
    """The values of each direction along it."""
    y: Tensor = _rearrange(x.flatten(1, 2), directions.there, directions.back, 1).unflatten(1, (-1, directions.num))
    return y


def unscan(
    y: Float[Tensor, "batch places directions channels"], directions: Directions
) -> Float[Tensor, "batch places directions channels"]:
    """What was computed along each direction, back at its places."""
    x: Tensor = _rearrange(y.flatten(1, 2), directions.back, directions.there, 1).unflatten(1, (-1, directions.num))
    return x


def _gather(x: Float[Tensor, "batch places channels"], index: Int[Tensor, "rows entries"]) -> Tensor:
    if len(index) == 1:
        return x.index_select(1, index[0])
    return x.take_along_dim(index[..., None], dim=1)


def _rearrange(x: Tensor, index: Tensor, back: Tensor, copies: int) -> Tensor:
    # Compilers fuse gathers, and trace custom gradients with warnings; torch.func wants autograd's own.
    if torch.compiler.is_compiling() or transformed():
        return _gather(x, index)
    y: Tensor = _Gather.apply(x, index, back, copies)
    return y


class _Gather(torch.autograd.Function):
    """Entries of ``x`` by index; the adjoint gathers by the inverse index and sums over copies.

    Autograd's own adjoint of an index is a scatter, which is slower on every device.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, back: Tensor, copies: int) -> Tensor:
        ctx.save_for_backward(index, back)
        ctx.copies = copies
        return _gather(x, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        _, back = ctx.saved_tensors
        gradient = _gather(gradients[0], back)
        copies = ctx.copies
        return gradient if copies == 1 else gradient.unflatten(1, (-1, copies)).sum(2), None, None, None
