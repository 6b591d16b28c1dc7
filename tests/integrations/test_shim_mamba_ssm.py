"""seqconv.integrations.mamba_ssm: golden numbers of the original, plain loops, states moved on in place."""

import json

import pytest
import torch
import torch.nn.functional as F
from plain_loops import convolution, runs, selective_scan, ssd
from scan_cases import assert_same, check_golden, values_and_gradients

from golden_cases import GOLDEN, assert_close, load_variant
from seqconv.integrations.mamba_ssm import (
    layer_norm_fn,
    layer_norm_linear_fn,
    mamba_chunk_scan,
    mamba_chunk_scan_combined,
    mamba_inner_fn,
    mamba_split_conv1d_scan_combined,
    rms_norm_fn,
    selective_scan_fn,
    selective_scan_ref,
    selective_state_update,
    selective_state_update_ref,
    ssd_selective_scan,
)
from tolerances import assert_near


def names(folder):
    return json.loads((GOLDEN / "scan" / folder / "case.json").read_text())["variants"]


def uniform(*shape, dtype=torch.float64):
    return torch.rand(*shape, dtype=dtype) * 2 - 1


both = pytest.mark.parametrize("fn", [selective_scan_fn, selective_scan_ref])
both_updates = pytest.mark.parametrize("update", [selective_state_update, selective_state_update_ref])


@both
@pytest.mark.parametrize("variant", names("selective_scan"))
def test_golden_scans_and_gradients(variant, fn):
    case = load_variant("scan/selective_scan", variant)
    softplus = case.meta["args"]["delta_softplus"]

    def call(u, delta, A, B, C, D=None, z=None, delta_bias=None):
        if A.dim() == 3:
            A, B, C = (torch.view_as_complex(t) if t.shape[-1] == 2 and t.dim() == 3 else t for t in (A, B, C))
        y, last = fn(u, delta, A, B, C, D, z, delta_bias, softplus, return_last_state=True)
        return {"y": y, "last_state": torch.view_as_real(last) if last.is_complex() else last}

    check_golden(case, call)


@pytest.mark.parametrize("weights", ["constant", "shared", "groups of 2", "groups of 3"])
def test_b_and_c_differ_in_kind_and_time_steps_are_negative(weights):
    """B of every kind with a C of six groups' worth of channels in threes; no softplus."""
    channels, d_state, length = 6, 2, 5
    u, delta, A = uniform(1, channels, length), uniform(1, channels, length), -torch.rand(channels, d_state).double()
    B = {
        "constant": uniform(channels, d_state),
        "shared": uniform(1, d_state, length),
        "groups of 2": uniform(1, 3, d_state, length),
        "groups of 3": uniform(1, 2, d_state, length),
    }[weights]
    C = uniform(1, 2, d_state, length)
    at = {
        "constant": lambda d, t: B[d],
        "shared": lambda d, t: B[0, :, t],
        "groups of 2": lambda d, t: B[0, d // 2, :, t],
        "groups of 3": lambda d, t: B[0, d // 3, :, t],
    }[weights]
    y, last = selective_scan_fn(u, delta, A, B, C, return_last_state=True)
    want, state = selective_scan(u[0], delta[0], A, at, lambda d, t: C[0, d // 3, :, t])
    assert_near(y[0], want)
    assert_near(last[0], state)


def test_mixed_dtypes_keep_that_of_the_input():
    u = torch.randn(2, 4, 7, dtype=torch.bfloat16)
    delta, B, C = torch.randn(2, 4, 7), torch.randn(2, 3, 7), torch.randn(2, 3, 7, dtype=torch.float16)
    y, last = selective_scan_fn(u, delta, -torch.rand(4, 3), B, C, delta_softplus=True, return_last_state=True)
    assert (y.dtype, last.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("projected", [True, False])
def test_the_inner_function_is_its_parts(kind, projected):
    batch, dim, length, rank, d_state, model = 2, 4, 6, 2, 3, 5
    wide = d_state * (2 if kind == "complex" else 1)
    dtype = torch.complex128 if kind == "complex" else torch.float64
    A = -torch.rand(dim, d_state, dtype=dtype)
    inputs = {
        "xz": uniform(batch, 2 * dim, length), "conv": uniform(dim, 1, 3), "conv_bias": uniform(dim),
        "x_proj": uniform(rank + 2 * wide, dim), "dt_proj": uniform(dim, rank), "out": uniform(model, dim),
        "out_bias": uniform(model), "A": A, "D": uniform(dim), "dt_bias": uniform(dim), "B_bias": uniform(wide),
        "C_norm": uniform(wide),
    }  # fmt: skip
    constant = None if projected else uniform(dim, d_state).to(dtype)

    def fused(xz, conv, conv_bias, x_proj, dt_proj, out, out_bias, A, D, dt_bias, B_bias, C_norm):
        y = mamba_inner_fn(
            xz, conv, conv_bias, x_proj, dt_proj, out, out_bias, A, constant, None, D, dt_bias, B_bias,
            c_rms_weight=C_norm,
        )  # fmt: skip
        return (y,)

    def parts(xz, conv, conv_bias, x_proj, dt_proj, out, out_bias, A, D, dt_bias, B_bias, C_norm):
        x = F.silu(F.conv1d(xz[:, :dim], conv, conv_bias, padding=2, groups=dim)[..., :length])
        low = torch.einsum("bdl,rd->brl", x, x_proj)
        B, C = low[:, rank : rank + wide] + B_bias[:, None], low[:, -wide:]
        C = C * (C.square().mean(1, keepdim=True) + 1e-6).rsqrt() * C_norm[:, None]
        delta = torch.einsum("brl,dr->bdl", low[:, :rank], dt_proj)
        if kind == "complex":
            B, C = (t.view(batch, d_state, 2, length).transpose(2, 3).flatten(2) for t in (B, C))
        B = B if projected else constant
        y = selective_scan_ref(x, delta, A, B, C, D, xz[:, dim:], dt_bias, delta_softplus=True)
        return (F.linear(y.mT, out, out_bias),)

    assert_same(values_and_gradients(fused, inputs), values_and_gradients(parts, inputs))


@both_updates
@pytest.mark.parametrize("variant", names("selective_state_update"))
def test_golden_steps(variant, update):
    case = load_variant("scan/selective_state_update", variant)
    t = {name: tensor.double() for name, tensor in case.group("in").items()}
    state, softplus = t["state"].clone(), case.meta["args"]["dt_softplus"]
    args = (state, t["x"], t["dt"], t["A"], t["B"], t["C"], t.get("D"), t.get("z"), t.get("dt_bias"), softplus)
    assert_close(update(*args), case.tensors["out.y"], 1e-9, 1e-10, "y")
    assert_close(state, case.tensors["out.state_after"], 1e-9, 1e-10, "state")


@both_updates
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tied", [False, True])
def test_rows_of_a_pool_are_moved_on_and_others_stay(update, dtype, tied):
    heads, width, d_state, batch = 4, 3, 2, 3
    pool = uniform(6, heads, width, d_state, dtype=dtype)
    x, z = uniform(batch, heads, width, dtype=dtype), uniform(batch, heads, width, dtype=dtype)
    B, C, D = uniform(batch, 2, d_state), uniform(batch, 2, d_state), uniform(heads, width)
    if tied:
        dt, A, bias = uniform(batch, heads, 1), -torch.rand(heads, 1, 1).double(), uniform(heads, 1)
    else:
        dt, A, bias = uniform(batch, heads, width), -torch.rand(heads, width, d_state).double(), uniform(heads, width)
    dt, A, bias = dt.expand(-1, -1, width), A.expand(-1, width, d_state), bias.expand(-1, width)
    rows, before = torch.tensor([2, -1, 5]), pool.clone()
    y = update(pool, x, dt, A, B, C, D, z, bias, dt_softplus=True, state_batch_indices=rows)
    assert y.dtype == dtype
    assert not y[1].any()
    for row, place in ((0, 2), (2, 5)):
        steps = F.softplus(dt[row].double() + bias)
        group = [0, 0, 1, 1]
        inputs = steps[..., None] * B[row][group][:, None] * x[row, ..., None].double()
        state = torch.exp(steps[..., None] * A) * before[place].double() + inputs
        want = (state * C[row][group][:, None]).sum(-1) + D * x[row].double()
        assert_near(pool[place], state, dtype=dtype)
        assert_near(y[row], want * F.silu(z[row].double()), dtype=dtype)
    assert torch.equal(pool[[0, 1, 3, 4]], before[[0, 1, 3, 4]])


@pytest.mark.parametrize("heads", [None, 2])
@pytest.mark.parametrize("kept", [True, False])
def test_sequences_of_several_tokens_and_tokens_that_were_kept(kept, heads):
    """Sequences of 2, 1 and 3 tokens; the second is not there, the third goes on from its second row."""
    lead, width, d_state, bounds = (() if heads is None else (heads,)), 3, 2, torch.tensor([0, 2, 3, 6])
    pool, tokens = uniform(9, *lead, width, d_state), [uniform(6, *lead, width) for _ in range(3)]
    B, C = uniform(6, d_state), uniform(6, d_state)
    A, D, bias = -uniform(*lead, width, d_state).abs(), uniform(*lead, width), uniform(*lead, width)
    rows, before = torch.tensor([[3, 1, 0], [-1, -1, -1], [6, 4, 8]]), pool.clone()
    x, dt, z = tokens
    given = {"num_accepted_tokens": torch.tensor([1, 1, 2])} if kept else {}
    y = selective_state_update(
        pool, x, dt, A, B, C, D, z, bias, True, state_batch_indices=rows, cu_seqlens=bounds, **given
    )
    moved = set()
    for sequence, start in ((0, 3), (2, 4 if kept else 6)):
        state, (first, end) = before[start : start + 1].clone(), bounds[sequence : sequence + 2]
        for token in range(first, end):
            row = slice(token, token + 1)
            want = selective_state_update(state, x[row], dt[row], A, B[row], C[row], D, z[row], bias, True)
            assert_near(y[row], want)
            if kept:
                assert_near(pool[rows[sequence, token - first]], state[0])
                moved.add(int(rows[sequence, token - first]))
        if not kept:
            assert_near(pool[rows[sequence, 0]], state[0])
            moved.add(int(rows[sequence, 0]))
    assert not y[2].any()
    others = [row for row in range(9) if row not in moved]
    assert torch.equal(pool[others], before[others])
    with pytest.raises(ValueError, match="cu_seqlens alone"):
        selective_state_update(pool, x, dt, A, B, C, cu_seqlens=bounds)
    with pytest.raises(ValueError, match="state_batch_indices of 2 rows for sequences of up to 3 tokens"):
        selective_state_update(
            pool, x, dt, A, B, C, state_batch_indices=rows[:, :2], num_accepted_tokens=rows[:, 0], cu_seqlens=bounds
        )


@pytest.mark.parametrize("variant", [name for name in names("ssd") if name.startswith("combined")])
def test_golden_scans_of_mamba_2(variant):
    case = load_variant("scan/ssd", variant)
    index, bounds = case.tensors.get("const.seq_idx"), case.tensors.get("const.cu_seqlens")
    limit = tuple(case.meta["args"].get("dt_limit", (0.0, float("inf"))))

    def call(x, dt, A, B, C, D, z=None, dt_bias=None, initial_states=None):
        y, last, *each = mamba_chunk_scan_combined(
            x, dt, A, B, C, 8, D, z, dt_bias, initial_states, index, bounds, True, limit, True,
            return_varlen_states=bounds is not None, state_dtype=torch.float32,
        )  # fmt: skip
        return {"y": y, "final_state": last, **({"varlen_states": each[0]} if each else {})}

    check_golden(case, call)


def test_rows_with_sequences_padding_and_states():
    batch, length, heads, width, groups, d_state = 2, 11, 4, 3, 2, 2
    x, B, C = uniform(batch, length, heads, width), *(uniform(batch, length, groups, d_state) for _ in range(2))
    dt, A, states = (
        torch.rand(batch, length, heads).double(),
        -torch.rand(heads).double(),
        uniform(batch, heads, width, d_state),
    )
    index = torch.tensor([[0] * 4 + [3] * 5 + [-1] * 2, [5] * 11])
    y, last = mamba_chunk_scan_combined(
        x, dt, A, B, C, 4, initial_states=states, seq_idx=index, return_final_states=True
    )
    for row in range(batch):
        for number, first, end in runs(index[row]):
            part = slice(first, end)
            if number == -1:
                assert not y[row, part].any()
                continue
            want, state = ssd(
                x[row, part], dt[row, part], A, B[row, part], C[row, part], states[row] if number == 0 else None
            )
            assert_near(y[row, part], want)
        assert_near(last[row], state)  # of the last sequence that is not padding


def test_states_of_packed_sequences_with_empty_ones():
    x, B, C = uniform(1, 9, 2, 3), uniform(1, 9, 1, 2), uniform(1, 9, 1, 2)
    dt, A = torch.rand(1, 9, 2).double(), -torch.rand(2).double()
    index, bounds = torch.tensor([[0] * 4 + [1] * 5]), torch.tensor([0, 4, 4, 9, 9])
    y, each = mamba_chunk_scan_combined(x, dt, A, B, C, 4, seq_idx=index, cu_seqlens=bounds, return_varlen_states=True)
    assert not each[[1, 3]].any()
    for row, part in ((0, slice(0, 4)), (2, slice(4, 9))):
        want, state = ssd(x[0, part], dt[0, part], A, B[0, part], C[0, part])
        assert_near(y[0, part], want)
        assert_near(each[row], state)
    with pytest.raises(ValueError, match="cu_seqlens without seq_idx"):
        mamba_chunk_scan_combined(x, dt, A, B, C, 4, cu_seqlens=bounds, return_varlen_states=True)
    with pytest.raises(ValueError, match="seq_idx that does not change at cu_seqlens"):
        mamba_chunk_scan_combined(
            x, dt, A, B, C, 4, seq_idx=index, cu_seqlens=torch.tensor([0, 3, 9]), return_varlen_states=True
        )
    with pytest.raises(ValueError, match="return_varlen_states with cu_seqlens=None"):
        mamba_chunk_scan_combined(x, dt, A, B, C, 4, return_varlen_states=True)


@pytest.mark.parametrize("norm", [None, "before the gate", "after the gate"])
@pytest.mark.parametrize("d_nonssm", [0, 2])
def test_the_fused_layer_is_its_parts(norm, d_nonssm):
    batch, length, heads, width, groups, d_state, model = 1, 7, 4, 2, 2, 3, 5
    dim, state = heads * width, groups * d_state
    inputs = {
        "zxbcdt": uniform(batch, length, 2 * (d_nonssm + dim + state) + heads), "conv": uniform(dim + 2 * state, 3),
        "conv_bias": uniform(dim + 2 * state), "dt_bias": uniform(heads), "A": -torch.rand(heads).double(),
        "D": uniform(heads), "weight": uniform(dim), "out": uniform(model, d_nonssm + dim),
        "states": uniform(batch, heads, width, d_state),
    }  # fmt: skip

    def fused(zxbcdt, conv, conv_bias, dt_bias, A, D, weight, out, states):
        y, last = mamba_split_conv1d_scan_combined(
            zxbcdt, conv, conv_bias, dt_bias, A, D, 4, initial_states=states, dt_limit=(0.1, 0.9),
            return_final_states=True, activation="swish", rmsnorm_weight=None if norm is None else weight,
            outproj_weight=out, headdim=width, ngroups=groups, norm_before_gate=norm == "before the gate",
        )  # fmt: skip
        return y, last

    def parts(zxbcdt, conv, conv_bias, dt_bias, A, D, weight, out, states):
        mlp, z, xBC, dt = zxbcdt.split([2 * d_nonssm, dim, dim + 2 * state, heads], dim=-1)
        xBC = torch.stack([convolution(row.mT, conv, conv_bias, silu=True).mT for row in xBC])
        x, B, C = xBC.split([dim, state, state], dim=-1)
        x, B, C = x.view(batch, length, heads, width), *(t.view(batch, length, groups, d_state) for t in (B, C))
        steps = F.softplus(dt + dt_bias).clamp(0.1, 0.9)
        rows = [ssd(x[b], steps[b], A, B[b], C[b], states[b]) for b in range(batch)]
        y = torch.stack([y for y, _ in rows]) + D[:, None] * x
        y, gate = y.flatten(2), F.silu(z)
        if norm is None:
            y = y * gate
        else:
            y = y if norm == "before the gate" else y * gate
            y = y.view(batch, length, groups, -1)
            y = (y * (y.square().mean(-1, keepdim=True) + 1e-6).rsqrt()).flatten(2) * weight
            y = y * gate if norm == "before the gate" else y
        y = torch.cat([F.silu(mlp[..., :d_nonssm]) * mlp[..., d_nonssm:], y], dim=-1)
        return F.linear(y, out), torch.stack([last for _, last in rows])

    got, want = values_and_gradients(fused, inputs), values_and_gradients(parts, inputs)
    if norm is None:
        assert not got.pop("gradient of weight").any()
        want.pop("gradient of weight")
    assert_same(got, want)


@pytest.mark.parametrize("form", ["(batch, dstate, seqlen)", "(batch, 1, dstate, seqlen)", "constant"])
def test_norms_of_given_weights_act(form):
    """``b_rms_weight`` of a B that the caller gives; of one that is constant in time it raises, as there."""
    dim, d_state, length, rank = 4, 3, 5, 2
    xz, B = uniform(2, 2 * dim, length), uniform(2, d_state, length)
    arguments = (xz, uniform(dim, 1, 3), uniform(dim), uniform(rank + d_state, dim), uniform(dim, rank))
    arguments += (uniform(6, dim), None, -torch.rand(dim, d_state).double())
    norm = {"b_rms_weight": uniform(d_state), "b_c_dt_rms_eps": 1e-3}
    if form == "constant":
        with pytest.raises(ValueError, match=r"b_rms_weight for weights of shape \(4, 3\)"):
            mamba_inner_fn(*arguments, B=uniform(dim, d_state), **norm)
        return
    normed = B * (B.square().mean(1, keepdim=True) + 1e-3).rsqrt() * norm["b_rms_weight"][:, None]
    given = B if form.count(",") == 2 else B[:, None]
    assert_near(mamba_inner_fn(*arguments, B=given, **norm), mamba_inner_fn(*arguments, B=normed))


def test_a_bias_without_its_projection_raises():
    tensors = uniform(1, 5, 2 * 4 + 2 * 3 + 2), uniform(10, 3), uniform(10), uniform(2), -uniform(2).abs(), uniform(2)
    with pytest.raises(ValueError, match="without outproj_weight: received outproj_bias"):
        mamba_split_conv1d_scan_combined(*tensors, 4, headdim=2, outproj_bias=uniform(4))


@pytest.mark.parametrize("rms", [True, False])
def test_norms_of_two_branches_rows_and_masks(rms):
    """The sum that is normed, both outputs, and what dropout kept."""
    x, x1, residual, rows = uniform(2, 3, 8), uniform(2, 3, 8), uniform(2, 3, 8), uniform(2, 3)
    weights, biases = uniform(2, 8), uniform(2, 8)
    norm = rms_norm_fn if rms else layer_norm_fn

    def reference(total, i):
        centred = total if rms else total - total.mean(-1, keepdim=True)
        return centred * (centred.square().mean(-1, keepdim=True) + 1e-3).rsqrt() * weights[i] + biases[i]

    arguments = (x, weights[0], biases[0], residual)
    y, y1, total = norm(*arguments, x1, weights[1], biases[1], 1e-3, prenorm=True)
    for got, want in ((total, x + x1 + residual), (y, reference(total, 0)), (y1, reference(total, 1))):
        assert_near(got, want)
    assert_near(norm(*arguments, eps=1e-3, rowscale=rows), reference(rows[..., None] * x + residual, 0))
    y, total, kept, kept1 = norm(*arguments, x1, eps=1e-3, dropout_p=0.5, prenorm=True, return_dropout_mask=True)
    assert 0 < kept.sum() < kept.numel()
    assert not torch.equal(kept, kept1)
    assert_near(total, 2 * (kept * x + kept1 * x1) + residual)
    assert_near(y, reference(total, 0))
    assert norm(*arguments, return_dropout_mask=True)[1:] == (None, None)
    with pytest.raises(ValueError, match="rowscale and x1"):
        norm(*arguments, x1, rowscale=rows)
    projection = uniform(5, 8)
    out, total = layer_norm_linear_fn(
        x, weights[0], biases[0], projection, None, residual, 1e-3, prenorm=True, is_rms_norm=rms
    )
    assert_near(total, x + residual)
    assert_near(out, reference(total, 0) @ projection.mT)


def test_heads_whose_channels_differ():
    """``ssd_selective_scan``, against the loop of Mamba-1 over all channels; the scan of heads where they are equal."""
    x, z, B, C = uniform(1, 6, 2, 3), uniform(1, 6, 2, 3), uniform(1, 6, 1, 2), uniform(1, 6, 1, 2)
    dt, A, bias, D = uniform(1, 6, 2, 3), -torch.rand(6, 2).double(), uniform(2, 3), uniform(2)
    y = ssd_selective_scan(x, dt, A, B, C, D, z, bias, dt_softplus=True, dt_limit=(0.2, 0.8))
    steps = F.softplus(dt + bias).clamp(0.2, 0.8)[0].flatten(1).mT
    want, _ = selective_scan(x[0].flatten(1).mT, steps, A, lambda d, t: B[0, t, 0], lambda d, t: C[0, t, 0])
    want = want.mT.view(6, 2, 3) + D[:, None] * x[0]
    assert_near(y[0], want * F.silu(z[0]))
    heads = (x, dt[..., 0], A[:2, 0], B, C)
    assert_near(ssd_selective_scan(*heads, D, z), mamba_chunk_scan(*heads, 4, D, z))


@pytest.mark.slow
def test_compiled(unannotated):
    u, delta, B = torch.randn(2, 4, 7), torch.rand(2, 4, 7), torch.randn(2, 3, 7)
    A, state = -torch.rand(4, 3), torch.randn(2, 4, 3)
    index = torch.tensor([[0] * 3 + [1] * 4, [0] * 7])
    x, dt, weights = torch.randn(2, 7, 2, 3), torch.rand(2, 7, 2), torch.randn(2, 7, 1, 2)

    def call(u, state):
        y = selective_scan_fn(u, delta, A, B, B, delta_softplus=True)
        step = selective_state_update(state, u[..., 0], delta[..., 0], A, B[..., 0], B[..., 0])
        return y, step, mamba_chunk_scan_combined(x, dt, A[:2, 0], weights, weights, 4, seq_idx=index)

    states = state.clone(), state.clone()
    want, got = call(u, states[0]), torch.compile(call)(u, states[1])
    for one, other in zip(got, want, strict=True):
        assert_near(one, other)
    assert_near(*states)
