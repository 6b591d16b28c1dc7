"""Pathfinder images from targets to pixels: distractors, markers, brightness; a block of images from one stream."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, Philox, SeedSequence
from numpy.typing import NDArray

from .generator import TRIES, Paddles, Tips, extend, target_pairs
from .occupancy import Space
from .paddle import NOWHERE, SCALE, Bytes, Ints
from .shapes import SEEDS, VARIANTS, Shapes, make_shapes

BLOCK = 50
"""Images drawn from one stream; part of what a seed means."""
DIFFICULTIES: Mapping[str, int] = {"curv_baseline": 6, "curv_contour_length_9": 9, "curv_contour_length_14": 14}
"""Paddles of a target snake; a distractor has a third of them."""
DISTRACTOR_ATTEMPTS = 5
FREE = 76
"""0.3 in units of 255: what a first paddle may find where it needs clearance."""
FULL = 0.01
"""Share of free pixels below which no distractor is tried."""


@dataclass(frozen=True)
class Images:
    """Images of one block.

    Attributes:
        pixels: ``(images, size, size)``.
        labels: 1 where both markers lie on one snake.
        margins: gap around the paddles of each image.
    """

    pixels: Bytes
    labels: Ints
    margins: Ints


def draw_block(seed: int, block: int, size: int, paddles: int, count: int = BLOCK) -> Images:
    """The images of one block, which depend on nothing but the arguments."""
    stream = Generator(Philox(SeedSequence([seed, block])))
    variant = VARIANTS[size]
    labels = stream.integers(0, 2, count)
    margins = stream.choice(variant.margins, count)
    pixels = np.zeros((count, size, size), np.uint8)
    for margin in variant.margins:
        places = np.flatnonzero(margins == margin)
        if len(places):
            pixels[places] = _draw_images(make_shapes(variant, margin), paddles, labels[places], stream)
    return Images(pixels, labels, margins)


def _draw_images(shapes: Shapes, paddles: int, labels: Ints, stream: Generator) -> Bytes:
    variant = shapes.variant
    space, targets = target_pairs(shapes, paddles, len(labels), stream)
    canvas = np.zeros((len(labels), variant.size + 2 * shapes.pad, variant.size + 2 * shapes.pad))
    for snake in targets:
        _paint(canvas, np.arange(len(labels)), snake, shapes, variant.target_contrast)
    for _ in range(variant.distractors):
        rows, snake = add_distractor(space, paddles // 3, stream)
        _paint(canvas, rows, snake, shapes, variant.distractor_contrast)
    inner = slice(shapes.pad, -shapes.pad)
    images = canvas[:, inner, inner]
    origins = stream.integers(0, 2, len(labels))
    for row, (origin, label) in enumerate(zip(origins, labels, strict=True)):
        terminal = origin if label else 1 - origin
        points = (targets[origin].starts[0][row], targets[terminal].starts[-1][row])
        for point in points:
            _mark(images[row], point, variant.marker_radius)
    peak = images.max((1, 2), keepdims=True)
    scaled: Bytes = (images / peak * 255 + 0.5).astype(np.uint8)
    return scaled


def _paint(canvas: NDArray[np.float64], rows: Ints, snake: Paddles, shapes: Shapes, contrast: float) -> None:
    """Draw one snake on each of ``rows``, brighter pixels on top."""
    side = np.arange(-shapes.reach, shapes.reach + 1)
    for starts, orientations in zip(snake.starts, snake.orientations, strict=True):
        down = (starts[:, 0] + shapes.pad)[:, None, None] + side[:, None]
        right = (starts[:, 1] + shapes.pad)[:, None, None] + side[None]
        place = (rows[:, None, None], down, right)
        canvas[place] = np.maximum(canvas[place], contrast * shapes.drawings[orientations])


def _mark(image: NDArray[np.float64], point: Ints, radius: float) -> None:
    """Put a disc of brightness 1 on an image; it is drawn on a window that the filter's ripples stay inside of."""
    from PIL import Image

    around = int(np.ceil(radius)) + 4
    low, high = np.maximum(point - around, 0), np.minimum(point + around + 1, image.shape)
    height, width = high - low
    rows, columns = np.ogrid[: height * SCALE, : width * SCALE]
    middle = (point - low) * SCALE
    disc = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 <= (radius * SCALE) ** 2
    large = Image.fromarray((disc * 255).astype(np.uint8))
    window = image[low[0] : high[0], low[1] : high[1]]
    np.maximum(window, np.array(large.resize((width, height), Image.Resampling.LANCZOS)) / 255, out=window)


def add_distractor(space: Space, paddles: int, stream: Generator) -> tuple[Ints, Paddles]:
    """One more snake for every row that has space for it; the rows that got one, and the snakes."""
    size, pad, stride = space.shapes.variant.size, space.shapes.pad, space.shapes.stride
    inner = space.taken.reshape(-1, stride, stride)[:, pad : pad + size, pad : pad + size]
    pending = np.flatnonzero((inner <= FREE).mean((1, 2)) >= FULL)
    rows: list[Ints] = []
    snakes: list[Paddles] = []
    for _ in range(DISTRACTOR_ATTEMPTS):
        grown, trial, snake = _grow(space, pending, paddles, stream)
        space.taken[pending[grown]], space.near[pending[grown]] = trial.taken[grown], trial.near[grown]
        rows.append(pending[grown])
        snakes.append(snake)
        pending = np.delete(pending, grown)
    return np.concatenate(rows), Paddles(
        [np.concatenate(starts) for starts in zip(*(s.starts for s in snakes), strict=True)],
        [np.concatenate(orientations) for orientations in zip(*(s.orientations for s in snakes), strict=True)],
    )


def _grow(space: Space, rows: Ints, paddles: int, stream: Generator) -> tuple[Ints, Space, Paddles]:
    """Try a snake on a copy of each of ``rows``; positions among them that succeeded, the copies, the snakes."""
    trial = space.select(rows)
    found, ends = seed_distractors(trial, stream)
    alive = np.flatnonzero(found)
    snake = Paddles.of(ends)
    for _ in range(paddles - 1):
        found, ends = extend(trial, alive, ends, stream)
        alive, snake = alive[found], snake.keep(found)
        snake.add(ends)
    trial.enter(alive, ends.starts, ends.orientations)
    return alive, trial, snake


def seed_distractors(space: Space, stream: Generator) -> tuple[NDArray[np.bool_], Tips]:
    """A first paddle for every row, uniform over the places with clearance; whether there was one, and the ends."""
    shapes, size = space.shapes, space.shapes.variant.size
    count = len(space.taken)
    tails = np.zeros((count, 2), np.int64)
    orientations = np.zeros(count, np.int64)
    found = np.zeros(count, bool)
    pending = np.arange(count)
    for _ in range(TRIES):
        turned = stream.integers(0, SEEDS, len(pending))
        places, there = free_places(space, pending, turned, stream)
        pending, turned, places = pending[there], turned[there], places[there]
        ends = np.stack([places + shapes.head[turned], places + shapes.pivot[turned]])
        inside = ((ends >= 0) & (ends < size)).all((0, 2))
        chosen = pending[inside]
        tails[chosen], orientations[chosen], found[chosen] = places[inside], turned[inside], True
        pending = pending[~inside]
    kept = np.flatnonzero(found)
    tails, orientations = tails[kept], orientations[kept]
    return found, Tips(tails + shapes.pivot[orientations], orientations, tails)


def free_places(space: Space, rows: Ints, orientations: Ints, stream: Generator) -> tuple[Ints, NDArray[np.bool_]]:
    """One pixel per row, uniform over those where a first paddle has clearance; whether there is one.

    Random pixels are tried first; where none of them serves, all pixels are.
    """
    size = space.shapes.variant.size
    tried = stream.integers(0, size**2, (len(rows), 64))
    serves = has_clearance(space, rows, tried, orientations)
    serves &= space.shapes.possible[orientations][:, None]
    there: NDArray[np.bool_] = np.asarray(serves.any(1))
    cells = tried[np.arange(len(rows)), serves.argmax(1)]
    for row in np.flatnonzero(~there & space.shapes.possible[orientations]):
        everywhere = np.arange(size**2)[None]
        good = np.flatnonzero(has_clearance(space, rows[row : row + 1], everywhere, orientations[row : row + 1])[0])
        if len(good):
            cells[row], there[row] = stream.choice(good), True
    return np.stack([cells // size, cells % size], 1), there


def has_clearance(space: Space, rows: Ints, pixels: Ints, orientations: Ints) -> NDArray[np.bool_]:
    """For each row and pixel, whether all that a first paddle needs is free."""
    size = space.shapes.variant.size
    starts = space.shapes.cells(np.stack([pixels // size, pixels % size], 2))
    offsets = space.shapes.need.offsets[orientations][:, None]
    cells = np.where(offsets == NOWHERE, 0, starts[:, :, None] + offsets)
    return space.taken[rows[:, None, None], cells].max(2) <= FREE  # type: ignore[no-any-return]
