"""How the compiled kernels store results: rounding to half precision, and results too large for the cache."""

import pytest
import torch

import seqconv_kernels as K
from seqconv_kernels._core import native

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
ISAS = native.library().isas() if native.unavailable() is None else []
BEYOND_CACHE = 1 << 23
"""Bytes from which on results are written past the cache (``kBeyondCache`` in ``_cpp/vec.hpp``)."""


@pytest.fixture(params=ISAS, autouse=True)
def isa(request):
    native.library().set_isa(request.param)
    yield request.param
    native.library().set_isa(ISAS[0])


def scaled_by(weights, dtype):
    """1.0 times each weight, computed in float32 and stored in ``dtype``: (length, weights)."""
    taps = torch.zeros(len(weights), 4)
    taps[:, -1] = weights
    return K.causal_conv1d(torch.ones(1, 11, len(weights), dtype=dtype), taps, implementation="cpu")[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounds_to_nearest_with_ties_to_even(dtype):
    bits = torch.randint(0x3F000000, 0x41000000, (200,), dtype=torch.int32)  # 0.5 to 8
    kept = 16 if dtype == torch.bfloat16 else 13
    ties = (bits >> kept << kept) + (1 << (kept - 1))
    extremes = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 65504.0, 1e30, 3.4e38, -3.4e38])
    weights = torch.cat([bits.view(torch.float32), ties.view(torch.float32), -ties.view(torch.float32), extremes])
    got = scaled_by(weights, dtype)
    for row in (got[0], got[5], got[-1]):  # at the begin of a sequence, inside, at its end
        torch.testing.assert_close(row, weights.to(dtype), rtol=0, atol=0, equal_nan=True)


OPS = {
    "causal_conv1d": lambda x: K.causal_conv1d(x, torch.ones(x.shape[2], 4) / 3, activation="silu"),
    "linear_scan": lambda x: K.linear_scan(x / 8, x),
    "fft_conv": lambda x: K.fft_conv(x, torch.ones(x.shape[2], 3) / 3),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("op", OPS)
def test_results_beyond_the_cache_equal_small_ones(op, dtype):
    channels = 4096
    length = BEYOND_CACHE // (channels * dtype.itemsize) + 3
    x = torch.randn(1, length, channels).to(dtype)
    whole = OPS[op](x)
    assert whole.nbytes > BEYOND_CACHE
    parts = [OPS[op](part.contiguous()) for part in x.split(channels // 4, dim=2)]
    assert torch.equal(whole, torch.cat(parts, dim=2))
