"""Scan orders of volumes and videos: the cells of T frames of H by W as a sequence.

An order is a permutation of the raster indices ``p = (t H + i) W + j``, as in two dimensions
(:mod:`~seqconv.vision.scan_orders`, whose orders of images are named here by ``o``):

==================  ==========================================================================  ======================
name                visits                                                                      used by
==================  ==========================================================================  ======================
``frames:o``        frame after frame, each in the order o                                      VideoMamba
``alternating:o``   the same, every second frame from its end
``times:o``         place after place in the order o, at each of them all times                 VideoMamba
``interleaved:o``   one image of T W columns, the frames' columns in turns, in the order o      ChangeMamba
``side_by_side:o``  one image of T W columns, frame next to frame, in the order o               ChangeMamba
``zorder``          Z-order: the bits of t, i and j interleaved, those of t first
``hilbert``         the Hilbert curve of the smallest cube of side 2^b that holds the volume
``window:w``        windows of w by w by w cells in raster order, raster order inside each
==================  ==========================================================================  ======================

``reversed:`` in front of a name starts at the end. Along ``frames:o`` a causal mixer sees no later frame. The steps of
``alternating:snake`` are between neighbours, and so are those of ``hilbert`` on cubes of side 2^b.

Source: VideoMamba (arXiv 2403.06977), ChangeMamba (2404.03425); Skilling 2004, "Programming the Hilbert curve" (AIP
Conference Proceedings 707).
"""

from collections.abc import Callable, Mapping
from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from .scan_orders import check_scan_order, scan_order

CACHED_ORDERS = 64
"""Orders kept in memory; one of 16 frames of 128 by 128 cells takes 2 MB."""
REVERSED = "reversed:"


def volume_order(name: str, frames: int, height: int, width: int) -> Int[Tensor, " cells"]:
    """The raster index of the cell visited at every step, on the CPU; the caller must not change it.

    Args:
        name: see above.
        frames, height, width: of the volume, at least 1.

    Raises:
        ValueError: an unknown name (the nearest are named), a size below 1.

    >>> volume_order("interleaved:row", 2, 1, 3).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    check_volume_order(name)
    if min(frames, height, width) < 1:
        got = f"frames={frames}, height={height}, width={width}"
        raise argument_error("volume_order", got, "at least one cell along each axis", "leave empty volumes out")
    # Compilers trace the computation: they do not look into caches.
    return (_volume_order if torch.compiler.is_compiling() else _cached_order)(name, frames, height, width)


def check_volume_order(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: an unknown name; the nearest are named.
    """
    base, _, rest = name.removeprefix(REVERSED).partition(":")
    if base in LAYOUTS and rest:
        check_scan_order(rest)
        return name
    sized = rest.isdecimal() and int(rest) > 0
    if base not in CURVES or (base == "window") != sized or (rest and not sized):
        names = [*CURVES, *(f"{layout}:row" for layout in LAYOUTS)]
        raise unknown_name("volume_order", "order of a volume", name, names)
    return name


def _frames(cells: Tensor, order: str) -> Tensor:
    return cells.flatten(1)[:, scan_order(order, *cells.shape[1:])].flatten()


def _alternating(cells: Tensor, order: str) -> Tensor:
    frames = cells.flatten(1)[:, scan_order(order, *cells.shape[1:])]
    frames[1::2] = frames[1::2].flip(1)
    return frames.flatten()


def _times(cells: Tensor, order: str) -> Tensor:
    return cells.flatten(1)[:, scan_order(order, *cells.shape[1:])].T.flatten()


def _interleaved(cells: Tensor, order: str) -> Tensor:
    return _as_image(cells.permute(1, 2, 0), order)


def _side_by_side(cells: Tensor, order: str) -> Tensor:
    return _as_image(cells.transpose(0, 1), order)


def _as_image(cells: Tensor, order: str) -> Tensor:
    """Rows by two axes that are the columns of one image."""
    image = cells.flatten(1)
    return image.flatten()[scan_order(order, *image.shape)]


def _zorder(cells: Tensor, _: int) -> Tensor:
    return torch.argsort(_interleave_bits(_places(cells), _bits(cells)))


def _window(cells: Tensor, size: int) -> Tensor:
    """Sort by the window, then by the place inside it."""
    outer = inner = torch.zeros_like(cells).flatten()
    for place, length in zip(_places(cells), cells.shape, strict=True):
        outer, inner = outer * -(-length // size) + place // size, inner * size + place % size
    return torch.argsort(outer * size**3 + inner)


def _hilbert(cells: Tensor, _: int) -> Tensor:
    """Sort by the distance along the curve.

    Rotations and reflections are undone from the largest cubes down, and what remains is a Gray code.
    """
    x, bits = _places(cells), _bits(cells)
    for size in (1 << bit for bit in range(bits - 1, 0, -1)):
        for axis in range(3):
            swap = (x[0] ^ x[axis]) & (size - 1)
            upper = (x[axis] & size) > 0
            if axis:
                x[axis] = torch.where(upper, x[axis], x[axis] ^ swap)
            x[0] = torch.where(upper, x[0] ^ (size - 1), x[0] ^ swap)
    for axis in (1, 2):
        x[axis] ^= x[axis - 1]
    flips = torch.zeros_like(x[0])
    for size in (1 << bit for bit in range(bits - 1, 0, -1)):
        flips = torch.where((x[2] & size) > 0, flips ^ (size - 1), flips)
    return torch.argsort(_interleave_bits([place ^ flips for place in x], bits))


LAYOUTS: Mapping[str, Callable[[Tensor, str], Tensor]] = {
    "frames": _frames,
    "alternating": _alternating,
    "times": _times,
    "interleaved": _interleaved,
    "side_by_side": _side_by_side,
}
CURVES: Mapping[str, Callable[[Tensor, int], Tensor]] = {"zorder": _zorder, "hilbert": _hilbert, "window": _window}


def _bits(cells: Tensor) -> int:
    """Of the longest axis."""
    return max(1, (max(cells.shape) - 1).bit_length())


def _places(cells: Tensor) -> list[Tensor]:
    """Frame, row and column of every cell, in raster order."""
    return [torch.arange(length).view(shape).expand_as(cells).flatten().clone() for length, shape in _axes(cells)]


def _axes(cells: Tensor) -> list[tuple[int, tuple[int, int, int]]]:
    frames, height, width = cells.shape
    return [(frames, (-1, 1, 1)), (height, (1, -1, 1)), (width, (1, 1, -1))]


def _interleave_bits(places: list[Tensor], bits: int) -> Tensor:
    key = torch.zeros_like(places[0])
    for bit in range(bits - 1, -1, -1):
        for place in places:
            key = key << 1 | (place >> bit & 1)
    return key


def _volume_order(name: str, frames: int, height: int, width: int) -> Tensor:
    base, _, rest = name.removeprefix(REVERSED).partition(":")
    cells = torch.arange(frames * height * width).view(frames, height, width)
    order = LAYOUTS[base](cells, rest) if base in LAYOUTS else CURVES[base](cells, int(rest or 0))
    return order.flip(0) if name.startswith(REVERSED) else order


_cached_order = lru_cache(CACHED_ORDERS)(_volume_order)
