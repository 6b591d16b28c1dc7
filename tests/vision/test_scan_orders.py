"""Scan orders: permutations, neighbourhood, and the orders of the originals' code."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from golden_cases import GOLDEN
from seqconv.vision.scan_orders import CURVES, inverse, moves, scan_order

SIZES = ((5, 7), (8, 8), (4, 4))
CURVE_NAMES = [f"{name}:3" if name in ("window", "atrous") else name for name in CURVES]
SUFFIXES = ["", "_reversed", "_transposed", "_rotated", "_transposed_reversed", "_rotated_transposed"]
NAMES = [curve + suffix for curve in CURVE_NAMES for suffix in SUFFIXES] + ["column", "column_reversed", "snake_column"]


@pytest.fixture(scope="module")
def orders():
    return load_file(GOLDEN / "scan_orders/orders.safetensors")


@given(name=st.sampled_from(NAMES), height=st.integers(1, 20), width=st.integers(1, 20))
def test_every_order_is_a_permutation_for_every_size(name, height, width):
    order = scan_order(name, height, width)
    assert torch.equal(order.sort().values, torch.arange(height * width))
    assert torch.equal(order[inverse(order)], torch.arange(height * width))
    assert torch.equal(inverse(order)[order], torch.arange(height * width))


@given(height=st.integers(1, 12), width=st.integers(1, 12), name=st.sampled_from(["snake", "snake_column_reversed"]))
def test_snakes_move_between_neighbours(height, width, name):
    assert not (moves(scan_order(name, height, width), width) == 5).any()


@pytest.mark.parametrize("bits", range(6))
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_hilbert_curve_moves_between_neighbours_on_squares_of_powers_of_two(bits, suffix):
    side = 1 << bits
    assert not (moves(scan_order(f"hilbert{suffix}", side, side), side) == 5).any()


@pytest.mark.parametrize("curve", ["zorder", "hilbert"])
def test_curves_of_quadrants_fill_each_quadrant_before_the_next(curve):
    order = scan_order(curve, 16, 16).view(4, 64)
    quadrants = (order // 16 // 8) * 2 + order % 16 // 8
    assert (quadrants == quadrants[:, :1]).all()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_orders_of_vmamba_and_plainmamba(orders, height, width):
    size = f"{height}x{width}"
    cross = ("row", "column", "row_reversed", "column_reversed")
    snakes = ("snake", "snake_reversed", "snake_column", "snake_column_reversed")
    for k in range(4):
        assert torch.equal(orders[f"vmamba.{size}"][k].long(), scan_order(cross[k], height, width))
        order = orders[f"plainmamba.order.{size}"][k].long()
        assert torch.equal(order, scan_order(snakes[k], height, width))
        assert torch.equal(orders[f"plainmamba.inverse.{size}"][k].long(), inverse(order))
        assert torch.equal(orders[f"plainmamba.direction.{size}"][k].long(), moves(order, width))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_phases_of_efficientvmamba(orders, height, width):
    phases = orders[f"efficientvmamba.step2.{height}x{width}"].long()
    assert torch.equal(phases[phases >= 0], scan_order("atrous:2", height, width))


@pytest.mark.parametrize("side", [4, 8])
@pytest.mark.parametrize(
    ("original", "curve"),
    [("sweep", "row"), ("scan", "snake"), ("zorder", "zorder"), ("zigzag", "zigzag"), ("hilbert", "hilbert")],
)
def test_the_eight_directions_of_mambaad(orders, side, original, curve):
    assert torch.equal(orders[f"mambaad.{original}.index.{side}x{side}"].long(), scan_order(curve, side, side))
    names = [curve + suffix for suffix in ("", "_transposed", "_rotated", "_rotated_transposed")]
    names += [f"{name}_reversed" for name in names]
    for sequence, name in zip(orders[f"mambaad.{original}.dir8.{side}x{side}"], names, strict=True):
        assert torch.equal(sequence.long(), scan_order(name, side, side)), name


def test_windows_and_phases_by_hand():
    assert scan_order("window:2", 2, 3).tolist() == [0, 1, 3, 4, 2, 5]
    assert scan_order("atrous:2", 3, 3).tolist() == [0, 2, 6, 8, 3, 5, 1, 7, 4]
    assert scan_order("zigzag", 2, 3).tolist() == [0, 1, 3, 4, 2, 5]
    assert moves(torch.tensor([0, 1, 4, 3, 0]), 3).tolist() == [0, 1, 4, 2, 3]


@pytest.mark.parametrize("name", ["rows", "window", "window:0", "row:3", "reversed", "row_flipped", "hilbert_", ""])
def test_unknown_orders_raise(name):
    with pytest.raises(ValueError, match=r"scan_order: received scan order .*Remedy"):
        scan_order(name, 2, 2)
    with pytest.raises(ValueError, match=r"did you mean 'hilbert'"):
        scan_order("hilbrt", 2, 2)
    with pytest.raises(ValueError, match=r"height=0.*at least one row"):
        scan_order("row", 0, 2)
