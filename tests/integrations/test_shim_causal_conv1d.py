"""seqconv.integrations.causal_conv1d: golden numbers of the original, plain loops, states moved on in place."""

import json

import pytest
import torch
from plain_loops import convolution, runs
from scan_cases import assert_same, check_golden, values_and_gradients

from golden_cases import GOLDEN, assert_close, load_variant
from seqconv.integrations.causal_conv1d import (
    causal_conv1d_fn,
    causal_conv1d_ref,
    causal_conv1d_update,
    causal_conv1d_update_ref,
    causal_conv1d_varlen_states,
)
from tolerances import assert_near

VARIANTS = json.loads((GOLDEN / "scan/causal_conv1d/case.json").read_text())["variants"]
both = pytest.mark.parametrize("fn", [causal_conv1d_fn, causal_conv1d_ref])
both_updates = pytest.mark.parametrize("update", [causal_conv1d_update, causal_conv1d_update_ref])


def filters(width=4, channels=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(width)
    return torch.randn(channels, width, generator=generator, dtype=dtype), torch.randn(channels, dtype=dtype)


@both
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name.startswith("w")])
def test_golden_numbers_and_gradients(variant, fn):
    case = load_variant("scan/causal_conv1d", variant)
    silu = "swish" if "silu" in variant or variant == "w4_short_len2_finalstates" else None
    index = case.tensors.get("const.seq_idx")

    def call(x, weight, bias=None, initial_states=None):
        if index is not None:
            return {"y": fn(x, weight, bias, seq_idx=index, activation=silu)}
        y, last = fn(x, weight, bias, initial_states=initial_states, return_final_states=True, activation=silu)
        return {"y": y, "final_states": last}

    check_golden(case, call)


@both_updates
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name.startswith("update")])
def test_golden_steps(variant, update):
    case = load_variant("scan/causal_conv1d", variant)
    t = {name: tensor.double() for name, tensor in case.group("in").items()}
    state = t["conv_state"].clone()
    ring = case.tensors.get("const.cache_seqlens")
    y = update(t["x"], state, t["weight"], t["bias"], activation="silu", cache_seqlens=ring)
    assert_close(y, case.tensors["out.y"], 1e-9, 1e-10, "y")
    assert_close(state, case.tensors["out.conv_state_after"], 1e-9, 1e-10, "state")


def test_the_reference_takes_the_arguments_of_the_original_in_their_order():
    weight, bias = filters()
    x, before = torch.randn(2, 5, 7).double(), torch.randn(2, 5, 3).double()
    out = torch.empty_like(before)
    got = causal_conv1d_ref(x, weight, bias, before, True, out, "silu")
    want = causal_conv1d_fn(x, weight, bias, None, before, True, None, "silu")
    assert got[1] is out
    for result, reference in zip(got, want, strict=True):
        assert_near(result, reference)


def test_golden_states_of_packed_sequences():
    case = load_variant("scan/causal_conv1d", "varlen_states")
    want = case.tensors["out.y"]
    got = causal_conv1d_varlen_states(case.tensors["in.x"], case.tensors["const.cu_seqlens"], want.shape[-1])
    assert torch.equal(got.to(want.dtype), want)


@both
def test_every_row_has_its_own_sequences_and_padding_gives_zeros(fn):
    weight, bias = filters()
    x = torch.randn(3, 5, 12, dtype=torch.float64)
    index = torch.tensor([[0] * 5 + [1] * 7, [-1] * 3 + [7] + [2] * 5 + [-1] * 3, [4] * 12], dtype=torch.int32)
    y = fn(x, weight, bias, seq_idx=index, activation="silu")
    for row, numbers in enumerate(index):
        for number, first, end in runs(numbers):
            want = convolution(x[row, :, first:end], weight, bias, silu=True)
            assert_near(y[row, :, first:end], want * (number != -1), dtype=torch.float64)
    alone = lambda x, weight, bias: (  # noqa: E731
        torch.cat([torch.zeros(1, 5, 3), fn(x[..., 3:4], weight, bias), fn(x[..., 4:9], weight, bias),
                   torch.zeros(1, 5, 3)], dim=-1),
    )  # fmt: skip
    inputs = {"x": x[1:2], "weight": weight, "bias": bias}
    packed = lambda x, weight, bias: (fn(x, weight, bias, seq_idx=index[1:2]),)  # noqa: E731
    assert_same(values_and_gradients(packed, inputs), values_and_gradients(alone, inputs))


def test_final_states_are_written_where_asked():
    weight, bias = filters()
    x = torch.randn(2, 7, 5).mT
    out = torch.empty(2, 3, 5).mT
    y, last = causal_conv1d_fn(x, weight.float(), bias.float(), return_final_states=True, final_states_out=out)
    assert last is out
    assert torch.equal(out, x[..., -3:])
    assert y.shape == x.shape


@both_updates
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2, 9])
@pytest.mark.parametrize("length", [3, 5])
def test_rows_of_a_pool_are_moved_on_and_others_stay(update, dtype, ring, steps, length):
    """``steps`` 0 is one token without a time axis."""
    weight, bias = filters()
    pool = torch.randn(6, 5, length, dtype=dtype)
    before, x = pool.clone(), torch.randn(3, 5, max(steps, 1), dtype=dtype)
    rows = torch.tensor([4, -1, 0], dtype=torch.int32)
    seen = torch.tensor([11, 3, 5], dtype=torch.int32) if ring else None
    y = update(x if steps else x[..., 0], pool, weight, bias, "silu", seen, rows)
    y = y if steps else y[..., None]
    assert y.dtype == dtype
    assert not y[1].any()
    for row, place in ((0, 4), (2, 0)):
        start = int(seen[row]) if ring else 0
        order = [(start + i) % length for i in range(length)]  # the oldest input first
        history = torch.cat([before[place][:, order], x[row]], dim=1)
        want = convolution(x[row].double(), weight, bias, history[:, length - 3 : length].double(), silu=True)
        assert_near(y[row], want, dtype=dtype)
        newest = [(start + x.shape[-1] + i) % length for i in range(length)] if ring else order
        assert torch.equal(pool[place][:, newest], history[:, -length:])
    untouched = [1, 2, 3, 5]
    assert torch.equal(pool[untouched], before[untouched])


@pytest.mark.parametrize("width", [2, 4])
def test_drafts_of_which_some_were_kept(width):
    """Two calls of three tokens; of the first call's one, two or all were kept."""
    weight, bias = filters(width)
    history, first, second = (torch.randn(4, 5, n).double() for n in (width - 1, 3, 3))
    pool, rows, kept = torch.randn(6, 5, width + 2).double(), torch.tensor([4, 0, -1, 2]), torch.tensor([1, 2, 1, 3])
    there = [0, 1, 3]
    pool[rows[there], :, : width - 1] = history[there]
    begin, before = torch.ones_like(kept), pool.clone()
    y = causal_conv1d_update(first, pool, weight, bias, "silu", conv_state_indices=rows, num_accepted_tokens=begin)
    again = causal_conv1d_update(second, pool, weight, bias, "silu", conv_state_indices=rows, num_accepted_tokens=kept)
    for row in there:
        assert_near(y[row], convolution(first[row], weight, bias, history[row], silu=True))
        inputs = torch.cat([history[row], first[row, :, : kept[row]]], dim=1)[:, 1 - width :]
        assert_near(again[row], convolution(second[row], weight, bias, inputs, silu=True))
    assert not again[2].any()
    assert torch.equal(pool[[1, 3, 5]], before[[1, 3, 5]])
    with pytest.raises(ValueError, match=f"conv_state of {width - 1} inputs; wanted at least {width + 1}"):
        causal_conv1d_update(first, history, weight, bias, num_accepted_tokens=begin)
    with pytest.raises(ValueError, match="with num_accepted_tokens: received cache_seqlens"):
        causal_conv1d_update(first, pool[:4], weight, bias, cache_seqlens=kept, num_accepted_tokens=kept)


def test_what_is_not_served_raises():
    weight, bias = filters()
    x, index = torch.randn(1, 5, 6, dtype=torch.float64), torch.zeros(1, 6, dtype=torch.int32)
    with pytest.raises(ValueError, match="seq_idx together with states"):
        causal_conv1d_fn(x, weight, bias, seq_idx=index, return_final_states=True)
    with pytest.raises(ValueError, match=r"seq_idx of shape \(1, 5\)"):
        causal_conv1d_fn(x, weight, bias, seq_idx=index[:, :5])
    with pytest.raises(ValueError, match="activation 'gelu'"):
        causal_conv1d_fn(x, weight, bias, activation="gelu")
    with pytest.raises(ValueError, match="conv_state of 2 inputs"):
        causal_conv1d_update(x[..., 0], torch.zeros(1, 5, 2), weight, bias)
    with pytest.raises(ValueError, match="conv_state_indices of shape"):
        causal_conv1d_update(x[..., 0], torch.zeros(1, 5, 3), weight, bias, conv_state_indices=torch.tensor([0, 1]))


@pytest.mark.slow
def test_compiled(unannotated):
    weight, bias = filters(dtype=torch.float32)
    x, state = torch.randn(2, 5, 9), torch.randn(2, 5, 4)
    index = torch.tensor([[0] * 4 + [1] * 5, [0] * 9])

    def call(x, state):
        y = causal_conv1d_fn(x, weight, bias, seq_idx=index, activation="silu")
        return y, causal_conv1d_update(x[..., 0], state, weight, bias, "silu")

    states = state.clone(), state.clone()
    want, got = call(x, states[0]), torch.compile(call)(x, states[1])
    for one, other in zip(got, want, strict=True):
        assert_near(one, other)
    assert torch.equal(*states)
