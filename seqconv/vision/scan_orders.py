"""Scan orders: the cells of an image as a sequence.

An order of an image of H by W cells is a permutation ``o`` of the raster indices ``p = i W + j``: ``o[s]`` is the cell
visited at step s, and ``inverse(o)[o[s]] = s``, so that ``y = y_scan[inverse(o)]`` puts a scanned sequence back.

============  ================================================================================  ====================
name          visits                                                                            used by
============  ================================================================================  ====================
``row``       row after row, left to right                                                      all
``snake``     row after row, even rows left to right, odd rows right to left                    PlainMamba, MambaAD
``zigzag``    anti-diagonals in alternating directions                                          MambaAD
``zorder``    Z-order: the bits of i and j interleaved, those of i first                        MambaAD
``hilbert``   the Hilbert curve of the smallest square of side 2^b that holds the image         MambaAD
``window:w``  windows of w by w cells in raster order, raster order inside each                 LocalMamba
``atrous:s``  sub-grids (i mod s, j mod s): (0,0) by rows, (1,0) by columns, (0,1) by rows ...   EfficientVMamba
============  ================================================================================  ====================

Suffixes change any of them: ``_transposed`` is the order of the transposed image, ``_rotated`` that of the image turned
by 90 degrees counterclockwise (``torch.rot90``), applied from left to right; ``_reversed`` starts at the end.
``column`` is ``row_transposed`` and ``snake_column`` is ``snake_transposed``. Orders of all sizes are defined;
``hilbert`` moves between neighbours on squares of side 2^b alone, where MambaAD defines it. Orders of volumes are in
:mod:`~seqconv.vision.volume_orders`.

Source: VMamba (arXiv 2401.10166), PlainMamba (2403.17695), MambaAD (2404.06564), EfficientVMamba (2403.09977) and
LocalMamba (2403.09338); the golden orders of the tests come from the code of the first four.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from seqconv_kernels._core.constants import made_once
from seqconv_kernels._core.errors import argument_error, unknown_name

CACHED_ORDERS = 256
"""Orders kept in memory; one of 1,024 by 1,024 cells takes 8 MB."""


def scan_order(name: str, height: int, width: int) -> Int[Tensor, " cells"]:
    """The raster index of the cell visited at every step, on the CPU; the caller must not change it.

    Args:
        name: see above.
        height, width: of the image, at least 1.

    Raises:
        ValueError: an unknown name (the nearest are named), a size below 1.

    >>> scan_order("snake", 2, 3).tolist()
    [0, 1, 2, 5, 4, 3]
    """
    check_scan_order(name)
    if height < 1 or width < 1:
        got = f"height={height}, width={width}"
        raise argument_error("scan_order", got, "at least one row and one column", "leave empty images out")
    return _scan_order(name, height, width)


def inverse(order: Int[Tensor, " cells"]) -> Int[Tensor, " cells"]:
    """The step at which every cell is visited."""
    steps = torch.arange(order.shape[0], device=order.device)  # len() would fix the size of an export
    return torch.zeros_like(order).scatter(0, order, steps)  # not empty_like: its strides have no operator in ONNX


def check_scan_order(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: an unknown name; the nearest are named.
    """
    base = _parse(name)[0]
    if base not in CURVES:
        raise unknown_name("scan_order", "scan order", name, [*ALIASES, *CURVES])
    return name


def moves(order: Int[Tensor, " cells"], width: int) -> Int[Tensor, " cells"]:
    """The move into each cell: 0 the start, 1 right, 2 left, 3 up, 4 down (PlainMamba's directions), 5 a jump."""
    steps = order.diff()
    same_row = order[1:] // width == order[:-1] // width
    entered = torch.full_like(order, 5)
    entered[0] = 0
    for direction, step in ((3, -width), (4, width)):
        entered[1:][steps == step] = direction
    for direction, step in ((1, 1), (2, -1)):
        entered[1:][(steps == step) & same_row] = direction
    return entered


def _raster(height: int, width: int) -> Tensor:
    return torch.arange(height * width).view(height, width)


def _row(height: int, width: int, _: int) -> Tensor:
    return _raster(height, width).flatten()


def _snake(height: int, width: int, _: int) -> Tensor:
    cells = _raster(height, width)
    cells[1::2] = cells[1::2].flip(1)
    return cells.flatten()


def _zigzag(height: int, width: int, _: int) -> Tensor:
    row, column = _places(height, width)
    diagonal = row + column
    along = torch.where(diagonal % 2 == 0, column, row)  # even anti-diagonals go up, odd ones down
    return torch.argsort(diagonal * (height + width) + along)


def _zorder(height: int, width: int, _: int) -> Tensor:
    row, column = _places(height, width)
    key = torch.zeros_like(row)
    for bit in range(max(height, width).bit_length()):
        key |= (row >> bit & 1) << (2 * bit + 1) | (column >> bit & 1) << 2 * bit
    return torch.argsort(key)


def _hilbert(height: int, width: int, _: int) -> Tensor:
    """Sort by the distance along the curve: from the largest quadrants to the smallest, turning into each."""
    row, column = _places(height, width)
    key, side = torch.zeros_like(row), 1 << max(0, max(height, width) - 1).bit_length()
    x, y = column.clone(), row.clone()
    size = side // 2
    while size:
        right, lower = (x & size) > 0, (y & size) > 0
        key += size * size * (3 * right.long() ^ lower.long())
        flip = ~lower & right
        x, y = torch.where(flip, side - 1 - x, x), torch.where(flip, side - 1 - y, y)
        x, y = torch.where(~lower, y, x), torch.where(~lower, x, y)
        size //= 2
    return torch.argsort(key)


def _window(height: int, width: int, size: int) -> Tensor:
    row, column = _places(height, width)
    window = (row // size) * (-(-width // size)) + column // size
    return torch.argsort(window * size * size + (row % size) * size + column % size)


def _atrous(height: int, width: int, step: int) -> Tensor:
    cells = _raster(height, width)
    phases = [(i, j) for j in range(step) for i in range(step)]
    grids = [cells[i::step, j::step] for i, j in phases]
    return torch.cat([(grid.T if i % 2 else grid).flatten() for (i, _), grid in zip(phases, grids, strict=True)])


CURVES: Mapping[str, Callable[[int, int, int], Tensor]] = {
    "row": _row,
    "snake": _snake,
    "zigzag": _zigzag,
    "zorder": _zorder,
    "hilbert": _hilbert,
    "window": _window,
    "atrous": _atrous,
}
ALIASES: Mapping[str, str] = {"column": "row_transposed", "snake_column": "snake_transposed"}
SUFFIXES = ("transposed", "rotated", "reversed")


def _places(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Row and column of every cell, in raster order."""
    cells = torch.arange(height * width)
    return cells // width, cells % width


def _parse(name: str) -> tuple[str, int, list[str]]:
    """Curve, its parameter, and the suffixes from left to right."""
    for alias, meaning in ALIASES.items():
        if name == alias or name.startswith(f"{alias}_"):
            name = meaning + name.removeprefix(alias)
    curve = name
    suffixes: list[str] = []
    while (parts := curve.rpartition("_"))[2] in SUFFIXES and parts[0]:
        curve, suffixes = parts[0], [parts[2], *suffixes]
    base, colon, size = curve.partition(":")
    if (base in ("window", "atrous")) != bool(colon) or (colon and not (size.isdecimal() and int(size) > 0)):
        return "", 0, suffixes  # no curve has this name: the caller raises
    return base, int(size or 0), suffixes


@made_once(CACHED_ORDERS)
def _scan_order(name: str, height: int, width: int) -> Tensor:
    base, size, suffixes = _parse(name)
    cells = _raster(height, width)
    for suffix in suffixes:
        cells = cells.T if suffix == "transposed" else torch.rot90(cells) if suffix == "rotated" else cells
    order = cells.flatten()[CURVES[base](cells.shape[0], cells.shape[1], size)]
    return order.flip(0) if suffixes.count("reversed") % 2 else order
