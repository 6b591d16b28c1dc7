"""Vandermonde and Cauchy products: every implementation against the definition, gradients, extremes, errors."""

import pytest
import torch

from seqconv_kernels import cauchy, vandermonde
from seqconv_kernels._core import native
from seqconv_kernels.ssm_kernel import half_angle_nodes
from seqconv_kernels.ssm_kernel.cases import SHAPES, Shape, example_poles
from tolerances import assert_near

LENGTHS = [1, 2, 3, 63, 64, 65, 1000]
compiled = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
FAST = pytest.mark.parametrize("implementation", ["chunked", pytest.param("cpu", marks=compiled)])
EACH = pytest.mark.parametrize("implementation", ["chunked", "reference", pytest.param("cpu", marks=compiled)])
PRODUCTS = pytest.mark.parametrize("product", [vandermonde, cauchy])


def inputs(shape=SHAPES["tiny"], dtype=torch.complex128):
    return example_poles(shape, dtype=dtype)


@EACH
@pytest.mark.parametrize("length", LENGTHS)
def test_vandermonde_is_a_sum_of_powers(implementation, length):
    residues, log_poles = inputs()
    lags = torch.arange(length)
    want = (residues[..., None] * log_poles.exp()[..., None] ** lags).sum(-2).real
    assert_near(vandermonde(residues, log_poles, length, implementation=implementation), want)


@EACH
def test_vandermonde_of_real_poles(implementation):
    residues, log_poles = torch.randn(2, 3, 4).double(), -torch.rand(3, 4).double()
    want = (residues[..., None] * log_poles.exp()[..., None] ** torch.arange(40)).sum(-2)
    assert_near(vandermonde(residues, log_poles, 40, implementation=implementation), want)


@EACH
@pytest.mark.parametrize("length", LENGTHS)
def test_cauchy_is_the_resolvent_under_the_bilinear_transform(implementation, length):
    v, poles = inputs()
    omega = torch.exp(-2j * torch.pi / length * torch.arange(length // 2 + 1).double())
    finite = (omega + 1).abs() > 1e-8
    g = (2 * (1 - omega) / (1 + omega))[finite]
    want = sum((a[..., None] / (g - p[..., None])).sum(-2) for a, p in ((v, poles), (v.conj(), poles.conj())))
    cosine = half_angle_nodes(length, v)[1]
    got = cauchy(v, poles, length, implementation=implementation)
    assert_near(got[..., finite] * cosine[finite], want)
    if not finite.all():
        assert cosine[-1] == 0
        assert_near(got[..., -1] * 1j, v.real.sum(-1).to(v.dtype), what="limit at omega = -1")


def values_and_gradients(product, weights, poles, length, implementation):
    leaves = [t.detach().clone().requires_grad_() for t in (weights, poles)]
    y = product(*leaves, length, implementation=implementation)
    weight = torch.randn(y.shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y.detach(), *torch.autograd.grad((y * weight).real.sum(), leaves)]


@FAST
@PRODUCTS
@pytest.mark.parametrize("length", [1, 2, 9, 63, 64, 65, 1000])
@pytest.mark.filterwarnings("ignore:Casting complex values to real:UserWarning")
def test_gradients_equal_those_of_the_reference(implementation, product, length):
    got, want = (values_and_gradients(product, *inputs(), length, i) for i in (implementation, "reference"))
    for mine, exact in zip(got, want, strict=True):
        assert_near(mine, exact)


@FAST
@PRODUCTS
def test_gradients_by_finite_differences(implementation, product):
    leaves = [t[..., :2].clone().requires_grad_() for t in inputs()]
    assert torch.autograd.gradcheck(
        lambda *x: torch.view_as_real(product(*x, 6, implementation=implementation) + 0j), leaves
    )


def test_blocks_of_frequencies_change_nothing(monkeypatch):
    v, poles = inputs()
    want = cauchy(v, poles, 100, implementation="reference")
    monkeypatch.setattr("seqconv_kernels.ssm_kernel.chunked.BLOCK", 12 * 7)
    assert_near(cauchy(v, poles, 100, implementation="chunked"), want)
    leaves = [t.clone().requires_grad_() for t in (v, poles)]
    for got, whole in zip(
        torch.autograd.grad(cauchy(*leaves, 100, implementation="chunked").abs().sum(), leaves),
        torch.autograd.grad(cauchy(*leaves, 100, implementation="reference").abs().sum(), leaves),
        strict=True,
    ):
        assert_near(got, whole)


@FAST
@PRODUCTS
def test_float32_at_a_long_length(implementation, product):
    shape = Shape(1, 2, 16, 4096)
    got = product(*inputs(shape, torch.complex64), shape.length, implementation=implementation)
    assert_near(got, product(*inputs(shape), shape.length, implementation="reference"))


@FAST
def test_vandermonde_never_holds_poles_times_taps(implementation):
    """The largest tensor that autograd keeps is far below channels x poles x length."""
    shape, largest = Shape(1, 4, 16, 4096), 0

    def note(t):
        nonlocal largest
        largest = max(largest, t.numel())
        return t

    leaves = [t.requires_grad_() for t in inputs(shape, torch.complex64)]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        vandermonde(*leaves, shape.length, implementation=implementation).sum().backward()
    assert 0 < largest <= 4 * 16 * 2 * 128


@FAST
@PRODUCTS
def test_autocast_does_not_narrow_the_products(implementation, product):
    v, poles = inputs(dtype=torch.complex64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = product(v, poles, 65, implementation=implementation)
    torch.testing.assert_close(got, product(v, poles, 65, implementation=implementation), rtol=0, atol=0)


@FAST
@PRODUCTS
def test_compiles_and_takes_empty_channels(implementation, product, unannotated):
    leaves = [t.requires_grad_() for t in inputs()]

    def loss(a, b):
        y = product(a.conj(), b.conj(), 33, implementation=implementation)
        return (y * torch.arange(y.shape[-1])).abs().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert_near(compiled(*leaves), loss(*leaves))
    for got, want in zip(
        torch.autograd.grad(compiled(*leaves), leaves), torch.autograd.grad(loss(*leaves), leaves), strict=True
    ):
        assert_near(got, want)
    assert product(leaves[0][:, :0], leaves[1][:0], 33, implementation=implementation).shape[:2] == (2, 0)


def test_cauchy_is_a_well_behaved_operator():
    cauchy(*inputs(), 9, implementation="chunked")
    rows, squares, real = torch.randn(3, 4, 5), torch.rand(3, 5) + 1, -torch.rand(3, 5) - 0.1
    leaves = [t.double().requires_grad_() for t in (rows, squares, real)]
    torch.library.opcheck(torch.ops.seqconv.cauchy, (*leaves, 9))


@PRODUCTS
def test_bad_input(product, unannotated):
    v, poles = inputs()
    name = product.__name__
    for pattern, use in {
        r"of shape \(2, 3, 4\) and .* of shape \(2, 4\).*\(heads, channels, d_state\)": lambda: product(
            v, poles[:2], 9
        ),
        r"=0; wanted at least 1": lambda: product(v, poles, 0),
        r"complex128 on cpu\) and .*complex64.*one dtype": lambda: product(v, poles.to(torch.complex64), 9),
        r"'chunkd'.*did you mean 'chunked'": lambda: product(v, poles, 9, implementation="chunkd"),
    }.items():
        with pytest.raises(ValueError, match=f"{name}: received .*{pattern}"):
            use()
    with pytest.raises(ValueError, match=r"cauchy: received v of dtype torch.float64; wanted a complex dtype"):
        cauchy(v.real, poles, 9)
