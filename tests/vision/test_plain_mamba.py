"""PlainMamba's mixer: the numbers of the original, and the scan of the paper direction by direction."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_variant
from seqconv import from_original
from seqconv.vision import PlainMamba2d, scan_order
from seqconv.vision.mixers.plain_mamba import SNAKES
from seqconv.vision.scan_orders import moves
from seqconv_kernels import selective_scan

ORIGINAL = "ChenhongyiYang/PlainMamba:PlainMamba2D"
HEIGHT_WIDTH = (5, 7)


def test_outputs_and_gradients_of_the_original():
    case = load_variant("scan/plainmamba", "plain_mamba_2d")
    imported = Imported(ORIGINAL, case.group("param"), case.meta["cfg"])
    x = case.tensors["in.x"].double().requires_grad_()
    y = imported(x.unflatten(1, HEIGHT_WIDTH)).flatten(1, 2)
    assert_close(y, case.tensors["out.y"], 1e-9, 1e-10, "output")
    (y * case.tensors["cot.y"]).sum().backward()
    assert_close(x.grad, case.tensors["grad.in.x"], 1e-9, 1e-10, "gradient of the input")
    check_gradients(imported, case.group("grad.param"), 1e-9, 1e-9)


@pytest.mark.parametrize("selection", ["scanned", "raster"])
def test_one_call_is_a_scan_per_snake(selection):
    torch.manual_seed(0)
    mixer = PlainMamba2d(6, selection=selection, d_state=3, dt_rank=2).double()
    cells, want = torch.randn(2, 20, 12, dtype=torch.float64), 0.0
    for name in SNAKES:
        order = scan_order(name, 4, 5)
        visited = order if selection == "scanned" else torch.arange(20)
        low, B, C = (cells[:, visited] @ mixer.x_proj.weight.T).split([2, 3, 3], dim=-1)
        B, A = B + mixer.move_B[moves(order, 5)], -mixer.A_log.exp()
        delta, bias = low @ mixer.dt_proj.weight.T, mixer.dt_bias
        y = selective_scan(cells[:, order], delta, A, B, C, mixer.D, delta_bias=bias, delta_softplus=True)
        want = want + y[:, torch.argsort(order)]
    assert_close(mixer._scan(cells.unflatten(1, (4, 5)), None).flatten(1, 2), want, 1e-10, 1e-12)


def test_errors_say_what_to_do():
    cases = {
        r"selection 'rster'.*did you mean 'raster'": lambda: PlainMamba2d(4, selection="rster"),
        r"d_conv=2.*odd": lambda: PlainMamba2d(4, d_conv=2),
        r"'with_dwconv'.*Remedy": lambda: from_original(ORIGINAL, {}, d_model=4, with_dwconv=True),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
