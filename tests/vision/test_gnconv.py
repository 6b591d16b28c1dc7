"""HorNet's gⁿConv: the numbers of the original."""

import pytest

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv import from_original
from seqconv.vision import GnConv2d

ORIGINAL = "raoyongming/HorNet:gnconv"
RTOL, ATOL = 1e-8, 1e-9


def test_outputs_and_gradients_of_the_original():
    case = load_case("hornet_gnconv")
    hyper = {"dim": case.hyper["dim"], "order": case.hyper["order"], "s": case.hyper["scale"]}
    imported = Imported(ORIGINAL, case.group("param"), hyper)
    x = case.tensors["in.x"].clone().requires_grad_()
    y = imported(x.movedim(1, -1)).movedim(-1, 1)
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, "output")
    (y * case.tensors["cot.y"]).sum().backward()
    want = case.group("grad")
    assert_close(x.grad, want.pop("in.x"), RTOL, ATOL, "gradient of the input")
    check_gradients(imported, want, RTOL, ATOL)


def test_errors_say_what_to_do():
    cases = {
        r"d_conv=4.*odd": lambda: GnConv2d(8, d_conv=4),
        r"order=5.*divisor of d_model=8": lambda: GnConv2d(8, order=5),
        r"gflayer=.*checked": lambda: from_original(ORIGINAL, {}, dim=8, gflayer="gf"),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
