"""How a Pathfinder paddle is drawn, and the forms in which its pixels are kept: stamps and tables.

Coordinates are (row, column), an orientation t points along (sin t, cos t), displacements are rounded up to whole
pixels. Lines are drawn by PIL at twice their size and reduced by a Lanczos filter, as the original's are.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
SCALE = 2
"""Paddles are drawn this much larger and reduced by a Lanczos filter."""


@dataclass(frozen=True)
class Stamp:
    """For every orientation a list of pixels around a paddle's start, as offsets into a padded flat image.

    Attributes:
        offsets: ``(orientations, pixels)``; unused entries lead to the image's first cell, see :data:`NOWHERE`.
        values: 0 to 255.
    """

    offsets: Ints
    values: Bytes


@dataclass(frozen=True)
class Table:
    """For every orientation what lies around a paddle's start, by displacement, flat.

    Attributes:
        values: ``(orientations * side * side,)``, 0 to 255.
        side: of one orientation's image, whose middle is the start.
        reach: displacements of at least this much find nothing.
    """

    values: Bytes
    side: int
    reach: int

    def flat(self, displacements: Ints) -> Ints:
        """Displacements ``(..., 2)`` as differences of flat indices."""
        return displacements[..., 0] * self.side + displacements[..., 1]

    def middle(self, orientations: Ints) -> Ints:
        """Flat indices of the starts."""
        return orientations * self.side**2 + (self.side - 1) // 2 * (self.side + 1)


NOWHERE = np.iinfo(np.int64).min
COLLISION = 459
"""1.8 in units of 255: the sum of two paddles' bytes that counts as an overlap."""


def whole(rounding: Any, displacements: NDArray[np.float64]) -> Ints:
    """Round positions, which absorb errors of the last bits, rather than displacements."""
    return (rounding(64.0 + displacements) - 64).astype(np.int64)  # type: ignore[no-any-return]


def displace(directions: NDArray[np.float64], distance: float) -> Ints:
    """Pixels at a distance in each direction."""
    return whole(np.ceil, distance * np.stack([np.sin(directions), np.cos(directions)], 1))


def reverse(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """The opposite directions, from -pi to pi."""
    return np.where(directions < 0, directions + np.pi, directions - np.pi)


def draw(length: int, thickness: float, margin: int, direction: float) -> tuple[Bytes, Bytes]:
    """A paddle from the middle of a small image, and the pixels it keeps others out of, both 0 to 255."""
    from PIL import Image, ImageDraw

    reach = length + int(np.ceil(thickness)) + margin
    centre, side = SCALE * reach, 2 * SCALE * reach + 1
    end = displace(np.array([direction]), length * SCALE)[0] + centre
    canvas = Image.new("L", (side, side))
    line = [(centre, centre), (int(end[1]), int(end[0]))]
    ImageDraw.Draw(canvas).line(line, fill=255, width=round(thickness * SCALE))
    large = np.array(canvas)
    return _reduce(large, 2 * reach + 1), _reduce(dilate(large, margin * SCALE), 2 * reach + 1)


def _reduce(large: Bytes, side: int) -> Bytes:
    from PIL import Image

    return np.array(Image.fromarray(large).resize((side, side), Image.Resampling.LANCZOS))


def dilate(image: Bytes, radius: int) -> Bytes:
    """Maximum over a disc."""
    height, width = image.shape
    padded, out = np.pad(image, radius), image.copy()
    for row in range(-radius, radius + 1):
        for column in range(-radius, radius + 1):
            if row**2 + column**2 <= radius**2:
                corner = (radius + row, radius + column)
                np.maximum(out, padded[corner[0] : corner[0] + height, corner[1] : corner[1] + width], out=out)
    return out


def needed(blocks: Bytes, step: int) -> Bytes:
    """Where a first paddle needs clearance: its fully blocked pixels, one pixel down and right of where they will lie.

    The shift is the original's, whose structuring element is anchored one pixel off its middle.
    """
    full = np.where(blocks == 255, blocks, 0)
    shifted = np.zeros_like(full)
    shifted[:, 1:, 1:] = full[:, :-1, :-1]
    middle = (full.shape[1] - 1) // 2
    inside = np.zeros_like(full)
    inside[:, middle - step : middle + step + 1, middle - step : middle + step + 1] = 1
    return shifted * inside


def possible(need: Bytes) -> bool:
    """Whether in every corner of an image a needed pixel lies inside.

    Elsewhere the original's dilation finds nothing to take the maximum of, and it reports that there is no clearance.
    """
    middle = (need.shape[0] - 1) // 2
    down, up = need[middle:], need[: middle + 1]
    return all(half[:, side].any() for half in (down, up) for side in (slice(middle, None), slice(middle + 1)))


def clearance(need: Bytes) -> Ints:
    """How far the needed pixels reach up, down, left and right."""
    rows, columns = np.nonzero(need)
    middle = (need.shape[0] - 1) // 2
    edges = [rows.min(), rows.max(), columns.min(), columns.max()]
    return np.array([int(edge) - middle for edge in edges])


def stamp(images: Bytes, stride: int) -> Stamp:
    """The bright pixels of each image."""
    middle = (images.shape[1] - 1) // 2
    most = int((images > 0).sum((1, 2)).max())
    offsets = np.full((len(images), most), NOWHERE)
    values = np.zeros((len(images), most), np.uint8)
    for number, image in enumerate(images):
        rows, columns = np.nonzero(image)
        offsets[number, : len(rows)] = (rows - middle) * stride + columns - middle
        values[number, : len(rows)] = image[rows, columns]
    return Stamp(offsets, values)


def limits(core: Stamp) -> Stamp:
    """How much may be taken at each pixel before a paddle collides; 255 where unused, which nothing exceeds."""
    return Stamp(
        core.offsets, np.where(core.values > 0, COLLISION - 1 - core.values.astype(np.int64), 255).astype(np.uint8)
    )


def pixels(images: Bytes) -> Ints:
    """The bright pixels of each image, from its middle, in the order of :func:`stamp`."""
    middle = (images.shape[1] - 1) // 2
    pixels = np.zeros((len(images), int((images > 0).sum((1, 2)).max()), 2), np.int64)
    for number, image in enumerate(images):
        bright = np.argwhere(image > 0)
        pixels[number, : len(bright)] = bright - middle
    return pixels


def table(images: Bytes, beyond: int) -> Table:
    """Images trimmed to what is bright in any of them, with ``beyond`` dark pixels around."""
    middle = (images.shape[1] - 1) // 2
    reach = int(np.abs(np.argwhere(images.any(0)) - middle).max())
    trimmed = images[:, middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]
    padded = np.pad(trimmed, ((0, 0), (beyond, beyond), (beyond, beyond)))
    return Table(padded.ravel(), padded.shape[1], reach + 1)
