"""Drawing Pathfinder images, many attempts side by side.

Two target snakes of paddles grow in turn from seeds at a fixed distance. A snake goes on from its pivot to a pixel of
the circle around it, drawn with a weight of freedom times ``cos^2`` of the turn; the paddle is laid from there back
towards the pivot and must not overlap what is already there. A dead end fails the pair, and about one pair in 370
succeeds at 128 pixels, so hundreds of attempts grow at once as rows of one array. Distractors fill up; two discs mark
the ends that the question is about.

Space is kept as bytes in flat padded images: ``taken`` (how much a paddle may not enter) and ``near`` (``taken``
dilated by the margin). A paddle enters them only when its successor stands, so that it cannot collide with it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .pathfinder_shapes import NOWHERE, SEEDS, Ints, Shapes, Stamp, dilate

Bytes = NDArray[np.uint8]
ATTEMPTS = 1024
"""Pairs grown side by side."""
TRIES = 3
COLLISION = 459
"""1.8 in units of 255: the sum of two paddles' bytes that counts as an overlap."""


@dataclass
class Space:
    """Rows of padded flat images, one per attempt or image."""

    shapes: Shapes
    taken: Bytes
    near: Bytes

    @staticmethod
    def empty(shapes: Shapes, rows: int) -> "Space":
        """The border alone."""
        size, padding = shapes.variant.size, shapes.variant.padding
        border = np.full((size, size), 255, np.uint8)
        border[padding:-padding, padding:-padding] = 0
        flat = [np.pad(image, shapes.pad).ravel() for image in (border, dilate(border, shapes.margin))]
        return Space(shapes, *(np.repeat(image[None], rows, 0) for image in flat))

    def select(self, rows: Ints) -> "Space":
        """A copy of some rows."""
        return Space(self.shapes, self.taken[rows], self.near[rows])

    def cells(self, points: Ints) -> Ints:
        """Flat indices of pixels."""
        return (points[..., 0] + self.shapes.pad) * self.shapes.stride + points[..., 1] + self.shapes.pad

    def enter(self, rows: Ints, points: Ints, orientations: Ints) -> None:
        """Lay paddles into ``taken`` and ``near``."""
        starts = self.cells(points)[:, None]
        for image, stamp in ((self.taken, self.shapes.block), (self.near, self.shapes.wide)):
            cells, values = _look_up(stamp, starts, orientations)
            old = image[rows[:, None], cells]
            image[rows[:, None], cells] = np.maximum(old, values)

    def collide(self, rows: Ints, points: Ints, orientations: Ints) -> NDArray[np.bool_]:
        """Whether paddles overlap what is taken."""
        cells, values = _look_up(self.shapes.core, self.cells(points)[:, None], orientations)
        total = self.taken[rows[:, None], cells].astype(np.int16) + values
        return np.where(values > 0, total, 0).max(1) >= COLLISION  # type: ignore[no-any-return]


def _look_up(stamp: Stamp, starts: Ints, orientations: Ints) -> tuple[Ints, Bytes]:
    """Cells and values of a stamp; unused entries become the first cell, which lies outside the image."""
    offsets = stamp.offsets[orientations]
    return np.where(offsets == NOWHERE, 0, starts + offsets), stamp.values[orientations]


@dataclass
class Tips:
    """The growing ends of snakes: pivot, orientation, and the last paddle's start."""

    pivots: Ints
    orientations: Ints
    starts: Ints

    def select(self, rows: Ints | NDArray[np.bool_]) -> "Tips":
        """Some rows."""
        return Tips(self.pivots[rows], self.orientations[rows], self.starts[rows])


def extend(space: Space, rows: Ints, tips: Tips, stream: Generator) -> tuple[NDArray[np.bool_], Tips]:
    """One more paddle for each of ``rows``; whether it found a place, and the new ends (of those that did)."""
    shapes = space.shapes
    pivots = tips.pivots + shapes.advance[tips.orientations]
    ends = pivots[:, None] + shapes.candidates
    inside = ((ends >= 0) & (ends < shapes.variant.size)).all(2)
    cells = np.where(inside, space.cells(ends), 0)
    weights = (255.0 - space.near[rows[:, None], cells]) / 255 * shapes.weights[tips.orientations] * inside
    totals = weights.sum(1)
    ladder = weights.cumsum(1) / np.maximum(totals, 1e-12)[:, None]
    chosen = np.zeros(len(rows), np.int64)
    pending = np.flatnonzero(totals >= 1e-4)
    found = np.zeros(len(rows), bool)
    for _ in range(TRIES):
        chosen[pending] = (ladder[pending] > stream.random(len(pending))[:, None]).argmax(1)
        starts = pivots[pending] + shapes.candidates[chosen[pending]]
        blocked = space.collide(rows[pending], starts, SEEDS + chosen[pending])
        found[pending[~blocked]] = True
        pending = pending[blocked]
    kept = np.flatnonzero(found)
    before = tips.select(kept)
    space.enter(rows[kept], before.starts, before.orientations)
    onward = chosen[kept]
    return found, Tips(pivots[kept], SEEDS + onward, pivots[kept] + shapes.candidates[onward])


def seed_pairs(shapes: Shapes, attempts: int, stream: Generator) -> list[Tips]:
    """First paddles of both target snakes, for those attempts where the first one finds room."""
    size, band = shapes.variant.size, 2 * shapes.variant.seed_distance
    orientations = stream.integers(0, SEEDS, (attempts, 2))
    room = shapes.room[orientations[:, 0]]
    low = band - room[:, ::2]
    width = size - band - room[:, 1::2] - low
    fits = (width > 0).all(1) & shapes.possible[orientations[:, 0]]
    orientations, low, width = orientations[fits], low[fits], width[fits]
    first = low + (stream.random(low.shape) * width).astype(np.int64)
    angle = stream.integers(0, 360, len(first)) * np.pi / 180
    shift = shapes.variant.seed_distance * np.stack([np.sin(angle), np.cos(angle)], 1)
    second = np.round(first + shift).astype(np.int64)
    return [
        Tips(tail + shapes.pivot[turned], turned, tail)
        for tail, turned in ((first, orientations[:, 0]), (second, orientations[:, 1]))
    ]


@dataclass
class Paddles:
    """Paddles of one snake per row: starts ``(rows, paddles, 2)`` and orientations ``(rows, paddles)``."""

    starts: list[Ints]
    orientations: list[Ints]

    @staticmethod
    def of(tips: Tips) -> "Paddles":
        """Snakes of one paddle."""
        return Paddles([tips.starts], [tips.orientations])

    def keep(self, rows: NDArray[np.bool_] | Ints) -> "Paddles":
        """Some rows."""
        return Paddles([one[rows] for one in self.starts], [one[rows] for one in self.orientations])

    def add(self, tips: Tips) -> None:
        """One paddle more for every row."""
        self.starts.append(tips.starts)
        self.orientations.append(tips.orientations)


def target_pairs(shapes: Shapes, paddles: int, wanted: int, stream: Generator) -> tuple[Space, list[Paddles]]:
    """Pairs of target snakes, each on a space of its own, in the order of the attempts that succeeded."""
    spaces, found, count = [], [], 0
    blank = Space.empty(shapes, 1)
    while count < wanted:
        space, pair = grow_pairs(blank, paddles, stream)
        spaces.append(space)
        found.append(pair)
        count += len(space.taken)
    joined = Space(shapes, *(np.concatenate([getattr(s, name) for s in spaces])[:wanted] for name in ("taken", "near")))
    snakes = [
        Paddles(
            [np.concatenate([pair[side].starts[i] for pair in found])[:wanted] for i in range(paddles)],
            [np.concatenate([pair[side].orientations[i] for pair in found])[:wanted] for i in range(paddles)],
        )
        for side in (0, 1)
    ]
    return joined, snakes


def grow_pairs(blank: Space, paddles: int, stream: Generator) -> tuple[Space, list[Paddles]]:
    """Try pairs on copies of an empty space; the spaces and snakes of those that reached their full length."""
    ends = seed_pairs(blank.shapes, ATTEMPTS, stream)
    rows = np.arange(len(ends[0].starts))
    space = blank.select(np.zeros_like(rows))
    snakes = [Paddles.of(end) for end in ends]
    for _ in range(paddles - 1):
        for side in (0, 1):
            found, grown = extend(space, rows, ends[side], stream)
            rows = rows[found]
            ends[1 - side], ends[side] = ends[1 - side].select(found), grown
            snakes = [snake.keep(found) for snake in snakes]
            snakes[side].add(grown)
    space = space.select(rows)
    space.enter(np.arange(len(rows)), ends[1].starts, ends[1].orientations)
    return space, snakes
