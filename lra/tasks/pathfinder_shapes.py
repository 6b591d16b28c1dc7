"""Pathfinder: the sizes of each variant, and everything that a paddle of a given orientation looks like.

Coordinates are (row, column), an orientation t points along (sin t, cos t), displacements are rounded up to whole
pixels. Orientations come from a finite set: whole degrees for first paddles, directions from a pivot to the pixels of
a circle for later ones. All that depends on an orientation is therefore a table. Sources: Linsley et al., "Learning
long-range spatial dependencies with horizontal gated recurrent units", 2018; Tay et al., 2021.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
SEEDS = 360
"""Orientations of first paddles: -180 to 179 degrees. Later ones follow behind."""
SCALE = 2
"""Paddles are drawn this much larger and reduced by a Lanczos filter."""


@dataclass(frozen=True)
class Variant:
    """Sizes of one variant, in pixels where they are lengths.

    Attributes:
        size: side of the image.
        padding: width of the border that nothing may enter.
        length, thickness: of a paddle.
        margins: gaps around a paddle, one drawn for each image.
        seed_distance: between the tails of the two target snakes.
        marker_radius: of the discs at the two ends that the question is about.
        continuity: how strongly turns are avoided.
        distractors: snakes beside the two targets.
        target_contrast, distractor_contrast: brightness of the paddles; markers have 1.
    """

    size: int
    padding: int
    length: int
    thickness: float
    margins: tuple[int, ...]
    seed_distance: int
    marker_radius: float
    continuity: float
    distractors: int
    target_contrast: float
    distractor_contrast: float


VARIANTS: Mapping[int, Variant] = {
    32: Variant(32, 1, 2, 0.5, (1,), 7, 1.5, 1.0, 5, 1.5, 2.0),
    64: Variant(64, 1, 5, 1.0, (1,), 12, 2.5, 1.8, 5, 0.8, 0.8),
    128: Variant(128, 1, 5, 1.5, (2, 3), 20, 3.0, 1.8, 8, 0.9, 0.9),
    256: Variant(256, 22, 5, 2.0, (3,), 27, 5.0, 1.8, 7, 1.0, 1.0),
}


@dataclass(frozen=True)
class Stamp:
    """For every orientation a list of pixels around a paddle's start, as offsets into a padded flat image.

    Attributes:
        offsets: ``(orientations, pixels)``; unused entries lead to the image's first cell, see :data:`NOWHERE`.
        values: 0 to 255, 0 where unused.
    """

    offsets: Ints
    values: NDArray[np.uint8]


NOWHERE = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Shapes:
    """Tables for one variant and margin; ``o`` counts orientations, ``c`` candidates for the next end.

    Attributes:
        reach: half the side of a paddle's own small image.
        stride: row length of the padded flat image; pixel (r, c) is cell ``(r + pad) * stride + c + pad``.
        candidates: ``(c, 2)`` pixels of the circle around a pivot.
        weights: ``(o, c)``, how willingly a snake of an orientation goes on to a candidate.
        advance: ``(o, 2)``, from a pivot to the next.
        head, pivot: ``(360, 2)``, from a first paddle's tail to its head, and to its pivot.
        room: ``(360, 4)``, how far above, below, left and right of a tail the first paddle needs free pixels.
        possible: ``(360,)``, orientations that a first paddle may have at all, see :func:`_possible`.
        need: pixels that must be free for a first paddle.
        block: pixels that a paddle keeps others out of.
        core: those of ``block`` that can collide.
        wide: ``block`` dilated by the margin.
        drawings: ``(o, side, side)``, the paddle, 0 to 1, its start in the middle.
    """

    variant: Variant
    margin: int
    pad: int
    reach: int
    stride: int
    candidates: Ints
    weights: NDArray[np.float64]
    advance: Ints
    head: Ints
    pivot: Ints
    room: Ints
    possible: NDArray[np.bool_]
    need: Stamp
    block: Stamp
    core: Stamp
    wide: Stamp
    drawings: NDArray[np.float64]


@cache
def make_shapes(variant: Variant, margin: int) -> Shapes:
    """Compute the tables; a second or less."""
    step = variant.length + margin
    circle = np.arange(0, 360, 360 / (2 * step * np.pi)) * np.pi / 180
    candidates = np.unique(_whole(np.floor, step * np.stack([np.sin(circle), np.cos(circle)], 1)), axis=0)
    onward = np.arctan2(candidates[:, 0], candidates[:, 1])
    degrees = np.arange(-180, 180) * np.pi / 180
    directions = np.concatenate([degrees, onward])
    turn = np.abs(directions[:, None] - onward[None])
    turn = np.minimum(variant.continuity * np.minimum(turn, 2 * np.pi - turn), np.pi / 2)
    head = _displace(degrees, variant.length)
    drawn = np.concatenate([degrees, _reverse(onward)])
    small = [_draw(variant, margin, direction) for direction in drawn]
    blocks = np.stack([block for _, block in small])
    reach = (blocks.shape[1] - 1) // 2
    pad = reach + 2 * margin + 2
    stride = variant.size + 2 * pad
    wide = np.stack([dilate(np.pad(block, margin), margin) for block in blocks])
    need = _needed(blocks[:SEEDS], step)
    return Shapes(
        variant=variant,
        margin=margin,
        pad=pad,
        reach=reach,
        stride=stride,
        candidates=candidates,
        weights=np.maximum(np.cos(turn), 0) ** 2,
        advance=_displace(directions, variant.length + 2 * margin),
        head=head,
        pivot=head + _displace(_reverse(degrees), step),
        room=np.stack([_room(one) for one in need]),
        possible=np.array([_possible(one) for one in need]),
        need=_stamp(need, stride),
        block=_stamp(blocks, stride),
        core=_stamp(np.where(blocks >= 459 - 255, blocks, 0), stride),
        wide=_stamp(wide, stride),
        drawings=np.stack([line for line, _ in small]) / 255,
    )


def _whole(rounding: Any, displacements: NDArray[np.float64]) -> Ints:
    """Round positions, which absorb errors of the last bits, rather than displacements."""
    return (rounding(64.0 + displacements) - 64).astype(np.int64)  # type: ignore[no-any-return]


def _displace(directions: NDArray[np.float64], distance: float) -> Ints:
    return _whole(np.ceil, distance * np.stack([np.sin(directions), np.cos(directions)], 1))


def _reverse(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(directions < 0, directions + np.pi, directions - np.pi)


def _draw(variant: Variant, margin: int, direction: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A paddle from the middle of a small image, and the pixels it keeps others out of, both 0 to 255."""
    from PIL import Image, ImageDraw

    reach = variant.length + int(np.ceil(variant.thickness)) + margin
    centre, side = SCALE * reach, 2 * SCALE * reach + 1
    end = _displace(np.array([direction]), variant.length * SCALE)[0] + centre
    canvas = Image.new("L", (side, side))
    line = [(centre, centre), (int(end[1]), int(end[0]))]
    ImageDraw.Draw(canvas).line(line, fill=255, width=round(variant.thickness * SCALE))
    large = np.array(canvas)
    return _reduce(large, 2 * reach + 1), _reduce(dilate(large, margin * SCALE), 2 * reach + 1)


def _reduce(large: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    from PIL import Image

    return np.array(Image.fromarray(large).resize((side, side), Image.Resampling.LANCZOS))


def dilate(image: NDArray[np.uint8], radius: int) -> NDArray[np.uint8]:
    """Maximum over a disc."""
    height, width = image.shape
    padded, out = np.pad(image, radius), image.copy()
    for row in range(-radius, radius + 1):
        for column in range(-radius, radius + 1):
            if row**2 + column**2 <= radius**2:
                corner = (radius + row, radius + column)
                np.maximum(out, padded[corner[0] : corner[0] + height, corner[1] : corner[1] + width], out=out)
    return out


def _needed(blocks: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Where a first paddle needs room: its fully blocked pixels, one pixel down and right of where they will lie.

    The shift is the original's, whose structuring element is anchored one pixel off its middle.
    """
    full = np.where(blocks == 255, blocks, 0)
    shifted = np.zeros_like(full)
    shifted[:, 1:, 1:] = full[:, :-1, :-1]
    middle = (full.shape[1] - 1) // 2
    inside = np.zeros_like(full)
    inside[:, middle - step : middle + step + 1, middle - step : middle + step + 1] = 1
    return shifted * inside


def _possible(needed: NDArray[np.uint8]) -> bool:
    """Whether in every corner of an image a needed pixel lies inside.

    Elsewhere the original's dilation finds nothing to take the maximum of, and it reports that there is no room.
    """
    middle = (needed.shape[0] - 1) // 2
    down, up = needed[middle:], needed[: middle + 1]
    return all(half[:, side].any() for half in (down, up) for side in (slice(middle, None), slice(middle + 1)))


def _room(needed: NDArray[np.uint8]) -> Ints:
    rows, columns = np.nonzero(needed)
    middle = (needed.shape[0] - 1) // 2
    edges = [rows.min(), rows.max(), columns.min(), columns.max()]
    return np.array([int(edge) - middle for edge in edges])


def _stamp(images: NDArray[np.uint8], stride: int) -> Stamp:
    middle = (images.shape[1] - 1) // 2
    most = int((images > 0).sum((1, 2)).max())
    offsets = np.full((len(images), most), NOWHERE)
    values = np.zeros((len(images), most), np.uint8)
    for number, image in enumerate(images):
        rows, columns = np.nonzero(image)
        offsets[number, : len(rows)] = (rows - middle) * stride + columns - middle
        values[number, : len(rows)] = image[rows, columns]
    return Stamp(offsets, values)
