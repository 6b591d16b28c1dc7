"""Drawing Pathfinder images, many attempts side by side.

Two target snakes of paddles grow in turn from seeds at a fixed distance. A snake goes on from its pivot to a pixel of
the circle around it, drawn with a weight of freedom times ``cos^2`` of the turn; the paddle is laid from there back
towards the pivot and must not overlap what is already there. A dead end fails the pair, and about one pair in 370
succeeds at 128 pixels, so hundreds of attempts grow at once as rows of one array. Distractors fill up; two discs mark
the ends that the question is about.

A paddle is laid only when its successor has been placed, so that it cannot collide with it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .occupancy import Space, Trails
from .paddle import Ints
from .shapes import SEEDS, Shapes

ATTEMPTS = 1024
"""Pairs grown side by side."""
TRIES = 3
FREE_SHARE = (255.0 - np.arange(256)) / 255
"""Share of a pixel that is free, by what is taken of it."""


@dataclass
class Tips:
    """The growing ends of snakes: pivot, orientation, and the last paddle's start."""

    pivots: Ints
    orientations: Ints
    starts: Ints

    def select(self, rows: Ints | NDArray[np.bool_]) -> "Tips":
        """Some rows."""
        return Tips(self.pivots[rows], self.orientations[rows], self.starts[rows])


def extend(space: Space | Trails, rows: Ints, tips: Tips, stream: Generator) -> tuple[NDArray[np.bool_], Tips]:
    """One more paddle for each of ``rows``; whether it found a place, and the new ends (of those that did)."""
    shapes = space.shapes
    pivots = tips.pivots + shapes.advance.take(tips.orientations, axis=0)
    weights = FREE_SHARE.take(space.nearness(rows, pivots)) * shapes.weights.take(tips.orientations, axis=0)
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
    """First paddles of both target snakes, for those attempts where the first one has enough clearance."""
    size, band = shapes.variant.size, 2 * shapes.variant.seed_distance
    orientations = stream.integers(0, SEEDS, (attempts, 2))
    clearance = shapes.clearance[orientations[:, 0]]
    low = band - clearance[:, ::2]
    width = size - band - clearance[:, 1::2] - low
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
    found: list[list[Paddles]] = []
    count = 0
    while count < wanted:
        found.append(grow_pairs(shapes, paddles, stream))
        count += len(found[-1][0].starts[0])
    snakes = [
        Paddles(
            [np.concatenate([pair[side].starts[i] for pair in found])[:wanted] for i in range(paddles)],
            [np.concatenate([pair[side].orientations[i] for pair in found])[:wanted] for i in range(paddles)],
        )
        for side in (0, 1)
    ]
    space = Space.empty(shapes, wanted)
    for side, snake in enumerate(snakes):
        for starts, orientations in list(zip(snake.starts, snake.orientations, strict=True))[: paddles - 1 + side]:
            space.enter(np.arange(wanted), starts, orientations)
    return space, snakes


def grow_pairs(shapes: Shapes, paddles: int, stream: Generator) -> list[Paddles]:
    """Try pairs; both snakes of those that reached their full length."""
    ends = seed_pairs(shapes, ATTEMPTS, stream)
    rows = np.arange(len(ends[0].starts))
    trails = Trails.empty(shapes, len(rows), 2 * paddles)
    for _ in range(paddles - 1):
        for side in (0, 1):
            found, grown = extend(trails, rows, ends[side], stream)
            rows = rows[found]
            ends[1 - side], ends[side] = ends[1 - side].select(found), grown
    snakes = []
    for side, end in enumerate(ends):
        laid = [trails.paddle(rows, place) for place in range(side, trails.laid, 2)]
        snakes.append(Paddles(*(list(column) for column in zip(*laid, strict=True))))
        snakes[side].add(end)
    return snakes
