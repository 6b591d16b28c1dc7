"""Occupancy of the images in which snakes grow, kept as images, or as lists of paddles.

The :class:`Space` of an image is two flat padded images of bytes: ``taken`` (how much a paddle may not enter) and
``near`` (``taken`` dilated by the margin). Nearly all attempts at a pair of targets fail after a few paddles, too early
for images to pay: :class:`Trails` keep a list of paddles for each attempt. What is taken is a maximum over paddles,
so a new paddle is compared with those close enough to reach it, by tables over orientation and displacement. Both
answer alike.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .paddle import NOWHERE, Bytes, Ints, Stamp, Table
from .shapes import Shapes


@dataclass
class Space:
    """Rows of padded flat images, one per attempt or image."""

    shapes: Shapes
    taken: Bytes
    near: Bytes

    @staticmethod
    def empty(shapes: Shapes, rows: int) -> "Space":
        """The border alone."""
        return Space(shapes, *(np.repeat(image[None], rows, 0) for image in (shapes.border, shapes.near_border)))

    def select(self, rows: Ints) -> "Space":
        """A copy of some rows."""
        return Space(self.shapes, self.taken[rows], self.near[rows])

    def enter(self, rows: Ints, points: Ints, orientations: Ints) -> None:
        """Lay paddles into ``taken`` and ``near``."""
        starts = self.shapes.cells(points)[:, None]
        for image, stamp in ((self.taken, self.shapes.block), (self.near, self.shapes.wide)):
            cells, values = look_up(stamp, starts, orientations)
            old = image[rows[:, None], cells]
            image[rows[:, None], cells] = np.maximum(old, values)

    def nearness(self, rows: Ints, pivots: Ints) -> Bytes:
        """How much is taken within the margin around each candidate for a next end, ``(rows, candidates)``.

        Outside the image all is taken.
        """
        return values_inside(self.shapes, self.near, rows[:, None], pivots[:, None] + self.shapes.candidates)

    def collide(self, rows: Ints, points: Ints, orientations: Ints) -> NDArray[np.bool_]:
        """Whether paddles overlap what is taken."""
        cells, limits = look_up(self.shapes.core, self.shapes.cells(points)[:, None], orientations)
        return np.asarray((self.taken[rows[:, None], cells] > limits).any(1))


@dataclass
class Trails:
    """Rows of paddles laid, one row per attempt; rows that are still asked for hold equally many.

    Attributes:
        shapes: tables.
        downs, rights: ``(rows, paddles)``, where paddles start.
        orientations: ``(rows, paddles)``.
        laid: paddles that the rows hold.
    """

    shapes: Shapes
    downs: Ints
    rights: Ints
    orientations: Ints
    laid: int = 0

    @staticmethod
    def empty(shapes: Shapes, rows: int, paddles: int) -> "Trails":
        """No paddle yet, allocated for ``paddles``."""
        downs, rights, orientations = np.zeros((3, rows, paddles), np.int64)
        return Trails(shapes, downs, rights, orientations)

    def enter(self, rows: Ints, points: Ints, orientations: Ints) -> None:
        """Lay one paddle in each of ``rows``."""
        self.downs[rows, self.laid], self.rights[rows, self.laid] = points[:, 0], points[:, 1]
        self.orientations[rows, self.laid] = orientations
        self.laid += 1

    def paddle(self, rows: Ints, place: int) -> tuple[Ints, Ints]:
        """Start and orientation of each row's paddle number ``place``."""
        return np.stack([self.downs[rows, place], self.rights[rows, place]], 1), self.orientations[rows, place]

    def nearness(self, rows: Ints, pivots: Ints) -> Bytes:
        """How much is taken within the margin around each candidate for a next end, ``(rows, candidates)``.

        Outside the image all is taken.
        """
        shapes, table = self.shapes, self.shapes.wide_table
        values = np.zeros((len(rows), len(shapes.candidates)), np.uint8)
        edge = self._edge(pivots, shapes.step + shapes.margin)
        values[edge] = values_inside(shapes, shapes.near_border[None], 0, pivots[edge, None] + shapes.candidates)
        pairs, places = self._close(rows, pivots, shapes.step + table.reach, table)
        if len(pairs):
            found = table.values.take(places[:, None] + shapes.circle_offsets)
            first = np.flatnonzero(np.diff(pairs, prepend=-1))
            touched = pairs[first]
            values[touched] = np.maximum(values[touched], np.maximum.reduceat(found, first, axis=0))
        return values

    def collide(self, rows: Ints, points: Ints, orientations: Ints) -> NDArray[np.bool_]:
        """Whether new paddles overlap the border or what is laid."""
        shapes, table = self.shapes, self.shapes.block_table
        hit = np.zeros(len(rows), bool)
        edge = self._edge(points, shapes.reach)
        cells, limits = look_up(shapes.core, shapes.cells(points[edge])[:, None], orientations[edge])
        hit[edge] = (shapes.border[cells] > limits).any(1)
        pairs, places = self._close(rows, points, shapes.reach + table.reach, table)
        turned = orientations[pairs]
        laid = table.values.take(places[:, None] + shapes.core_offsets.take(turned, axis=0))
        hit[pairs[(laid > shapes.core.values.take(turned, axis=0)).any(1)]] = True
        return hit

    def _edge(self, points: Ints, reach: int) -> Ints:
        """Which points lie so close to the border that it matters."""
        variant = self.shapes.variant
        low = variant.padding + reach
        high = variant.size - low
        down, right = points[:, 0], points[:, 1]
        return np.flatnonzero((np.minimum(down, right) < low) | (np.maximum(down, right) >= high))

    def _close(self, rows: Ints, points: Ints, reach: int, table: Table) -> tuple[Ints, Ints]:
        """Pairs of a point and a paddle within reach: the point's position, and its place in the paddle's table."""
        down = points[:, :1] - self.downs[rows, : self.laid]
        right = points[:, 1:] - self.rights[rows, : self.laid]
        pairs, paddles = np.nonzero(np.maximum(np.abs(down), np.abs(right)) < reach)
        apart = down[pairs, paddles] * table.side + right[pairs, paddles]
        return pairs, table.middle(self.orientations[rows[pairs], paddles]) + apart


def values_inside(shapes: Shapes, images: Bytes, rows: Ints | int, points: Ints) -> Bytes:
    """Values of pixels of some images, 255 outside."""
    down, right = points[..., 0], points[..., 1]
    inside = (np.minimum(down, right) >= 0) & (np.maximum(down, right) < shapes.variant.size)
    found: Bytes = images[rows, np.where(inside, shapes.cells(points), 0)]
    found[~inside] = 255
    return found


def look_up(stamp: Stamp, starts: Ints, orientations: Ints) -> tuple[Ints, Bytes]:
    """Cells and values of a stamp; unused entries become the first cell, which lies outside the image."""
    offsets = stamp.offsets[orientations]
    return np.where(offsets == NOWHERE, 0, starts + offsets), stamp.values[orientations]
