"""Drawings of the gallery: every cell of a scan order is visited, receptive fields are those of the equations."""

import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from seqconv.vision import create_mixer_2d, list_mixers_2d, scan_order
from seqconv.vision.scan_orders import CURVES

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def gallery():
    sys.path.insert(0, str(ROOT / "docs" / "site"))
    try:
        import gallery
    finally:
        sys.path.remove(str(ROOT / "docs" / "site"))
    return gallery


def cells(gallery, drawn, width):
    """The raster indices along the lines of a drawing, and which lines are dashed."""
    lines = list(drawn.iter(f"{SVG}line"))
    places = [(line.get("x1"), line.get("y1")) for line in lines] + [(lines[-1].get("x2"), lines[-1].get("y2"))]
    half = gallery.PIXELS // 2
    indices = [(int(y) - half) // gallery.PIXELS * width + (int(x) - half) // gallery.PIXELS for x, y in places]
    return indices, [line.get("stroke-dasharray") is not None for line in lines]


@pytest.mark.parametrize("name", ["row", "snake", "hilbert_reversed", "window:2", "atrous:2_transposed"])
def test_drawn_orders_visit_the_cells_of_the_order(gallery, name):
    height, width = 4, 4
    drawn = ElementTree.fromstring(gallery.order_svg(name, height, width))
    order, dashed = cells(gallery, drawn, width)
    assert order == scan_order(name, height, width).tolist()
    steps = [abs(a // width - b // width) + abs(a % width - b % width) for a, b in pairwise(order)]
    assert dashed == [step > 1 for step in steps]
    (dot,) = drawn.iter(f"{SVG}circle")
    first = next(drawn.iter(f"{SVG}line"))
    assert (dot.get("cx"), dot.get("cy")) == (first.get("x1"), first.get("y1"))


def test_receptive_fields_are_those_of_the_equations(gallery):
    causal = gallery.receptive_field(create_mixer_2d("scan", 4, mixer="gru", orders=["row"]), size=5, images=2)
    assert (causal.flatten()[:13] > 0).all()
    assert (causal.flatten()[13:] == 0).all()
    local = gallery.receptive_field(create_mixer_2d("gnconv", 4, order=1, d_conv=3), size=7, images=2)
    assert (local[2:5, 2:5] > 0).all()
    assert local.count_nonzero() == 9


def test_drawn_fields_hold_the_cells_above_the_range_of_colours(gallery):
    field = torch.tensor([[1.0, 0.0], [1e-3, 1e-9]])
    drawn = ElementTree.fromstring(gallery.field_svg(field, "mixer", pixels=6))
    squares = {(square.get("x"), square.get("y")): square.get("fill") for square in drawn.iter(f"{SVG}rect")}
    assert set(squares) == {("0", "0"), ("0", "6")}
    assert squares["0", "0"] == "#" + bytes(gallery.COLOURS[-1]).hex()


def test_the_page_has_every_order_and_mixer(gallery, monkeypatch):
    monkeypatch.setattr(gallery, "published_models", lambda: {"ss2d": ("vmamba_tiny",)})
    page = gallery.filled((ROOT / "docs" / "gallery.md").read_text(encoding="utf-8"))
    titles = [line.removeprefix("### ").strip("`") for line in page.splitlines() if line.startswith("### ")]
    assert titles == list(list_mixers_2d())
    assert page.count("<title>effective receptive field") == len(titles) - 1 + len(gallery.LIFTED)
    for curve in CURVES:
        assert f"<code>{curve}{gallery.PARAMETERS.get(curve, '')}_reversed</code>" in page
    assert "Published models: `vmamba_tiny`." in page
    assert page.count("Source") >= len(titles)
    with pytest.raises(ValueError, match="no place for the scan orders"):
        gallery.filled("# An empty page")
