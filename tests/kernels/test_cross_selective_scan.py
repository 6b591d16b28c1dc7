"""The cross scan: every implementation against the reference, in values and gradients; layouts, threads, errors."""

import pytest
import torch
from scan_cases import assert_same, values_and_gradients

import seqconv_kernels as K
from seqconv_kernels._core import native
from seqconv_kernels.cross_selective_scan.cases import SHAPES, Shape, example_inputs
from tolerances import assert_near

ISAS = native.library().isas() if native.unavailable() is None else []
compiled = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
implementations = pytest.mark.parametrize("implementation", [pytest.param("cpu", marks=compiled), "gathered"])
SHAPES_OF_ALL_KINDS = [
    Shape(2, 5, 7, 24, 3),
    Shape(1, 1, 1, 1, 1, 1),  # a single cell
    Shape(3, 4, 9, 40, 1, 3),  # chunks and vectors that are not full
    Shape(1, 8, 16, 300, 17, 5),  # several tiles, and states beyond a band
]


@pytest.fixture
def restored_isa():
    yield
    native.library().set_isa(ISAS[0])


def scan(implementation, orders):
    def run(**tensors):
        options = {"orders": orders, "delta_softplus": True, "implementation": implementation}
        return (K.cross_selective_scan(**tensors, **options),)

    return run


def example(shape, dtype=torch.float32):
    """The floating inputs, and the orders."""
    inputs = example_inputs(shape, dtype=dtype)
    orders = inputs.pop("orders")
    del inputs["delta_softplus"]
    return inputs, orders


def check(implementation, inputs, orders, dtype):
    want = values_and_gradients(scan("reference", orders), {k: v.double() for k, v in inputs.items()})
    for name, got in values_and_gradients(scan(implementation, orders), inputs).items():
        assert_near(got, want[name], dtype=dtype, what=name)


@implementations
@pytest.mark.parametrize("shape", SHAPES_OF_ALL_KINDS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_agrees_with_the_reference_in_values_and_gradients(implementation, shape, dtype):
    check(implementation, *example(shape, dtype), dtype)


@implementations
def test_every_member_of_the_batch_may_have_orders_of_its_own(implementation):
    inputs, orders = example(SHAPES["tiny"])
    rng = torch.Generator().manual_seed(0)
    own = torch.stack([orders[:, torch.randperm(orders.shape[1], generator=rng)] for _ in range(2)])
    check(implementation, inputs, own, torch.float32)
    (both,) = scan(implementation, own)(**inputs)
    for row in range(2):
        one = {k: v[row : row + 1] if k in ("u", "delta", "B", "C") else v for k, v in inputs.items()}
        (alone,) = scan(implementation, own[row])(**one)
        assert_near(both[row : row + 1], alone, dtype=torch.float32)


def test_the_reference_is_the_sum_of_selective_scans():
    inputs, orders = example(SHAPES["tiny"], torch.float64)
    want = torch.zeros_like(inputs["u"])
    for k, order in enumerate(orders):
        of_direction = {n: inputs[n][:, order, k] for n in ("delta", "B", "C")}
        parameters = {n: inputs[n][k] for n in ("A", "D", "delta_bias")}
        y = K.selective_scan(
            inputs["u"][:, order], **of_direction, **parameters, delta_softplus=True, implementation="reference"
        )
        want[:, order] += y
    assert_near(scan("reference", orders)(**inputs)[0], want)


@compiled
@pytest.mark.parametrize("layout", ["by direction", "sliced", "channels first"])
def test_layouts_of_memory(layout):
    inputs, orders = example(Shape(2, 6, 6, 24, 2))
    if layout == "by direction":
        inputs["delta"] = inputs["delta"].movedim(2, 0).contiguous().movedim(0, 2)
    elif layout == "sliced":
        inputs |= {k: torch.cat([inputs[k]] * 2, -1)[..., : inputs[k].shape[-1]] for k in ("u", "delta", "B", "C")}
    else:
        inputs |= {k: inputs[k].transpose(1, -1).contiguous().transpose(1, -1) for k in ("u", "delta", "B", "C")}
    check("cpu", inputs, orders, torch.float32)
    check("cpu", inputs, orders.T.contiguous().T, torch.float32)


@compiled
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.usefixtures("restored_isa")
def test_instruction_sets(isa):
    native.library().set_isa(isa)
    for dtype in (torch.float32, torch.bfloat16):
        check("cpu", *example(Shape(1, 5, 7, 40, 5), dtype), dtype)


@compiled
def test_the_number_of_threads_changes_no_bit():
    inputs, orders = example(Shape(2, 32, 32, 160, 4))
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(values_and_gradients(scan("cpu", orders), inputs))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(other[name], value) for name, value in found[0].items())


@compiled
def test_time_steps_out_of_range_propagate():
    inputs, orders = example(SHAPES["tiny"], torch.float64)
    inputs["delta"][0, 3, 1, 5] = torch.nan
    inputs["delta"][1, 2, 0, 4] = -torch.inf
    inputs["A"][2] *= 1e4
    got, want = (scan(name, orders)(**inputs)[0] for name in ("cpu", "reference"))
    assert torch.equal(got.isnan(), want.isnan())
    assert got.isnan().any()
    assert_near(got.nan_to_num(), want.nan_to_num())


def test_orders_that_are_overwritten_are_read_again():
    inputs, orders = example(SHAPES["tiny"])
    orders = orders[None].clone()
    before = scan("gathered", orders)(**inputs)[0]
    orders.copy_(orders.flip(1))
    after = scan("gathered", orders)(**inputs)[0]
    assert_near(after, scan("reference", orders)(**inputs)[0])
    assert not torch.equal(after, before)
    orders.zero_()
    with pytest.raises(ValueError, match="an order that misses a place"):
        scan("gathered", orders)(**inputs)


def test_training_after_inference_mode():
    inputs, orders = example(SHAPES["tiny"])
    orders = orders[None].clone()
    with torch.inference_mode():
        scan("gathered", orders)(**inputs)
    check("gathered", inputs, orders, torch.float32)


def test_empty_batches_and_autocast():
    inputs, orders = example(SHAPES["tiny"])
    none = {k: v[:0] if k in ("u", "delta", "B", "C") else v for k, v in inputs.items()}
    assert K.cross_selective_scan(**none, orders=orders).shape == (0, 35, 24)
    plain = values_and_gradients(scan(None, orders), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(values_and_gradients(scan(None, orders), inputs), plain)


def twice_the_first(orders):
    return torch.cat([orders[:, :1], orders[:, 1:].clone().fill_(int(orders[0, 0]))], dim=1)


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.zeros(2, 24)}, r"u of shape \(2, 24\); wanted \(batch, length >= 1, channels\)"),
        ({"A": torch.zeros(24, 3)}, r"A of shape \(24, 3\); wanted \(directions, 24, d_state\).*stack the rates"),
        ({"delta": torch.zeros(2, 35, 24)}, r"delta of shape .*wanted \(batch, length, directions, channels\)"),
        ({"C": torch.zeros(2, 35, 4, 2)}, r"C of shape .*wanted \(batch, length, directions, d_state\)"),
        ({"D": torch.zeros(24)}, r"D of shape \(24,\); wanted \(directions, channels\) = \(4, 24\)"),
        ({"orders": torch.zeros(4, 34).long()}, r"orders of shape \(1, 4, 34\); wanted \(4, 35\).*one order"),
        ({"orders": torch.zeros(4, 35)}, r"orders of dtype torch.float32; wanted int64.*\.long\(\)"),
        ({"orders": twice_the_first}, r"an order that misses a place; wanted permutations of 0 \.\. 34"),
        ({"orders": lambda orders: orders + 1}, "an order that misses a place"),
        ({"orders": lambda orders: orders - 1}, "an order that misses a place"),
        ({"B": torch.zeros(2, 35, 4, 3).double()}, "one dtype for all activations"),
        ({"implementation": "gather"}, "did you mean 'gathered'"),
    ],
)
def test_bad_input(change, message):
    inputs = example_inputs(SHAPES["tiny"])
    change = {k: v(inputs[k]) if callable(v) else v for k, v in change.items()}
    with pytest.raises(ValueError, match=f"cross_selective_scan: received .*{message}"):
        K.cross_selective_scan(**inputs | change)
