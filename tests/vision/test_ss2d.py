"""SS2D: the numbers of the original, and its directions one by one."""

import pytest
import torch

from golden_cases import assert_close
from scan_modules import check_layer, import_variant
from seqconv.interop import from_original
from seqconv.vision import SS2D, scan_order
from seqconv_kernels import selective_scan

ORIGINAL = "MzeroMiko/VMamba:SS2D"


@pytest.mark.parametrize("variant", ["ss2d_v0", "ss2d_v05", "ss2d_v05_noz"])
def test_outputs_and_gradients_of_the_original(variant):
    check_layer(*import_variant(ORIGINAL, "scan/vmamba", variant, variant))


def test_one_call_is_a_scan_per_direction():
    torch.manual_seed(0)
    orders = ["row", "hilbert", "snake_column_reversed"]
    mixer = SS2D(6, d_state=3, orders=orders, dt_rank=2).double()
    u = torch.randn(2, 4, 5, mixer.d_inner, dtype=torch.float64, requires_grad=True)
    cells, want = u.flatten(1, 2), 0.0
    for k, (name, weight) in enumerate(zip(orders, mixer.x_proj.weight.chunk(3), strict=True)):
        order = scan_order(name, 4, 5)
        low, B, C = (cells[:, order] @ weight.T).split([2, 3, 3], dim=-1)
        delta, A = low @ mixer.dt_proj.weight[k].T, -mixer.A_log[k].exp()
        bias = mixer.dt_bias[k]
        y = selective_scan(cells[:, order], delta, A, B, C, mixer.D[k], delta_bias=bias, delta_softplus=True)
        want = want + y[:, torch.argsort(order)]
    got = mixer._scan(u, None).flatten(1, 2)
    assert_close(got, want, 1e-10, 1e-12)
    weight = torch.randn_like(want)
    gradients = [torch.autograd.grad((y * weight).sum(), u, retain_graph=True)[0] for y in (got, want)]
    assert_close(*gradients, 1e-10, 1e-12)


@pytest.mark.parametrize(("forward_type", "wanted"), [("v05_nozact", "linear"), ("v3", "silu"), ("v05_noz", "none")])
def test_forward_types_are_gates(forward_type, wanted):
    mixer = SS2D(4, d_state=1, gate=wanted, d_conv=1)
    weights = {
        "in_proj.weight": mixer.in_proj.weight, "out_proj.weight": mixer.out_proj.weight,
        "x_proj.weight": mixer.x_proj.weight, "dt_projs.weight": mixer.dt_proj.weight.flatten(0, 1),
        "dt_projs_bias": mixer.dt_bias, "A_logs": mixer.A_log.flatten(0, 1), "Ds": mixer.D.flatten(),
        "out_norm.weight": mixer.out_norm.weight, "out_norm.bias": mixer.out_norm.bias,
    }  # fmt: skip
    read = from_original(ORIGINAL, weights, d_model=4, d_state=1, d_conv=0, forward_type=forward_type)
    assert read.gate == wanted
    x = torch.randn(1, 3, 4, 4)
    assert torch.equal(read(x), mixer(x))


def test_errors_say_what_to_do():
    cases = {
        r"forward_type='v05_oact'.*checked.*Remedy": lambda: from_original(
            ORIGINAL, {}, d_model=4, forward_type="v05_oact"
        ),
        r"act_layer='gelu'": lambda: from_original(ORIGINAL, {}, d_model=4, act_layer="gelu"),
        r"gate 'slu'.*did you mean 'silu'": lambda: SS2D(4, gate="slu"),
        r"d_conv=2.*odd": lambda: SS2D(4, d_conv=2),
        r"orders='row'.*Remedy": lambda: SS2D(4, orders="row"),
        r"scan order 'rw'": lambda: SS2D(4, orders=["rw"]),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
