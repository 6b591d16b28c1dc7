"""seqconv.integrations.fla: preconditioned keys, DeltaProduct, MesaNet, PaTH, log-linear attention, RWKV-4.

Against loops over tokens as fla's naive forms write them.
"""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from seqconv.integrations import fla
from seqconv.integrations.fla import gates, padding
from tolerances import assert_near

LENGTH, HEADS, D_K, D_V = 7, 2, 3, 4
BOUNDS = torch.tensor([0, 3, 3, 7])
"""Three sequences, the second of which is empty."""
PARTS = ((0, slice(0, 3)), (2, slice(3, 7)))


def draw(*shape, generator=torch.Generator().manual_seed(0)):
    return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1


def decay(*shape):
    return -draw(*shape).abs()


def keys(length=LENGTH, heads=HEADS):
    return F.normalize(draw(1, length, heads, D_K), dim=-1)


def inputs(v_heads=HEADS, length=LENGTH):
    """Arguments of ``chunk_precond_kda``; heads of A are those of the keys."""
    given = {"q": keys(length), "k": keys(length), "v": draw(1, length, v_heads, D_V)}
    given |= {"g": decay(1, length, v_heads, D_K), "beta": draw(1, length, v_heads).abs()}
    return given | {"g_atk": decay(1, length, HEADS), "beta_atk": draw(1, length, HEADS).abs()}


def preconditioned(given, S, A, part=slice(None), gv=None, unit=False, x=1.5, center=-0.2):
    """One sequence: outputs, S and A after every token."""
    found, per_head = [], given["v"].shape[2] // HEADS
    q, k, g_atk, beta_atk = (given[n][0, part].repeat_interleave(per_head, 1) for n in ("q", "k", "g_atk", "beta_atk"))
    if unit:
        q, k = (t * (t.square().sum(-1, keepdim=True) + 1e-6).rsqrt() for t in (q, k))
    v, g, beta = (given[name][0, part] for name in ("v", "g", "beta"))
    A = A.repeat_interleave(per_head, 0)
    for t in range(len(q)):
        A = g_atk[t].exp()[:, None] * A + beta_atk[t][:, None] * k[t] ** 2
        r = (A + 1e-6).log() - center
        p = k[t] * x ** (-r / (1 + r.abs()))
        S = S * (g[t].exp()[..., None] if g.dim() == 3 else g[t].exp()[:, None, None])
        S = S if gv is None else S * gv[0, part][t].exp()[:, None]
        error = v[t] - torch.einsum("hkv,hk->hv", S, k[t])
        S = S + p[..., None] * (error * (beta[t] if beta.dim() == 3 else beta[t][:, None]))[:, None]
        found.append((torch.einsum("hkv,hk->hv", S, q[t]) * D_K**-0.5, S, A[::per_head]))
    return [torch.stack(t) for t in zip(*found, strict=True)]


@pytest.mark.parametrize("v_heads", [HEADS, 2 * HEADS])
@pytest.mark.parametrize("function", ["chunk_precond_kda", "fused_recurrent_precond_kda"])
def test_preconditioned_kda_packed(function, v_heads):
    given, S, A = inputs(v_heads), draw(3, v_heads, D_K, D_V), draw(3, HEADS, D_K).abs()
    o, last, squares = getattr(fla, function)(
        **given, initial_state=S.mT, initial_A_state=A, output_final_state=True, transpose_state_layout=True,
        cu_seqlens=BOUNDS, x=1.7, log_atk_scale=torch.full((HEADS,), 0.25),
    )  # fmt: skip
    for row, part in PARTS:
        want = preconditioned(given, S[row], A[row], part, unit=True, x=1.7, center=0.25)
        assert_near(o[0, part], want[0])
        assert_near(last[row].mT, want[1][-1])
        assert_near(squares[row], want[2][-1])
    assert torch.equal(last[1].mT, S[1])
    assert torch.equal(squares[1], A[1])


def test_preconditioned_kda_has_the_gate_states_and_errors_of_kda():
    given, A_log, bias = inputs(), draw(HEADS), draw(HEADS * D_K)
    gate = -A_log.exp()[:, None] * F.softplus(given["g"] + bias.view(HEADS, D_K))
    options = {"use_gate_in_kernel": True, "A_log": A_log, "dt_bias": bias}
    o, last, squares, before = fla.chunk_precond_kda(**given, **options, return_intermediate_states=True)
    want = preconditioned({**given, "g": gate}, torch.zeros(HEADS, D_K, D_V), torch.zeros(HEADS, D_K), unit=True)
    assert_near(o[0], want[0])
    assert last is None
    assert squares is None
    assert before.shape == (1, 1, HEADS, D_K, D_V)
    assert not before.any()
    with pytest.raises(ValueError, match="cp_context"):
        fla.chunk_precond_kda(**given, cp_context=object())


@pytest.mark.parametrize("per_value", [False, True])
def test_preconditioned_gated_delta_rule(per_value):
    given = inputs(2 * HEADS) | {"g": decay(1, LENGTH, 2 * HEADS)}
    gv = decay(1, LENGTH, 2 * HEADS, D_V) if per_value else None
    given["beta"] = draw(*given["v"].shape).abs() if per_value else given["beta"]
    S, A = draw(1, 2 * HEADS, D_K, D_V), draw(1, HEADS, D_K).abs()
    options = {"initial_state": S, "initial_A_state": A, "output_final_state": True, "use_qk_l2norm_in_kernel": False}
    function = partial(fla.fused_recurrent_precond_gated_delta_rule, gv=gv)
    for run in [function] if per_value else [function, fla.chunk_precond_gated_delta_rule]:
        o, last, squares = run(**given, **options)
        want = preconditioned(given, S[0], A[0], gv=gv)
        for got, reference in ((o, want[0]), (last, want[1][-1]), (squares, want[2][-1])):
            assert_near(got[0], reference)
    with pytest.raises(ValueError, match="g_atk=None"):
        function(given["q"], given["k"], given["v"])


def test_pools_of_both_states_and_accepted_tokens():
    """Three sequences of 2, 1 and 2 tokens; the second is not there, the third goes on from its first token."""
    given, bounds = inputs(length=5), torch.tensor([0, 2, 3, 5])
    S, A = draw(8, HEADS, D_K, D_V), draw(8, HEADS, D_K).abs()
    before, rows = (S.clone(), A.clone()), torch.tensor([[3, 1], [-1, -1], [6, 4]])
    o, last, squares = fla.fused_recurrent_precond_kda_fwd(
        **given, initial_state=S, initial_A_state=A, cu_seqlens=bounds, ssm_state_indices=rows,
        num_accepted_tokens=torch.tensor([2, 1, 1]),
    )  # fmt: skip
    assert last is S
    assert squares is A
    for sequence, start in ((0, 1), (2, 6)):
        part = slice(bounds[sequence], bounds[sequence] + 2)
        want = preconditioned(given, before[0][start], before[1][start], part)
        assert_near(o[0, part], want[0])
        assert_near(S[rows[sequence]], want[1])
        assert_near(A[rows[sequence]], want[2])
    assert not o[0, 2].any()
    assert torch.equal(S[[0, 2, 5, 7]], before[0][[0, 2, 5, 7]])
    assert torch.equal(A[[0, 2, 5, 7]], before[1][[0, 2, 5, 7]])
    given["beta"] = given["beta"][..., None].expand_as(given["v"])
    with pytest.raises(ValueError, match="beta per channel of v with ssm_state_indices"):
        fla.fused_recurrent_precond_kda_fwd(**given, initial_state=S, ssm_state_indices=rows)


@pytest.mark.parametrize("decays", [True, False])
def test_several_steps_per_token(decays):
    n, S = 3, draw(3, HEADS, D_K, D_V)
    q, k, v, beta = keys(), keys(n * LENGTH), draw(1, n * LENGTH, HEADS, D_V), draw(1, n * LENGTH, HEADS).abs()
    g = decay(1, LENGTH, HEADS) if decays else None
    o, last = fla.chunk_gated_delta_product(
        q, k, v, g, beta, n, initial_state=S, output_final_state=True, cu_seqlens=BOUNDS
    )
    for row, part in PARTS:
        state = S[row]
        for t in range(part.start, part.stop):
            state = state if g is None else state * g[0, t].exp()[:, None, None]
            for j in range(n * t, n * t + n):
                error = v[0, j] - torch.einsum("hkv,hk->hv", state, k[0, j])
                state = state + k[0, j][..., None] * (beta[0, j][:, None] * error)[:, None]
            assert_near(o[0, t], torch.einsum("hkv,hk->hv", state, q[0, t]) * D_K**-0.5)
        assert_near(last[row], state)
    with pytest.raises(ValueError, match="num_householder keys per query"):
        fla.chunk_gated_delta_product(q, k, v, g, beta, 2)


def test_mesa_net_packed_and_by_steps():
    q, k, v, g, beta = (
        keys(),
        keys(),
        draw(1, LENGTH, HEADS, D_V),
        decay(1, LENGTH, HEADS),
        draw(1, LENGTH, HEADS).abs(),
    )
    ridge, H, G = (
        draw(HEADS, D_K).abs() + 0.25,
        torch.eye(D_K).expand(3, HEADS, -1, -1).double(),
        draw(3, HEADS, D_K, D_V),
    )
    o, last_h, last_g = fla.chunk_mesa_net(q, k, v, g, beta, ridge, H, G, True, cu_seqlens=BOUNDS)
    for row, part in PARTS:
        keys_sum, memory, read = H[row], G[row], (H[row : row + 1], G[row : row + 1])
        for t in range(part.start, part.stop):
            written = (beta[0, t][:, None] * k[0, t])[..., None]
            keys_sum = g[0, t].exp()[:, None, None] * keys_sum + written * k[0, t][:, None]
            memory = g[0, t].exp()[:, None, None] * memory + written * v[0, t][:, None]
            solved = torch.linalg.solve(keys_sum + torch.diag_embed(ridge), q[0, t])
            want = torch.einsum("hkv,hk->hv", memory, solved)
            assert_near(o[0, t], want)
            y, *read = fla.mesa_net_decoding_one_step(q[:, t], k[:, t], v[:, t], g[:, t], ridge, beta[:, t], *read)
            assert_near(y[0], want)
        assert_near(last_h[row], keys_sum)
        assert_near(last_g[row], memory)
    assert torch.equal(last_g[1], G[1])
    with pytest.raises(ValueError, match="max_CG_iteration=3"):
        fla.chunk_mesa_net(q, k, v, g, beta, ridge, max_CG_iteration=3)


@pytest.mark.parametrize("gated", [True, False])
def test_path_attention_with_a_scale_packed(gated):
    q, k, w = keys(heads=2 * HEADS), keys(), keys()
    v, beta = draw(1, LENGTH, HEADS, D_V), 2 * draw(1, LENGTH, HEADS).abs()
    g = decay(1, LENGTH, 2 * HEADS) if gated else None
    o, cache = fla.parallel_path_attn(q, k, v, w, beta, g, 0.3, BOUNDS, use_cache=True)
    for _, part in PARTS:
        for i in range(part.start, part.stop):
            scores = torch.zeros(2 * HEADS, i + 1 - part.start, dtype=torch.float64)
            for j in range(part.start, i + 1):
                key = k[0, j]
                for s in range(j + 1, i + 1):
                    key = key - beta[0, s][:, None] * w[0, s] * (w[0, s] * key).sum(-1, keepdim=True)
                scores[:, j - part.start] = (q[0, i] * key.repeat_interleave(2, 0)).sum(-1)
                scores[:, j - part.start] += 0 if g is None else g[0, j + 1 : i + 1].sum(0)
                if i == part.stop - 1:
                    assert_near(cache[0, j], key)
            weights, values = (0.3 * scores).softmax(-1), v[0, part.start : i + 1].repeat_interleave(2, 1)
            assert_near(o[0, i], torch.einsum("hj,jhv->hv", weights, values))
    assert fla.parallel_path_attn(q, k, v, w, beta, g)[1] is None


def test_log_linear_attention_packed():
    q, k, v, g = keys(), keys(), draw(1, LENGTH, 2 * HEADS, D_V), decay(1, LENGTH, 2 * HEADS)
    weights = draw(1, LENGTH, 2 * HEADS, 4)
    o, state = fla.chunk_log_linear_attn(q, k, v, g, weights, cu_seqlens=BOUNDS)
    assert state is None
    for _, part in PARTS:
        for i in range(part.start, part.stop):
            want = 0
            for j in range(part.start, i + 1):
                level = ((i - part.start) ^ (j - part.start)).bit_length()
                score = (q[0, i] * k[0, j]).sum(-1).repeat_interleave(2) * g[0, j + 1 : i + 1].sum(0).exp()
                want = want + (weights[0, i, :, level] * score)[:, None] * v[0, j]
            assert_near(o[0, i], want)
    with pytest.raises(ValueError, match="output_final_state=True"):
        fla.chunk_log_linear_attn(q, k, v, g, weights, output_final_state=True)


def test_rwkv4_from_a_state():
    w, u, k, v = draw(5), draw(5), 3 * draw(2, LENGTH, 5), draw(2, LENGTH, 5)
    state = torch.stack([draw(2, 5), draw(2, 5).abs(), draw(2, 5)], dim=1)
    o, last = fla.fused_recurrent_rwkv4(w, u, k, v, state[:, :, None])
    top, bottom = (state[:, i] * state[:, 2].exp() for i in range(2))
    for t in range(LENGTH):
        own = (u + k[:, t]).exp()
        assert_near(o[:, t], (top + own * v[:, t]) / (bottom + own))
        top, bottom = ((-w.exp()).exp() * s + k[:, t].exp() * x for s, x in ((top, v[:, t]), (bottom, 1)))
    assert last.shape == (2, 3, 1, 5)
    assert_near(last[:, 0, 0] * last[:, 2, 0].exp(), top)
    assert_near(last[:, 1, 0] * last[:, 2, 0].exp(), bottom)


def test_keys_of_zero_stay_zero():
    given = inputs()
    given["k"] = torch.zeros_like(given["k"])
    o, last, squares = fla.chunk_precond_kda(**given, output_final_state=True)
    for got in (o, last, squares):
        assert torch.equal(got, torch.zeros_like(got))


def test_gates_by_themselves():
    g, A_log, bias = draw(2, 5, HEADS, D_K), draw(HEADS), draw(HEADS * D_K)
    shifted = g + bias.view(HEADS, D_K)
    decays = gates.fused_kda_gate(g, A_log, bias, output_dtype=torch.float64)
    assert_near(decays, -A_log.exp()[:, None] * F.softplus(shifted))
    bounded = gates.fused_kda_gate(g[0, 0], None, bias, -5.0)
    assert bounded.dtype == torch.float32
    assert_near(bounded, -5 * shifted[0, 0].sigmoid())
    per_head = gates.fused_gdn_gate(g[..., 0], A_log, bias[:HEADS], torch.float64)
    assert_near(per_head, -A_log.exp() * F.softplus(g[..., 0] + bias[:HEADS]))


def test_padded_batches_as_packed_tokens_and_back():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]])
    x, bounds = draw(3, 5, 2), torch.tensor([0, 3, 8, 9], dtype=torch.int32)
    packed, places, found = padding.unpad_hidden_states(x, None, mask, 5)
    assert torch.equal(found, bounds)
    assert found.dtype == torch.int32
    assert torch.equal(packed[0], torch.cat([x[0, 2:], x[1], x[2, 4:]]))
    assert torch.equal(padding.repad_hidden_states(packed, places, 3, 5), x * mask[..., None])
    assert padding.unpad_hidden_states(x, bounds, mask, 5)[1:] == (None, bounds)
    q, (k,), _, both, longest = padding.unpad_input(x, (x,), mask, 5, keepdim=True)
    assert torch.equal(q, packed)
    assert torch.equal(k, packed)
    assert torch.equal(both[0], bounds)
    assert longest == (5, 5)
    (q,), (k,), places, (own, _), longest = padding.unpad_input((x[:, 4:],), (x,), mask, 1)
    assert torch.equal(q, x[:, 4])
    assert own.tolist() == [0, 1, 2, 3]
    assert places.tolist() == [0, 1, 2]
    assert longest == (1, 5)
    with pytest.raises(ValueError, match="q_len=2 for states of length 5"):
        padding.unpad_input(x[:, 3:], (x,), mask, 2)


def test_indices_of_tokens_and_chunks():
    bounds = torch.tensor([0, 3, 5, 9])
    assert padding.prepare_lens(bounds).tolist() == [3, 2, 4]
    assert padding.prepare_position_ids(bounds).tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3]
    assert padding.prepare_sequence_ids(bounds).tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert padding.prepare_token_indices(bounds)[4].tolist() == [1, 1]
    assert padding.prepare_chunk_offsets(bounds, 2).tolist() == [0, 2, 3, 5]
    assert padding.prepare_chunk_indices(bounds, 2).tolist() == [[0, 0], [0, 1], [1, 0], [2, 0], [2, 1]]
    assert padding.prepare_cu_seqlens_from_lens(torch.tensor([3, 2, 4])).tolist() == bounds.tolist()


LAYER = """
import torch
from fla.layers.utils import get_unpad_data, index_first_axis, pad_input
from fla.modules import FusedRMSNormGated, RMSNorm, ShortConvolution
from fla.modules.fused_norm_gate import rms_norm_gated
from fla.ops.gated_delta_product import chunk_gated_delta_product
from fla.ops.gated_delta_rule.gate import fused_gdn_gate
from fla.ops.kda import chunk_kda, fused_recurrent_kda
from fla.ops.kda.gate import fused_kda_gate
from fla.ops.mesa_net import chunk_mesa_net, mesa_net_decoding_one_step
from fla.ops.path_attn.parallel import parallel_path_attention
from fla.ops.precond_kda.fused_recurrent import fused_recurrent_precond_kda_fwd
from fla.ops.rwkv4 import fused_recurrent_rwkv4
from fla.ops.utils import prepare_cu_seqlens_from_mask
from fla.ops.utils.index import prepare_lens_from_mask


def attend(x, mask, conv):
    indices, cu_seqlens, _ = get_unpad_data(mask)
    x = index_first_axis(x.flatten(0, 1), indices)[None]
    q = conv(x, cu_seqlens=cu_seqlens)[0].unflatten(-1, (2, -1))
    g = fused_kda_gate(q, torch.zeros(2), torch.zeros(6), output_dtype=x.dtype)
    o, _ = chunk_kda(q, q, q, g, q[..., 0].sigmoid(), use_qk_l2norm_in_kernel=True, cu_seqlens=cu_seqlens)
    return pad_input(o[0].flatten(1), indices, *mask.shape)
"""


def test_a_layer_that_unpads_as_kimi_linear_does():
    """Its rows are as if each were alone."""
    fla.install()
    try:
        names = {}
        exec(LAYER, names)
        conv, x = names["ShortConvolution"](6, 3, dtype=torch.float64), draw(2, 5, 6)
        mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
        y = names["attend"](x, mask, conv)
        assert not y[0, :2].any()
        assert_near(y[0, 2:], names["attend"](x[:1, 2:], mask[:1, 2:], conv)[0])
        assert_near(y[1], names["attend"](x[1:], mask[1:], conv)[0])
    finally:
        fla.uninstall()
