"""The compiled diagonal scan: every instruction set against float64, the operator, threads, extremes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_cases import assert_same, check_low_precision, check_packed, values_and_gradients

from seqconv_kernels import linear_scan
from seqconv_kernels._core import native
from seqconv_kernels.linear_scan.cases import Shape, example_inputs
from tolerances import assert_near

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
ISAS = native.library().isas() if native.unavailable() is None else ["plain"]
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def run(implementation):
    def call(**inputs):
        return linear_scan(**inputs, return_final_state=True, implementation=implementation)

    return call


def strided(inputs, layout):
    """The same values in another layout."""
    tokens = {k: inputs[k] for k in ("a", "x")}
    if layout == "sliced":
        return inputs | {k: torch.cat([v, v], -1)[..., : v.shape[-1]] for k, v in tokens.items()}
    if layout == "channels first":
        return inputs | {k: v.mT.contiguous().mT for k, v in tokens.items()}
    if layout == "constant factors":
        return inputs | {"a": inputs["a"][:1, :1].expand_as(inputs["x"])}
    return inputs


@settings(max_examples=30)
@given(
    isa=st.sampled_from(ISAS),
    length=st.sampled_from((1, 2, 63, 64, 65)),
    batch=st.integers(0, 3),
    channels=st.sampled_from((0, 1, 3, 8, 17, 70)),
    dtype=st.sampled_from(DTYPES),
    state=st.booleans(),
    layout=st.sampled_from(("contiguous", "sliced", "channels first", "constant factors")),
)
def test_agrees_with_the_reference(isa, length, batch, channels, dtype, state, layout):
    inputs = example_inputs(Shape(batch, length, channels), dtype=dtype, initial_state=state)
    if batch:
        inputs = strided(inputs, layout)
    exact = {k: v.to(torch.complex128 if dtype.is_complex else torch.float64) for k, v in inputs.items()}
    native.library().set_isa(isa)
    try:
        assert_same(values_and_gradients(run("cpu"), inputs), values_and_gradients(run("reference"), exact))
    finally:
        native.library().set_isa(ISAS[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_thousand_steps(dtype):
    inputs = example_inputs(Shape(1, 1000, 3), dtype=dtype, initial_state=True)
    exact = {k: v.to(torch.complex128 if dtype.is_complex else torch.float64) for k, v in inputs.items()}
    assert_same(values_and_gradients(run("cpu"), inputs), values_and_gradients(run("reference"), exact))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_keeps_sums_in_float32(dtype):
    check_low_precision(run("cpu"), example_inputs(Shape(2, 100, 3), dtype=torch.float64), dtype)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_numbers_are_read_and_written_as_they_are(isa, dtype):
    inputs = example_inputs(Shape(1, 70, 37), dtype=dtype)
    inputs["initial_state"] = torch.randn(3, 37, generator=torch.Generator().manual_seed(2))
    exact = {k: v.double() for k, v in inputs.items()}
    bounds = {"cu_seqlens": torch.tensor([0, 1, 30, 70])}
    native.library().set_isa(isa)
    try:
        got = values_and_gradients(lambda **x: run("cpu")(**x, **bounds), inputs)
    finally:
        native.library().set_isa(ISAS[0])
    want = values_and_gradients(lambda **x: run("reference")(**x, **bounds), exact)
    assert {k: v.dtype for k, v in got.items() if v.dtype != torch.float32}.keys() == {
        "output 0", "gradient of a", "gradient of x"
    }  # fmt: skip
    for name, tensor in want.items():
        assert_near(got[name], tensor, dtype=dtype, what=name)


def test_packed_equals_separate():
    inputs = example_inputs(Shape(1, 40, 3), dtype=torch.float64)
    inputs["initial_state"] = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    check_packed(run("cpu"), run("reference"), inputs, ("a", "x"), bounds=(0, 1, 30, 40))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [(), (2, 3), (2, 0)])
def test_any_number_of_channel_axes(dtype, channels):
    a, x = (torch.rand(2, 9, *channels, dtype=dtype) for _ in range(2))
    inputs = {"a": a, "x": x}
    assert_same(values_and_gradients(run("cpu"), inputs), values_and_gradients(run("reference"), inputs))


def test_threads_do_not_change_a_bit():
    inputs, before, results = example_inputs(Shape(2, 300, 200)), torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(values_and_gradients(run("cpu"), inputs))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, results[1][name]) for name, one in results[0].items())


@pytest.mark.parametrize("isa", ISAS)
def test_resets_and_a_million_steps(isa):
    native.library().set_isa(isa)
    try:
        inputs = example_inputs(Shape(1, 90, 17), dtype=torch.float32)
        inputs["a"][:, 50] = 0
        h = linear_scan(**inputs, implementation="cpu")
        late = linear_scan(inputs["a"][:, 50:], inputs["x"][:, 50:], implementation="cpu")
        assert torch.equal(h[:, 50:], late)
        length, rate = 1_000_000, torch.tensor([0.5, 0.999, 1.0], dtype=torch.float64)
        h = linear_scan(rate.expand(1, length, 3), torch.ones(1, length, 3).double(), implementation="cpu")
        t = torch.tensor([1.0, 10.0, 777_777.0, length]).double()[:, None]
        true = torch.where(rate < 1, (1 - rate**t) / (1 - rate.clamp(max=0.9999)), t)
        for channel in range(3):
            assert_near(h[0, t[:, 0].long() - 1, channel], true[:, channel])
    finally:
        native.library().set_isa(ISAS[0])


def test_the_extension_checks_what_it_is_told():
    x, state, h = torch.zeros(2, 4, 6), torch.zeros(2, 6), torch.zeros(2, 4, 6)

    def call(a=x, x=x, start=state, bounds=None, out=h, last=state, complex_parts=False):
        views = map(native.view, (a, x, start, bounds, out, last))
        return native.library().linear_scan_forward(*views, complex_parts, 1)

    assert call(complex_parts=True) == 0
    for pattern, change in {
        r"a of dtype code 1; wanted code 0": {"a": x.double()},
        r"a of strides .*dense last axis": {"a": torch.zeros(2, 6, 4).mT},
        r"state of shape \(2, 4\); wanted \(2, 6\)": {"start": state[:, :4]},
        r"h of shape \(2, 4, 5\); wanted \(2, 4, 6\)": {"out": h[..., :5]},
        r"final_state of shape \(1, 6\); wanted \(2, 6\)": {"last": state[:1]},
        r"complex numbers are not pairs": {"x": x.half(), "a": x.half(), "out": h.half(), "complex_parts": True},
        r"h of dtype code 0; wanted code 3": {"x": x.half(), "a": x.half()},
        r"cu_seqlens for a batch of 2": {"bounds": torch.tensor([0, 4])},
    }.items():
        with pytest.raises(ValueError, match=pattern):
            call(**change)


def test_transforms_without_a_rule_raise():
    with pytest.raises(ValueError, match=r"torch\.func or forward-mode"):
        torch.func.vmap(lambda x: linear_scan(x, x, implementation="cpu"))(torch.ones(2, 1, 3, 4))
