"""Linear attention with a bonus for the own token (RWKV-6): golden numbers, steps, packing, errors."""

import pytest
import torch
from scan_cases import ALL, assert_same, check_finite_differences, check_golden, check_packed, check_steps
from scan_cases import values_and_gradients as both

from golden_cases import load_variant
from seqconv_kernels import gated_linear_attention, gated_linear_attention_step
from seqconv_kernels.gated_linear_attention.cases import Shape, example_inputs

each_implementation = pytest.mark.parametrize("implementation", ALL)
TOKENS = ("q", "k", "v", "log_decay")


def given(shape, **options):
    bonus = torch.randn(shape.heads, shape.d_k, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return example_inputs(shape, dtype=torch.float64, decay="vector", **options) | {"bonus": bonus}


def run(implementation):
    def call(**inputs):
        return gated_linear_attention(**inputs, return_final_state=True, implementation=implementation)

    return call


def written_out(q, k, v, log_decay, bonus, initial_state):
    state, outputs = initial_state, []
    share = q.shape[2] // k.shape[2]
    for t in range(q.shape[1]):
        new = k[:, t, :, :, None] * v[:, t, :, None]
        weighted = bonus[:, :, None] * new.repeat_interleave(share, dim=1)
        read = state.repeat_interleave(share, dim=1) + weighted
        outputs.append(k.shape[-1] ** -0.5 * torch.einsum("bhkv,bhk->bhv", read, q[:, t]))
        state = log_decay[:, t, :, :, None].exp() * state + new
    return torch.stack(outputs, dim=1), state


@each_implementation
@pytest.mark.parametrize("length", [1, 2, 70])
def test_equals_the_recurrence_written_out(implementation, length):
    inputs = given(Shape(2, length, 4, 6, 5, kv_heads=2), initial_state=True)
    assert_same(both(run(implementation), inputs), both(written_out, inputs))


@each_implementation
def test_gradients_are_those_of_finite_differences(implementation):
    check_finite_differences(run(implementation), given(Shape(1, 5, 2, 3, 2, 1), initial_state=True))


def test_steps_equal_the_whole():
    inputs = given(Shape(2, 9, 4, 6, 5, kv_heads=2), initial_state=True)
    check_steps(run("chunked"), gated_linear_attention_step, inputs, TOKENS)


@each_implementation
def test_packed_equals_separate(implementation):
    inputs = given(Shape(1, 100, 4, 6, 5, 2))
    inputs["initial_state"] = torch.randn(3, 2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    check_packed(run(implementation), run("reference"), inputs, TOKENS)


def test_packed_without_a_state_reads_nothing_of_the_sequence_before():
    inputs = given(Shape(1, 12, 2, 3, 4))
    got = gated_linear_attention(**inputs, cu_seqlens=torch.tensor([0, 5, 12]))
    alone = gated_linear_attention(**{k: v[:, 5:] if k in TOKENS else v for k, v in inputs.items()})
    torch.testing.assert_close(got[:, 5:], alone)


@each_implementation
@pytest.mark.parametrize("variant", ["rwkv6", "rwkv6_init"])
def test_golden_rwkv6(variant, implementation):
    def call(q, k, v, w, u, initial_state=None):
        q, k, v, w = (t.transpose(1, 2) for t in (q, k, v, w))
        y, state = gated_linear_attention(
            q, k, v, w, bonus=u, initial_state=initial_state, return_final_state=True, implementation=implementation
        )
        return {"y": y.transpose(1, 2), "final_state": state}

    check_golden(load_variant("scan/fla_ops", variant), call)


@pytest.mark.usefixtures("unannotated")
def test_errors_name_the_remedy():
    inputs = given(Shape(2, 5, 4, 6, 5))
    with pytest.raises(ValueError, match=r"gated_linear_attention: received bonus of shape \(4, 5\).*\(4, 6\).*Remedy"):
        gated_linear_attention(**inputs | {"bonus": inputs["bonus"][:, :5]})
    with pytest.raises(ValueError, match=r"3 heads of q for 4 of k.*Remedy"):
        gated_linear_attention(**inputs | {"q": inputs["q"][:, :, :3]})
