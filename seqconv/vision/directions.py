"""Scan orders of the images of a batch, each in the order of its own size, padding after its cells."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from seqconv_kernels._core.constants import made_once
from seqconv_kernels._core.directions import Directions, directions_along

from .mixer_2d import image_sizes
from .scan_orders import inverse, scan_order

CACHED_DIRECTIONS = 64
"""Sets of indices kept in memory, per size and device."""

Sizes = tuple[tuple[int, int], ...]


def image_orders(
    orders: Sequence[str], height: int, width: int, mask: Tensor | None, device: torch.device
) -> Int[Tensor, "rows directions cells"]:
    """The orders for images in frames of ``height`` by ``width`` cells, each under its part of the mask.

    ``rows`` is 1 without a mask, else the batch.
    """
    make = _orders if mask is not None else _frame_orders
    return make(tuple(orders), _sizes(height, width, mask), height, width, device)


def image_directions(
    orders: Sequence[str], height: int, width: int, mask: Tensor | None, device: torch.device
) -> Directions:
    """The same as indices for gathers."""
    make = _directions if mask is not None else _frame_directions
    return make(tuple(orders), _sizes(height, width, mask), height, width, device)


def frame_orders(name: str, sizes: Sequence[tuple[int, int]], height: int, width: int) -> Int[Tensor, "2 images cells"]:
    """The order of images inside frames of ``height`` by ``width`` cells, and its inverse; the padding comes last."""
    orders = [_order_in_frame(name, h, w, height, width) for h, w in sizes]
    return torch.stack([torch.stack(orders), torch.stack([inverse(order) for order in orders])])


def _sizes(height: int, width: int, mask: Tensor | None) -> Sizes:
    return ((height, width),) if mask is None else tuple(image_sizes(mask))


def _orders(orders: tuple[str, ...], sizes: Sizes, height: int, width: int, device: torch.device) -> Tensor:
    return torch.stack([frame_orders(name, sizes, height, width)[0] for name in orders], dim=1).to(device)


def _directions(orders: tuple[str, ...], sizes: Sizes, height: int, width: int, device: torch.device) -> Directions:
    *indices, count = directions_along(_orders(orders, sizes, height, width, torch.device("cpu")))
    cells, there, back = (index.to(device) for index in indices)
    return Directions(cells, there, back, count)


_frame_orders = made_once(CACHED_DIRECTIONS)(_orders)
_frame_directions = made_once(CACHED_DIRECTIONS)(_directions)


def _order_in_frame(name: str, h: int, w: int, height: int, width: int) -> Int[Tensor, " cells"]:
    order = scan_order(name, h, w)
    if (h, w) == (height, width):
        return order
    frame = torch.arange(height * width).view(height, width)
    return torch.cat([frame[:h, :w].flatten()[order], frame[:h, w:].flatten(), frame[h:].flatten()])
