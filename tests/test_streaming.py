"""Exact online convolution against the direct sum, for every way of feeding the same signal."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seqconv.streaming import init_online, online_prefill, online_step

both = pytest.mark.parametrize("smooth", [False, True], ids=["fractal", "smooth"])


def signal(*shape: int, seed: int = 0, dtype=torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def direct(u: Tensor, taps: Tensor) -> Tensor:
    """y_t = sum_s h[s] u_{t-s}, lag by lag."""
    taps = taps.repeat(u.shape[2] // taps.shape[0], 1)
    y = torch.zeros_like(u)
    for s in range(min(taps.shape[1], u.shape[1])):
        y[:, s:] += taps[:, s] * u[:, : u.shape[1] - s]
    return y


def feed(u: Tensor, state, cuts: list[int]):
    """Pieces between the cuts, those of one token through ``online_step``."""
    pieces = []
    for start, end in pairwise([0, *cuts, u.shape[1]]):
        if end == start + 1:
            y, state = online_step(u[:, start], state)
            pieces.append(y[:, None])
        elif end > start:
            y, state = online_prefill(u[:, start:end], state)
            pieces.append(y)
    return torch.cat(pieces, dim=1), state


@both
@pytest.mark.parametrize("block", [1, 2, 4, 16])
@pytest.mark.parametrize("taps", [1, 2, 3, 5, 16, 17, 33, 100, 128, 129])
def test_steps_are_the_direct_sum_also_beyond_the_filter(smooth, block, taps):
    length = 150
    u, h = signal(2, length, 3), signal(3, taps, seed=1)
    got, _ = feed(u, init_online(h, 2, smooth=smooth, block=block), list(range(1, length)))
    torch.testing.assert_close(got, direct(u, h), rtol=1e-11, atol=1e-11)


@both
@settings(max_examples=80)
@given(
    block=st.sampled_from([1, 4, 8]),
    taps=st.integers(1, 90),
    length=st.integers(1, 120),
    cuts=st.lists(st.integers(1, 119), max_size=8),
    stepwise=st.integers(0, 40),
    heads=st.sampled_from([1, 3]),
)
def test_any_split_into_chunks_and_steps_is_the_direct_sum(smooth, block, taps, length, cuts, stepwise, heads):
    u, h = signal(1, length, 2 * heads), signal(2, taps, seed=1)
    start = min(cuts, default=0)
    places = sorted({c for c in [*cuts, *range(start, start + stepwise)] if 0 < c < length})
    got, _ = feed(u, init_online(h, 1, heads=heads, smooth=smooth, block=block), places)
    torch.testing.assert_close(got, direct(u, h), rtol=1e-11, atol=1e-11)
