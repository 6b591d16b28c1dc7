"""The Vandermonde and Cauchy products in Triton against the reference, run by test_triton.py."""

import pytest
import torch
from scan_cases import values_and_gradients
from triton_cases import DEVICE, check_operator

from seqconv_kernels import cauchy, vandermonde
from seqconv_kernels.ssm_kernel import triton as implementation
from seqconv_kernels.ssm_kernel.cases import Shape, example_poles
from seqconv_kernels.ssm_kernel.parts import to_parts
from tolerances import assert_near

PRODUCTS = pytest.mark.parametrize("product", [vandermonde, cauchy])
PRECISE = pytest.mark.parametrize("dtype", [torch.complex128, torch.complex64])


def check(product, weights, poles, length, dtype=torch.float64):
    def run(implementation):
        return lambda w, p: (product(w, p, length, implementation=implementation),)

    got = values_and_gradients(run("triton"), {"w": weights.to(DEVICE), "p": poles.to(DEVICE)})
    wide = torch.complex128 if weights.is_complex() else torch.float64
    want = values_and_gradients(run("reference"), {"w": weights.to(wide), "p": poles.to(wide)})
    for name, tensor in want.items():
        assert_near(got[name].cpu(), tensor, dtype=dtype, what=name)


@PRODUCTS
@PRECISE
@pytest.mark.parametrize("length", [1, 2, 63, 130])
@pytest.mark.filterwarnings("ignore:Casting complex values to real:UserWarning")
def test_values_and_gradients(product, dtype, length):
    check(product, *example_poles(Shape(2, 3, 4, length), dtype=dtype), length, dtype.to_real())


@PRODUCTS
@pytest.mark.filterwarnings("ignore:Casting complex values to real:UserWarning")
def test_more_tiles_poles_and_shares_than_one(product, monkeypatch):
    monkeypatch.setattr(implementation, "COARSE", 16)
    monkeypatch.setattr(implementation, "FINE", 16)
    monkeypatch.setattr(implementation, "BACKWARD_FINE", 16)
    monkeypatch.setattr(implementation, "SHARE", 128)
    check(product, *example_poles(Shape(1, 2, 35, 700), dtype=torch.complex128), 700)


def test_real_poles():
    rng = torch.Generator().manual_seed(0)
    weights, poles = torch.randn(2, 3, 5, generator=rng).double(), -torch.rand(3, 5, generator=rng).double()
    check(vandermonde, weights, poles, 70)


def test_phases_are_exact_at_a_million_lags(monkeypatch):
    """The last taps of slowly decaying poles, in float32, against float64."""
    length, first = 1_000_000, 999_900
    poles = torch.complex(torch.full((1, 3), -1e-6), torch.tensor([[0.1, 1.3, 3.1]]))
    weights = torch.ones(1, 1, 3, dtype=torch.complex64)
    if DEVICE == "cpu":  # in tiles that the interpreter gets through
        monkeypatch.setattr(implementation, "FINE", 1024)
        monkeypatch.setattr(implementation, "COARSE", 512)
    got = vandermonde(weights.to(DEVICE), poles.to(DEVICE), length, implementation="triton").cpu()
    wide = poles.to(torch.complex128)
    want = vandermonde(weights * torch.exp(wide * first), wide, length - first, implementation="reference")
    assert_near(got[..., first:], want, dtype=torch.float32)


@PRODUCTS
def test_is_an_operator_and_takes_empty_channels(product):
    weights, poles = (t.to(DEVICE) for t in example_poles(Shape(1, 1, 2, 5), dtype=torch.complex128))
    name = f"{product.__name__}_triton"
    check_operator(getattr(torch.ops.seqconv, name).default, to_parts(weights), to_parts(poles), 5)
    assert product(weights[:, :0], poles[:0], 5, implementation="triton").shape[:2] == (1, 0)


@PRODUCTS
def test_comes_first(product):
    weights, poles = (t.to(DEVICE) for t in example_poles(Shape(1, 2, 2, 9), dtype=torch.complex64))
    assert torch.equal(product(weights, poles, 9), product(weights, poles, 9, implementation="triton"))


def test_an_unsupported_dtype_raises():
    weights, poles = torch.zeros(1, 2, 3, dtype=torch.bfloat16), torch.zeros(2, 3, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"residues has dtype torch.bfloat16, wanted float32, float64, complex64"):
        vandermonde(weights.to(DEVICE), poles.to(DEVICE), 9, implementation="triton")
