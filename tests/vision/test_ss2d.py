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


@pytest.mark.parametrize("size", [(4, 5), (1, 3), (5, 7)])
@pytest.mark.parametrize("d_state", [1, 3])
def test_every_direction_is_a_scan_of_its_own(size, d_state):
    """Some run along a curve from both ends, one from its end alone."""
    torch.manual_seed(0)
    orders = ["row", "hilbert", "snake_column_reversed", "hilbert_reversed", "row_reversed", "column"]
    mixer = SS2D(7, d_state=d_state, expand=3, orders=orders, dt_rank=2).double()
    u = torch.randn(2, *size, mixer.d_inner, dtype=torch.float64, requires_grad=True)
    cells, want = u.flatten(1, 2), 0.0
    for k, (name, weight) in enumerate(zip(orders, mixer.x_proj.weight.chunk(len(orders)), strict=True)):
        order = scan_order(name, *size)
        low, B, C = (cells[:, order] @ weight.T).split([2, d_state, d_state], dim=-1)
        delta, A = low @ mixer.dt_proj.weight[k].T, -mixer.A_log[k].exp()
        bias = mixer.dt_bias[k]
        y = selective_scan(cells[:, order], delta, A, B, C, mixer.D[k], delta_bias=bias, delta_softplus=True)
        want = want + y[:, torch.argsort(order)]
    got = mixer._scan(u, None).flatten(1, 2)
    assert_close(got, want, 1e-10, 1e-12)
    weight = torch.randn_like(want)
    of_scan = (mixer.x_proj.weight, mixer.dt_proj.weight, mixer.A_log, mixer.D, mixer.dt_bias)
    gradients = [torch.autograd.grad((y * weight).sum(), (u, *of_scan)) for y in (got, want)]
    for pair in zip(*gradients, strict=True):
        assert_close(*pair, 1e-10, 1e-12)


def test_directions_of_smaller_images():
    """Under a mask each image is scanned as if alone, along every curve from both ends."""
    torch.manual_seed(0)
    mixer = SS2D(5, d_state=2, orders=["row", "row_reversed", "column_reversed", "column"]).double()
    u = torch.randn(2, 4, 5, mixer.d_inner, dtype=torch.float64)
    mask = torch.zeros(2, 4, 5, dtype=torch.bool)
    mask[0], mask[1, :3, :2] = True, True
    got = mixer._scan(u, mask)
    assert_close(got[:1], mixer._scan(u[:1], None), 1e-10, 1e-12)
    assert_close(got[1:, :3, :2], mixer._scan(u[1:, :3, :2], None), 1e-10, 1e-12)


def test_all_directions_are_one_call():
    mixer, x = SS2D(8, d_state=2).eval(), torch.randn(1, 5, 6, 8)
    with torch.no_grad():
        mixer(x)  # makes the orders
        with torch.profiler.profile() as profile:
            mixer(x)
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["seqconv::cross_selective_scan"] == 1
    assert not {"aten::index_select", "aten::gather", "aten::flip"} & set(calls)


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
