"""Pathfinder: the sizes of each variant, and everything that a paddle of a given orientation looks like.

Orientations come from a finite set: whole degrees for first paddles, directions from a pivot to the pixels of
a circle for later ones. All that depends on an orientation is therefore a table. Sources: Linsley et al., "Learning
long-range spatial dependencies with horizontal gated recurrent units", 2018; Tay et al., 2021.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .paddle import (
    COLLISION,
    Bytes,
    Ints,
    Stamp,
    Table,
    clearance,
    dilate,
    displace,
    draw,
    limits,
    needed,
    pixels,
    possible,
    reverse,
    stamp,
    table,
    whole,
)

SEEDS = 360
"""Orientations of first paddles: -180 to 179 degrees. Later ones follow."""


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
        distractors: snakes besides the two targets.
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
    512: Variant(512, 44, 10, 4.0, (6,), 54, 10.0, 1.8, 7, 1.0, 1.0),
}
"""By side. The one of 512 is that of 256 twice as large: no source publishes its sizes."""


@dataclass(frozen=True)
class Shapes:
    """Tables for one variant and margin; ``o`` counts orientations, ``c`` candidates for the next end.

    Attributes:
        reach: half the side of a paddle's own small image.
        stride: row length of the padded flat image; pixel (r, c) is cell ``(r + pad) * stride + c + pad``.
        candidates: ``(c, 2)`` pixels of the circle around a pivot.
        weights: ``(o, c)``, weight of a candidate as the next paddle of a snake of orientation ``o``.
        advance: ``(o, 2)``, from a pivot to the next.
        head, pivot: ``(360, 2)``, from a first paddle's tail to its head, and to its pivot.
        clearance: ``(360, 4)``, how far above, below, left and right of a tail the first paddle needs free pixels.
        possible: ``(360,)``, orientations that a first paddle may have at all, see :func:`possible`.
        need: pixels that must be free for a first paddle.
        block: pixels that a paddle keeps others out of.
        core: those of ``block`` that can collide; the values say how much may be taken there.
        wide: ``block`` dilated by the margin.
        border, near_border: an empty image, padded and flat, and the same dilated by the margin.
        block_table, wide_table: the values of ``block`` and ``wide`` by displacement.
        core_offsets: ``(o, pixels)``, the pixels of ``core`` as differences of indices of ``block_table``; 0 if unused.
        circle_offsets: ``(c,)``, the candidates as differences of indices of ``wide_table``.
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
    clearance: Ints
    possible: NDArray[np.bool_]
    need: Stamp
    block: Stamp
    core: Stamp
    wide: Stamp
    border: Bytes
    near_border: Bytes
    block_table: Table
    wide_table: Table
    core_offsets: Ints
    circle_offsets: Ints
    drawings: NDArray[np.float64]

    @property
    def step(self) -> int:
        """Radius of the circle around a pivot."""
        return self.variant.length + self.margin

    def cells(self, points: Ints) -> Ints:
        """Flat indices of pixels ``(..., 2)`` of the padded image."""
        return (points[..., 0] + self.pad) * self.stride + points[..., 1] + self.pad


@cache
def make_shapes(variant: Variant, margin: int) -> Shapes:
    """Compute the tables; a second or less."""
    step = variant.length + margin
    circle = np.arange(0, 360, 360 / (2 * step * np.pi)) * np.pi / 180
    candidates = np.unique(whole(np.floor, step * np.stack([np.sin(circle), np.cos(circle)], 1)), axis=0)
    onward = np.arctan2(candidates[:, 0], candidates[:, 1])
    degrees = np.arange(-180, 180) * np.pi / 180
    directions = np.concatenate([degrees, onward])
    head = displace(degrees, variant.length)
    drawn = np.concatenate([degrees, reverse(onward)])
    small = [draw(variant.length, variant.thickness, margin, direction) for direction in drawn]
    blocks = np.stack([block for _, block in small])
    reach = (blocks.shape[1] - 1) // 2
    pad = reach + 2 * margin + 2
    stride = variant.size + 2 * pad
    wide = np.stack([dilate(np.pad(block, margin), margin) for block in blocks])
    need = needed(blocks[:SEEDS], step)
    cores = np.where(blocks >= COLLISION - 255, blocks, 0)
    block_table, wide_table = table(blocks, 2 * reach), table(wide, 2 * step)
    border = border_image(variant)
    return Shapes(
        variant=variant,
        margin=margin,
        pad=pad,
        reach=reach,
        stride=stride,
        candidates=candidates,
        weights=turn_weights(directions, onward, variant.continuity),
        advance=displace(directions, variant.length + 2 * margin),
        head=head,
        pivot=head + displace(reverse(degrees), step),
        clearance=np.stack([clearance(one) for one in need]),
        possible=np.array([possible(one) for one in need]),
        need=stamp(need, stride),
        block=stamp(blocks, stride),
        core=limits(stamp(cores, stride)),
        wide=stamp(wide, stride),
        border=np.pad(border, pad).ravel(),
        near_border=np.pad(dilate(border, margin), pad).ravel(),
        block_table=block_table,
        wide_table=wide_table,
        core_offsets=block_table.flat(pixels(cores)),
        circle_offsets=wide_table.flat(candidates),
        drawings=np.stack([line for line, _ in small]) / 255,
    )


def turn_weights(
    directions: NDArray[np.float64], onward: NDArray[np.float64], continuity: float
) -> NDArray[np.float64]:
    """Weights (directions, candidates) of a turn δ from the last direction: ``cos²(min(c δ, 90°))``."""
    turn = np.abs(directions[:, None] - onward[None])
    turn = np.minimum(continuity * np.minimum(turn, 2 * np.pi - turn), np.pi / 2)
    weights: NDArray[np.float64] = np.maximum(np.cos(turn), 0) ** 2
    return weights


def border_image(variant: Variant) -> Bytes:
    """The occupancy of an image without snakes: its border, ``padding`` pixels wide."""
    border = np.full((variant.size, variant.size), 255, np.uint8)
    border[variant.padding : -variant.padding, variant.padding : -variant.padding] = 0
    return border
