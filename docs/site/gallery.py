"""Drawings for docs/gallery.md: every scan order, and the effective receptive field of every 2-D mixer.

The page holds marks; :func:`filled` puts the drawings in their places when the site is built.

Source of effective receptive fields: Luo et al. 2016 (arXiv 1701.04128): the gradient of the centre of the outputs with
respect to every input.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from functools import cache
from math import log10
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from seqconv import list_models
from seqconv.vision import Mixer2d, create_mixer_2d, list_mixers_2d, scan_order
from seqconv.vision.registry import mixer_2d_entry
from seqconv.vision.scan_orders import ALIASES, CURVES, SUFFIXES, moves
from seqconv.zoo import model_entry

HEIGHT, WIDTH, PIXELS = 8, 8, 14
"""Cells of the drawn scan orders, and pixels of a cell."""
PARAMETERS = {"window": ":4", "atrous": ":2"}
"""Of the scan orders that have one, as in their names."""
JUMP = 5
"""What :func:`~seqconv.vision.scan_orders.moves` calls a move that is not to a neighbour."""

CELLS, CHANNELS, IMAGES = 25, 16, 8
"""Rows and columns of the receptive fields, width of the mixers, random images in the mean."""
DECADES = 6
"""Range of the colours: gradients below 10^-6 of the largest one are white."""
COLOURS = ((255, 255, 255), (253, 187, 132), (227, 74, 51), (127, 0, 0))
"""From the smallest gradient to the largest, evenly in the logarithm."""
OF_THE_IMAGE: Mapping[str, str] = {"global_filter": "size", "hyena": "l_max", "hyper_kernel": "image_size"}
"""Options that are the size of the image."""
LIFTED: Mapping[str, Mapping[str, Any]] = {
    "Mamba along one order": {"mixer": "mamba", "orders": ["row"]},
    "Mamba along a Hilbert curve and back": {"mixer": "mamba", "orders": ["hilbert", "hilbert_reversed"]},
    "Vim's block": {"mixer": "vim", "orders": ["row"]},
    "Attention, as in a ViT": {"mixer": "attention", "orders": ["row"]},
}
"""Sequence mixers over images: options of the mixer ``"scan"``."""
MARKS = ("scan orders", "receptive fields")


def filled(text: str) -> str:
    """The page with its drawings.

    Raises:
        ValueError: a mark is missing.
    """
    for mark, drawn in zip(MARKS, (_orders, _fields), strict=True):
        before, found, after = text.partition(f"<!-- {mark} -->")
        if not found:
            raise ValueError(f"docs/gallery.md has no place for the {mark}")
        text = f"{before}{drawn()}{after}"
    return text


def order_svg(name: str, height: int = HEIGHT, width: int = WIDTH) -> str:
    """The way of a scan order from its first cell, a dot, to its last one; dashed where it jumps.

    Colours go from blue at the start to red at the end.
    """
    order = scan_order(name, height, width)
    entered = moves(order, width).tolist()
    places = [(PIXELS * (p % width) + PIXELS // 2, PIXELS * (p // width) + PIXELS // 2) for p in order.tolist()]
    lines = []
    for step in range(1, len(places)):
        (x1, y1), (x2, y2) = places[step - 1 : step + 1]
        hue = 240 - 240 * step // len(places)
        dashes = ' stroke-dasharray="2 2" stroke-opacity="0.5"' if entered[step] == JUMP else ""
        lines.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="hsl({hue},80%,45%)"{dashes}/>')
    dot = f'<circle cx="{places[0][0]}" cy="{places[0][1]}" r="3" fill="hsl(240,80%,45%)"/>'
    return _svg(PIXELS * width, PIXELS * height, "".join([*lines, dot]), f"scan order {name}")


def receptive_field(mixer: Mixer2d, size: int = CELLS, images: int = IMAGES) -> Float[Tensor, "size size"]:
    """Mean magnitude of the gradient of the centre of the outputs with respect to every cell of the inputs.

    The output is weighed by a random direction for each random image.
    """
    torch.manual_seed(0)
    x = torch.randn(images, size, size, mixer.d_model, requires_grad=True)
    y = mixer(x)[:, size // 2, size // 2]
    (gradient,) = torch.autograd.grad((y * torch.randn_like(y)).sum(), x)
    return gradient.norm(dim=-1).mean(0)


def field_svg(field: Float[Tensor, "rows columns"], name: str, pixels: int = 6) -> str:
    """A square for every cell that the output depends on, its colour by the logarithm of the gradient."""
    largest = float(field.max())
    cells = []
    for row, values in enumerate(field.tolist()):
        for column, value in enumerate(values):
            level = 1 + log10(value / largest) / DECADES if value > 0 else 0.0
            if level > 0:
                place = f'x="{pixels * column}" y="{pixels * row}" width="{pixels}" height="{pixels}"'
                cells.append(f'<rect {place} fill="{_colour(level)}"/>')
    rows, columns = field.shape
    return _svg(pixels * columns, pixels * rows, "".join(cells), f"effective receptive field of {name}")


def make_mixer(name: str, **options: Any) -> Mixer2d:
    """A freshly initialised mixer for the images of the drawings."""
    torch.manual_seed(0)
    if name in OF_THE_IMAGE:
        options = {OF_THE_IMAGE[name]: CELLS, **options}
    return create_mixer_2d(name, CHANNELS, **options).eval()


@cache
def published_models() -> Mapping[str, tuple[str, ...]]:
    """Names of published models by the name of their 2-D mixer."""
    found: dict[str, list[str]] = {}
    for name in list_models():
        with torch.device("meta"):
            backbone = model_entry(name).build()
        for mixer in sorted({type(part).name for part in backbone.modules() if isinstance(part, Mixer2d)}):
            found.setdefault(mixer, []).append(name)
    return {mixer: tuple(names) for mixer, names in found.items()}


def _svg(width: int, height: int, inside: str, title: str) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    return f"{head}<title>{title}</title>{inside}</svg>"


def _colour(level: float) -> str:
    """Of a level in (0, 1], between the nearest two of :data:`COLOURS`."""
    place = level * (len(COLOURS) - 1)
    index = min(int(place), len(COLOURS) - 2)
    part = place - index
    mixed = (round(a + (b - a) * part) for a, b in zip(COLOURS[index], COLOURS[index + 1], strict=True))
    return "#" + "".join(f"{value:02x}" for value in mixed)


def _orders() -> str:
    """A row for every curve: as it is, and under each suffix."""
    rows = []
    for curve in CURVES:
        base = curve + PARAMETERS.get(curve, "")
        names = [base, *(f"{base}_{suffix}" for suffix in SUFFIXES)]
        rows.append("".join(_figure(order_svg(name), _names(name)) for name in names))
    return _raw("".join(f'<div class="drawings">{row}</div>' for row in rows))


def _names(name: str) -> str:
    aliases = [alias for alias, meaning in ALIASES.items() if meaning == name]
    return " = ".join(f"<code>{n}</code>" for n in [name, *aliases])


def _fields() -> str:
    """A section for every mixer; those of the mixer ``"scan"`` side by side."""
    return "\n\n".join(_section(name) for name in list_mixers_2d())


def _section(name: str) -> str:
    entry = mixer_2d_entry(name)
    module = inspect.getmodule(entry.mixer)
    assert module is not None
    shown = {"": {}} if name != "scan" else LIFTED
    drawings = (
        _figure(field_svg(receptive_field(make_mixer(name, **options)), f"{name} {words}".strip()), words)
        for words, options in shown.items()
    )
    models = ", ".join(f"`{model}`" for model in published_models().get(name, ()))
    parts = [
        f"### `{name}`",
        f"{entry.summary} Equation: {{py:mod}}`{module.__name__}`.",
        _raw(f'<div class="drawings">{"".join(drawings)}</div>'),
        f"Published models: {models}." if models else "",
        f"```{{eval-rst}}\n{' '.join(_sources(module.__doc__ or ''))}\n```",
    ]
    return "\n\n".join(part for part in parts if part)


def _sources(docstring: str) -> Iterator[str]:
    """The paragraphs of a docstring that name its sources, each as one line."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        if re.match(r"Sources?:", paragraph):
            yield " ".join(paragraph.split())


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{caption}</figcaption></figure>"


def _raw(html: str) -> str:
    return f"```{{raw}} html\n{html}\n```"
