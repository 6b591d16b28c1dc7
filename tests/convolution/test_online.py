"""Exact online convolution against the direct sum, for every way of feeding the same signal."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seqconv.convolution import init_online, online_prefill, online_step

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
@pytest.mark.parametrize("block", [1, 4, 16])
@pytest.mark.parametrize("taps", [1, 2, 5, 16, 17, 33, 64, 65])
def test_steps_are_the_direct_sum_also_beyond_the_filter(smooth, block, taps):
    length = 90
    u, h = signal(2, length, 3), signal(3, taps, seed=1)
    got, _ = feed(u, init_online(h, 2, smooth=smooth, block=block), list(range(1, length)))
    torch.testing.assert_close(got, direct(u, h), rtol=1e-11, atol=1e-11)


@both
@settings(max_examples=50)
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


@both
@pytest.mark.parametrize("cuts", [[], [5, 6, 7, 20], list(range(1, 40)), [30, 31, 32, 33, 36]])
def test_gradients_are_those_of_the_direct_sum(smooth, cuts):
    u, h, weight = signal(2, 40, 2), signal(2, 23, seed=1), signal(2, 40, 2, seed=2)

    def gradients(convolve):
        leaves = u.clone().requires_grad_(), h.clone().requires_grad_()
        return torch.autograd.grad((convolve(*leaves) * weight).sum(), leaves)

    got = gradients(lambda u, h: feed(u, init_online(h, 2, smooth=smooth, block=4), cuts)[0])
    for a, b in zip(got, gradients(direct), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@both
def test_outputs_handed_out_do_not_change_later(smooth):
    u, h = signal(1, 60, 2), signal(2, 60, seed=1)
    state, outputs = init_online(h, 1, smooth=smooth, block=4), []
    for t in range(60):
        y, state = online_step(u[:, t], state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, dim=1), direct(u, h), rtol=1e-11, atol=1e-11)


@both
def test_a_cloned_state_branches_and_rows_can_be_selected(smooth):
    u, h = signal(3, 50, 2), signal(2, 40, seed=1)
    _, state = feed(u[:, :30], init_online(h, 3, smooth=smooth, block=4), [20, 21, 22])
    rows = torch.tensor([2, 0, 0, 1])
    branch, copy = state.clone(), state.clone().select(rows)
    feed(signal(3, 9, 2, seed=5), state, list(range(1, 9)))
    want = direct(u, h)[:, 30:]
    torch.testing.assert_close(feed(u[:, 30:], branch, list(range(1, 20)))[0], want, rtol=1e-11, atol=1e-11)
    got, _ = feed(u[rows][:, 30:], copy, list(range(1, 20)))
    torch.testing.assert_close(got, want[rows], rtol=1e-11, atol=1e-11)


@both
def test_autograd_inference_mode_and_no_grad_may_alternate(smooth):
    u, h = signal(1, 40, 2), signal(2, 40, seed=1).requires_grad_()
    state, pieces = init_online(h, 1, smooth=smooth, block=4), []
    for t in range(40):
        with (torch.inference_mode, torch.no_grad, torch.enable_grad)[t % 3]():
            y, state = online_step(u[:, t], state)
        pieces.append(y.clone().detach())
    torch.testing.assert_close(torch.stack(pieces, dim=1), direct(u, h.detach()), rtol=1e-11, atol=1e-11)


@both
def test_float32_sums_stay_exact_over_long_streams(smooth):
    u, h = signal(1, 2000, 2), signal(2, 1024, seed=1) * torch.exp(-torch.arange(1024.0) / 300)
    with torch.no_grad():
        state = init_online(h.float(), 1, smooth=smooth)
        y, state = online_prefill(u[:, :700].float(), state)
        rest, _ = feed(u[:, 700:].float(), state, list(range(1, 1300)))
    want = direct(u, h)
    error = (torch.cat([y, rest], dim=1).double() - want).norm() / want.norm()
    assert error < 1e-6


@both
def test_half_precision_signals_are_summed_in_float32(smooth):
    u, h = signal(1, 200, 2, dtype=torch.bfloat16), signal(2, 200, seed=1, dtype=torch.float32)
    y, _ = feed(u, init_online(h, 1, smooth=smooth), list(range(1, 200)))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), direct(u.double(), h.double()), rtol=5e-3, atol=1e-3)


def test_memory_grows_with_the_context_and_stops_at_the_filter():
    u, h = signal(1, 700, 1), signal(1, 257, seed=1)
    state = init_online(h, 1, block=8)
    for t in range(700):
        _, state = online_step(u[:, t], state)
        assert state.past.shape[1] <= min(256, max(8, 2 * t))
    assert state.past.shape[1] == state.reach == 256
    assert [s.shape[1] for s in state.spectra] == [8, 16, 32, 64, 128, 256]


def test_the_smooth_variant_transforms_few_channels_at_each_token(monkeypatch):
    """Work is bounded: the largest transform of a token, channels times size, stays near the mean over tokens."""
    from seqconv.convolution import smooth as module

    work, transform = [0], torch.fft.rfft

    def counted(x, n):
        work[-1] += x.shape[:-1].numel() * n
        return transform(x, n=n)

    u, h = signal(1, 512, 64), signal(64, 512, seed=1)
    state = init_online(h, 1, smooth=True, block=32)
    monkeypatch.setattr(module.torch.fft, "rfft", counted)
    for t in range(512):
        work.append(0)
        _, state = online_step(u[:, t], state)
    assert len(state.before) == 3
    assert max(work) <= 8 * 64 * 2
    assert sum(work) > 0


@both
def test_empty_batches_and_single_taps(smooth):
    y, state = online_prefill(signal(0, 9, 2), init_online(signal(2, 3), 0, smooth=smooth, block=2))
    y_t, _ = online_step(signal(0, 2), state)
    assert (y.shape, y_t.shape) == ((0, 9, 2), (0, 2))


@pytest.mark.parametrize("block", [0, 3, -4])
@both
def test_odd_blocks_and_empty_filters_raise(smooth, block):
    with pytest.raises(ValueError, match=rf"init_online: received 4 taps, block={block}; .*power of two.*Remedy"):
        init_online(signal(2, 4), 1, smooth=smooth, block=block)
    with pytest.raises(ValueError, match=r"0 taps.*at least one tap"):
        init_online(signal(2, 0), 1, smooth=smooth)


@both
def test_no_value_is_read_back_from_the_device(smooth):
    """The meta device has no values: whatever looked at one (``.item()``, a shape that depends on data) would raise."""
    state = init_online(signal(3, 150).to("meta"), 2, smooth=smooth, block=8)
    y, state = online_prefill(torch.empty(2, 30, 3, device="meta"), state)
    assert y.shape == (2, 30, 3)
    for _ in range(100):
        y, state = online_step(torch.empty(2, 3, device="meta"), state)
    assert (y.shape, y.device.type, state.position) == ((2, 3), "meta", 100)


def test_the_native_and_the_readable_form_go_on_with_each_others_states(monkeypatch):
    from seqconv_kernels._core import native

    u, h = signal(2, 300, 5), signal(5, 260, seed=1)
    state, pieces = init_online(h, 2, block=16), []
    for t in range(300):
        with monkeypatch.context() as patch:
            if t % 70 < 35:
                patch.setattr(native, "unavailable", lambda: "left out here")
            y, state = online_step(u[:, t], state)
        pieces.append(y)
    torch.testing.assert_close(torch.stack(pieces, dim=1), direct(u, h), rtol=1e-11, atol=1e-11)
