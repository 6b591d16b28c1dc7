"""Gated DeltaNet-2 of seqconv.integrations.fla: golden numbers of the original, pools, intermediate states."""

import pytest
import torch
from scan_cases import check_golden

from golden_cases import load_case
from seqconv.integrations import fla
from tolerances import assert_near

LENGTH, HEADS, D_K, D_V = 7, 2, 3, 4


def draw(*shape, generator=torch.Generator().manual_seed(0)):
    return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1


def inputs(batch, length=LENGTH):
    keys = {name: draw(batch, length, HEADS, D_K) for name in ("q", "k", "b")}
    values = {name: draw(batch, length, HEADS, D_V) for name in ("v", "w")}
    return {**keys, **values, "g": -draw(batch, length, HEADS, D_K).abs()}


def loop(given, state, row=0, tokens=slice(None)):
    """Outputs and the last state of one sequence, token by token."""
    q, k, v, g, b, w = (given[name][row, tokens] for name in "qkvgbw")
    S, outputs = state, []
    for t in range(len(q)):
        S = g[t].exp()[..., None] * S
        written = w[t] * v[t] - torch.einsum("hkv,hk->hv", S, b[t] * k[t])
        S = S + k[t][..., None] * written[:, None]
        outputs.append(torch.einsum("hkv,hk->hv", S, q[t]) * D_K**-0.5)
    return torch.stack(outputs), S


FUNCTIONS = pytest.mark.parametrize("function", [fla.chunk_gdn2, fla.fused_recurrent_gdn2])


@FUNCTIONS
def test_golden_numbers_and_gradients(function):
    case = load_case("gdn2_scan")
    case.tensors.pop("out.loss")

    def call(**given):
        o, state = function(**given, output_final_state=True)
        return {"o": o, "final_state": state}

    check_golden(case, call, 1e-8, 1e-9)


@FUNCTIONS
@pytest.mark.parametrize("v_first", [False, True])
def test_packed_sequences_as_token_by_token(function, v_first):
    given, bounds, states = inputs(1), torch.tensor([0, 3, 3, 7]), draw(3, HEADS, D_K, D_V)
    o, last = function(
        **given, initial_state=states.mT if v_first else states, output_final_state=True, state_v_first=v_first,
        cu_seqlens=bounds,
    )  # fmt: skip
    last = last.mT if v_first else last
    for row, part in ((0, slice(0, 3)), (2, slice(3, 7))):
        want, state = loop(given, states[row], tokens=part)
        assert_near(o[0, part], want)
        assert_near(last[row], state)
    assert torch.equal(last[1], states[1])


def test_gates_all_equal_to_one_strength_are_kimi_delta_attention():
    given, beta = inputs(2), draw(2, LENGTH, HEADS).abs()
    gates = {"b": beta[..., None].expand_as(given["k"]), "w": beta[..., None].expand_as(given["v"])}
    options = {"A_log": draw(HEADS), "dt_bias": draw(HEADS * D_K), "use_gate_in_kernel": True}
    options |= {"use_qk_l2norm_in_kernel": True, "output_final_state": True}
    got = fla.chunk_gdn2(**given | gates, **options, return_intermediate_states=True, chunk_size=2)
    shared = {name: given[name] for name in "qkvg"}
    want = fla.chunk_kda(**shared, beta=beta, **options, return_intermediate_states=True, chunk_size=2)
    for result, reference in zip(got, want, strict=True):
        assert_near(result, reference)


@pytest.mark.parametrize("v_first", [False, True])
def test_a_pool_of_states_and_accepted_tokens(v_first):
    """Three sequences of 2, 1 and 2 tokens; the second is not there, the third goes on from its first token."""
    given, bounds = inputs(1, 5), torch.tensor([0, 2, 3, 5])
    pool = draw(8, HEADS, D_K, D_V)
    before, passed = pool.clone(), pool.mT.contiguous() if v_first else pool
    rows = torch.tensor([[3, 1], [-1, -1], [6, 4]])
    o, last = fla.fused_recurrent_gdn2_fwd(
        **given, initial_state=passed, inplace_final_state=True, state_v_first=v_first, cu_seqlens=bounds,
        ssm_state_indices=rows, num_accepted_tokens=torch.tensor([2, 1, 1]),
    )  # fmt: skip
    assert last is passed
    after = passed.mT if v_first else passed
    for sequence, start in ((0, 1), (2, 6)):
        for token in range(2):
            part = slice(bounds[sequence], bounds[sequence] + token + 1)
            want, state = loop(given, before[start], tokens=part)
            assert_near(after[rows[sequence, token]], state)
            assert_near(o[0, part], want)
    assert not o[0, 2].any()
    assert torch.equal(after[[0, 2, 5, 7]], before[[0, 2, 5, 7]])
    with pytest.raises(ValueError, match="ssm_state_indices without inplace_final_state"):
        fla.fused_recurrent_gdn2_fwd(**given, initial_state=passed, ssm_state_indices=rows)
