"""HorNet's gⁿConv: the numbers of the original."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv import from_original
from seqconv.vision import GnConv2d
from seqconv.vision.mixers.frequency.spectral import GlobalLocalFilter

ORIGINAL = "raoyongming/HorNet:gnconv"
RTOL, ATOL = 1e-8, 1e-9


@pytest.mark.parametrize("name", ["hornet_gnconv", "hornet_gnconv_gf"])
def test_outputs_and_gradients_of_the_original(name):
    case = load_case(name)
    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    x = case.tensors["in.x"].clone().requires_grad_()
    y = imported(x.movedim(1, -1)).movedim(-1, 1)
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, "output")
    (y * case.tensors["cot.y"]).sum().backward()
    want = case.group("grad")
    assert_close(x.grad, want.pop("in.x"), RTOL, ATOL, "gradient of the input")
    check_gradients(imported, want, RTOL, ATOL)


def test_names_of_options_in_the_original_and_in_the_cases():
    case = load_case("hornet_gnconv_gf")
    h, w = case.hyper["global_filter"]
    own = {"dim": 8, "order": 2, "s": case.hyper["scale"], "gflayer": "GlobalLocalFilter", "h": h, "w": w}
    layer = from_original(ORIGINAL, case.group("param"), **own)
    assert_close(layer(case.tensors["in.x"].movedim(1, -1)).movedim(-1, 1), case.tensors["out.y"], RTOL, ATOL)


def test_a_global_filter_is_interpolated_to_the_frequencies_of_the_image():
    """On as many frequencies it is itself; where it is constant it is constant on any grid."""
    torch.manual_seed(0)
    layer = GlobalLocalFilter(4, (6, 4)).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.75, 0.0]).expand_as(layer.weight))
    for size in ((6, 6), (5, 9), (1, 3)):
        x = torch.randn(1, *size, 2, dtype=torch.float64)
        assert_close(layer._global(x), 0.75 * x, RTOL, ATOL)


def test_errors_say_what_to_do():
    cases = {
        r"d_conv=4.*odd": lambda: GnConv2d(8, d_conv=4),
        r"order=5.*divisor of d_model=8": lambda: GnConv2d(8, order=5),
        r"gflayer='gf'.*checked": lambda: from_original(ORIGINAL, {}, dim=8, gflayer="gf"),
        r"7 channels.*an even number": lambda: GnConv2d(4, order=3, global_filter=(4, 3)),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
