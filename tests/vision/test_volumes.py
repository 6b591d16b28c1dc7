"""Scan orders of volumes, and sequence mixers lifted to them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqconv.vision import Scan3d, create_mixer_2d, scan_order, volume_order
from seqconv.vision.scan_orders import inverse
from seqconv.vision.volume_orders import CURVES, LAYOUTS
from tolerances import assert_near

NAMES = [f"{layout}:{order}" for layout in LAYOUTS for order in ("row", "snake_column_reversed", "window:2")]
NAMES += [f"{curve}:2" if curve == "window" else curve for curve in CURVES]
NAMES += [f"reversed:{name}" for name in ("frames:row", "hilbert")]
ROUNDING, SEEN = 1e-15, 1e-9


def steps(name, *sizes):
    """Frames, rows and columns moved at every step."""
    order = volume_order(name, *sizes)
    places = torch.stack(torch.unravel_index(order, sizes), dim=1)
    return places.diff(dim=0).abs().sum(1)


@given(name=st.sampled_from(NAMES), sizes=st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(1, 7)))
def test_every_order_is_a_permutation_for_every_size(name, sizes):
    order = volume_order(name, *sizes)
    assert torch.equal(order.sort().values, torch.arange(len(order)))
    assert torch.equal(order[inverse(order)], torch.arange(len(order)))


@pytest.mark.parametrize("name", ["frames:hilbert", "alternating:zigzag", "times:column", "side_by_side:snake"])
def test_one_frame_is_an_image(name):
    assert torch.equal(volume_order(name, 1, 5, 3), scan_order(name.partition(":")[2], 5, 3))


@pytest.mark.parametrize("curve", ["zorder", "window:2"])
def test_curves_of_one_frame_are_those_of_images(curve):
    assert torch.equal(volume_order(curve, 1, 5, 3), scan_order(curve, 5, 3))


def test_snakes_and_the_hilbert_curve_move_between_neighbours():
    for sizes in ((4, 3, 5), (3, 4, 2), (1, 1, 1)):
        assert (steps("alternating:snake", *sizes) == 1).all()
    for side in (1, 2, 4, 8):
        assert (steps("hilbert", side, side, side) == 1).all()


def test_two_images_by_hand():
    """Cells 0 to 5 before, 6 to 11 after, of 2 by 3."""
    assert volume_order("interleaved:row", 2, 2, 3).tolist() == [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]
    assert volume_order("side_by_side:row", 2, 2, 3).tolist() == [0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11]
    assert volume_order("times:column", 2, 2, 3).tolist() == [0, 6, 3, 9, 1, 7, 4, 10, 2, 8, 5, 11]
    assert volume_order("alternating:row", 2, 2, 3).tolist() == [0, 1, 2, 3, 4, 5, 11, 10, 9, 8, 7, 6]
    assert volume_order("window:2", 2, 2, 3).tolist() == [0, 1, 3, 4, 6, 7, 9, 10, 2, 5, 8, 11]
    assert volume_order("reversed:frames:row", 1, 1, 3).tolist() == [2, 1, 0]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("merge", ["sum", "mean", "concat"])
def test_a_lifted_mixer_of_one_frame_is_that_of_the_image(merge, shared):
    torch.manual_seed(0)
    options = {"mixer": "gla", "mixer_options": {"num_heads": 2}, "merge": merge, "shared": shared}
    lifted = Scan3d(8, orders=["frames:row", "times:hilbert", "frames:column_reversed"], **options).double().eval()
    image = create_mixer_2d("scan", 8, orders=["row", "hilbert", "column_reversed"], **options).double().eval()
    image.load_state_dict(lifted.state_dict())
    x = torch.randn(2, 1, 4, 5, 8, dtype=torch.float64)
    assert_near(lifted(x)[:, 0], image(x[:, 0]))


@pytest.mark.parametrize("mixer", ["mamba", "gated_deltanet", "s4d", "hyena", "attention"])
def test_frame_after_frame_depends_on_no_later_frame(mixer):
    torch.manual_seed(0)
    lifted = Scan3d(8, mixer=mixer, orders=["frames:row", "frames:snake_column"]).double().eval()
    x = torch.randn(2, 4, 3, 2, 8, dtype=torch.float64, requires_grad=True)
    y = lifted(x)
    assert y.shape == x.shape
    (gradient,) = torch.autograd.grad(y[0, 2].sum(), x)
    assert gradient[0, 3].abs().max() < ROUNDING  # of FFTs
    assert gradient[1].abs().max() < ROUNDING
    assert (gradient[0, :3].abs().amax((1, 2, 3)) > SEEN).all()
    both = Scan3d(8, mixer=mixer).double().eval()
    (gradient,) = torch.autograd.grad(both(x)[0, 2].sum(), x)
    assert gradient[0, 3].abs().max() > SEEN


def test_errors_say_what_to_do(unannotated):
    lifted = Scan3d(4, mixer="s4d")
    cases = {
        r"order of a volume 'frame:row'.*did you mean 'frames:row'": lambda: volume_order("frame:row", 2, 2, 2),
        r"order of a volume 'window'": lambda: volume_order("window", 2, 2, 2),
        r"order of a volume 'hilbert:3'": lambda: Scan3d(4, orders=["hilbert:3"]),
        r"scan order 'rw'.*did you mean 'row'": lambda: volume_order("frames:rw", 2, 2, 2),
        r"frames=0.*at least one cell": lambda: volume_order("zorder", 0, 2, 2),
        r"Scan3d.*orders='frames:row'": lambda: Scan3d(4, orders="frames:row"),
        r"Scan3d.*merge 'add'": lambda: Scan3d(4, merge="add"),
        r"shape \(1, 2, 2, 4\).*\(batch, frames, height, width": lambda: lifted(torch.zeros(1, 2, 2, 4)),
        r"shape \(1, 0, 2, 2, 4\).*with cells": lambda: lifted(torch.zeros(1, 0, 2, 2, 4)),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
