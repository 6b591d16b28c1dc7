"""Images read along several scan orders at once, and put back: gathers in both passes, no scatter.

With K orders ``o_k`` of L cells, step s of direction k is place ``s K + k`` of one sequence of L K entries::

    spread(x)[s, k]  = x[o_k[s]]              one image for all directions
    scan(x)[s, k]    = x[o_k[s], k]           a value of its own for each direction
    unscan(y)[p, k]  = y[inverse(o_k)[p], k]

The last two are permutations of the L K entries, inverse to each other, so that the adjoint of each is the other; the
adjoint of ``spread`` is ``unscan`` summed over the directions. Images of different sizes are each read in the order of
their own size, padding after their cells.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from seqconv_kernels._core.constants import made_once
from seqconv_kernels._core.native import transformed

from .mixer_2d import image_sizes
from .scan_orders import inverse, scan_order, without_reversal

CACHED_DIRECTIONS = 64
"""Sets of indices kept in memory, per size and device."""


class Directions(NamedTuple):
    """Scan orders of the images of a batch, as indices into the entries above; ``rows`` is 1 or the batch.

    Attributes:
        cells: the cell of every entry.
        there: the entry that :func:`scan` reads for every entry.
        back: the inverse permutation.
        num: number of directions.
    """

    cells: Int[Tensor, "rows entries"]
    there: Int[Tensor, "rows entries"]
    back: Int[Tensor, "rows entries"]
    num: int


def spread(
    x: Float[Tensor, "batch cells channels"], directions: Directions
) -> Float[Tensor, "batch cells directions channels"]:
    """Every image along all directions."""
    y: Tensor = _rearrange(x, directions.cells, directions.back, directions.num).unflatten(1, (-1, directions.num))
    return y


def scan(
    x: Float[Tensor, "batch cells directions channels"], directions: Directions
) -> Float[Tensor, "batch cells directions channels"]:
    """The values of each direction along it."""
    y: Tensor = _rearrange(x.flatten(1, 2), directions.there, directions.back, 1).unflatten(1, (-1, directions.num))
    return y


def unscan(
    y: Float[Tensor, "batch cells directions channels"], directions: Directions
) -> Float[Tensor, "batch cells directions channels"]:
    """What was computed along each direction, back at its cells."""
    x: Tensor = _rearrange(y.flatten(1, 2), directions.back, directions.there, 1).unflatten(1, (-1, directions.num))
    return x


class Curve(NamedTuple):
    """An order of the images, and the directions that follow it.

    Attributes:
        order: as directions of one; ``None`` for the order in memory, which needs no gather.
        members: the index of every direction, and whether it runs from the end of the curve to its start.
    """

    order: Directions | None
    members: tuple[tuple[int, bool], ...]


def along(x: Float[Tensor, "batch cells channels"], curve: Curve) -> Float[Tensor, "batch cells channels"]:
    """Every image along a curve."""
    order = curve.order
    return x if order is None else _rearrange(x, order.cells, order.back, 1)


def put_back(y: Float[Tensor, "batch cells channels"], curve: Curve) -> Float[Tensor, "batch cells channels"]:
    """What was computed along a curve, back at its cells."""
    order = curve.order
    return y if order is None else _rearrange(y, order.back, order.cells, 1)


def image_curves(
    orders: Sequence[str], height: int, width: int, mask: Tensor | None, device: torch.device
) -> tuple[Directions, list[Curve]]:
    """The curves of ``orders``, as :func:`image_directions` of as many, and each of them once, with its directions.

    Under a mask a reversed order is a curve of its own: the padding is at the end of every order.
    """
    names = [(name, False) if mask is not None else without_reversal(name) for name in orders]
    members: dict[str, list[tuple[int, bool]]] = {}
    for direction, (name, reverse) in enumerate(names):
        members.setdefault(name, []).append((direction, reverse))
    curves = [
        Curve(
            None if name == "row" and mask is None else image_directions((name,), height, width, mask, device),
            tuple(of_curve),
        )
        for name, of_curve in members.items()
    ]
    return image_directions([name for name, _ in names], height, width, mask, device), curves


def image_directions(
    orders: Sequence[str], height: int, width: int, mask: Tensor | None, device: torch.device
) -> Directions:
    """The orders for images in frames of ``height`` by ``width`` cells, each under its part of the mask."""
    sizes = ((height, width),) if mask is None else tuple(image_sizes(mask))
    make = _directions if mask is not None else _frame_directions
    return make(tuple(orders), sizes, height, width, device)


def frame_orders(name: str, sizes: Sequence[tuple[int, int]], height: int, width: int) -> Int[Tensor, "2 images cells"]:
    """The order of images inside frames of ``height`` by ``width`` cells, and its inverse; the padding comes last."""
    orders = [_order_in_frame(name, h, w, height, width) for h, w in sizes]
    return torch.stack([torch.stack(orders), torch.stack([inverse(order) for order in orders])])


def _directions(
    orders: tuple[str, ...], sizes: tuple[tuple[int, int], ...], height: int, width: int, device: torch.device
) -> Directions:
    count = len(orders)
    order, step = torch.stack([frame_orders(name, sizes, height, width) for name in orders], dim=-1)
    direction = torch.arange(count)
    indices = [order, order * count + direction, step * count + direction]
    cells, there, back = (index.flatten(1).to(device) for index in indices)
    return Directions(cells, there, back, count)


_frame_directions = made_once(CACHED_DIRECTIONS)(_directions)


def _order_in_frame(name: str, h: int, w: int, height: int, width: int) -> Int[Tensor, " cells"]:
    order = scan_order(name, h, w)
    if (h, w) == (height, width):
        return order
    frame = torch.arange(height * width).view(height, width)
    return torch.cat([frame[:h, :w].flatten()[order], frame[:h, w:].flatten(), frame[h:].flatten()])


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
