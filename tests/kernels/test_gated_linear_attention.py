"""Linear attention with a decay: chunked against reference, golden numbers, resets, packing, errors."""

import math

import pytest
import torch
from scan_cases import (
    ALL,
    FAST,
    LENGTHS,
    assert_same,
    check_finite_differences,
    check_golden,
    check_low_precision,
    check_no_autocast,
    check_packed,
    check_steps,
    check_strides_and_empty_batches,
    values_and_gradients,
)

from golden_cases import load_variant
from seqconv_kernels import gated_linear_attention, gated_linear_attention_step
from seqconv_kernels.gated_linear_attention.cases import SHAPES, Shape, example_inputs
from seqconv_kernels.gated_linear_attention.spec import Inputs, decay_per_token
from tolerances import assert_near

DECAYS = ("vector", "scalar", "constant", "none")
each_decay = pytest.mark.parametrize("decay", DECAYS)


def tiny(length, decay="vector", dtype=torch.float64, **options):
    shape = Shape(2, length, 4, 6, 5, kv_heads=2)
    return example_inputs(shape, dtype=dtype, decay=decay, initial_state=True, **options)


def run(implementation):
    def call(**inputs):
        return gated_linear_attention(**inputs, return_final_state=True, implementation=implementation)

    return call


@each_decay
@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("length", LENGTHS)
def test_equals_the_reference(implementation, decay, length):
    inputs = tiny(length, decay)
    got, want = (values_and_gradients(run(name), inputs) for name in (implementation, "reference"))
    assert_same(got, want, f"{decay} at {length}")


@each_decay
@pytest.mark.parametrize("implementation", ALL)
def test_gradients_are_those_of_finite_differences(decay, implementation):
    inputs = example_inputs(Shape(1, 5, 2, 3, 2, 1), dtype=torch.float64, decay=decay, initial_state=True)
    check_finite_differences(run(implementation), inputs)


@each_decay
def test_steps_equal_the_whole(decay):
    inputs = tiny(9, decay)
    check_steps(run("chunked"), gated_linear_attention_step, inputs, ("q", "k", "v", "log_decay"))


@pytest.mark.parametrize("decay", ["vector", "scalar"])
@pytest.mark.parametrize("implementation", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_decays_are_exact(decay, implementation, dtype):
    inputs = tiny(130, decay, torch.float64)
    rng = torch.Generator().manual_seed(1)
    strength = torch.randint(0, 4, inputs["log_decay"].shape, generator=rng)
    inputs["log_decay"] = torch.tensor([-1e-3, -30.0, -800.0, -math.inf], dtype=torch.float64)[strength]
    got = values_and_gradients(run(implementation), {k: v.to(dtype) for k, v in inputs.items()})
    assert_same(got, values_and_gradients(run("reference"), inputs), implementation)


@pytest.mark.parametrize("implementation", FAST)
def test_a_reset_forgets_everything_before(implementation):
    inputs = tiny(70)
    inputs["log_decay"][:, 40] = -math.inf
    o, state = run(implementation)(**inputs)
    late = {k: v[:, 40:] for k, v in inputs.items() if k != "initial_state"}
    late_o, late_state = run(implementation)(**late)
    torch.testing.assert_close(o[:, 40:], late_o, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, late_state, rtol=1e-12, atol=1e-12)


@each_decay
@pytest.mark.parametrize("implementation", ALL)
def test_packed_equals_separate(decay, implementation):
    inputs = example_inputs(Shape(1, 100, 4, 6, 5, 2), dtype=torch.float64, decay=decay)
    inputs["initial_state"] = torch.randn(3, 2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    check_packed(run(implementation), run("reference"), inputs, ("q", "k", "v", "log_decay"))


@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_keeps_sums_in_float32(implementation, dtype):
    check_low_precision(run(implementation), tiny(100), dtype)


@pytest.mark.parametrize("implementation", FAST)
def test_autocast_does_not_reach_the_sums(implementation):
    check_no_autocast(run(implementation), tiny(100))


@pytest.mark.parametrize("implementation", FAST)
def test_long_sequences_strided_inputs_and_empty_batches(implementation):
    inputs = example_inputs(Shape(1, 20_000, 1, 2, 2), decay="scalar")
    assert_near(run(implementation)(**inputs)[0], run("reference")(**inputs)[0])
    inputs = tiny(33)
    check_strides_and_empty_batches(run(implementation), inputs, tuple(inputs))


@pytest.mark.parametrize("implementation", ALL)
@pytest.mark.parametrize("variant", ["gla", "gla_init_strong_decay", "gla_varlen", "simple_gla", "simple_gla_init"])
def test_golden_numbers(variant, implementation):
    case = load_variant("scan/fla_ops", variant)
    bounds = case.group("const").get("cu_seqlens")

    def call(q, k, v, gk=None, g=None, initial_state=None):
        decay = g if gk is None else gk
        y, state = gated_linear_attention(
            q, k, v, decay, initial_state=initial_state, return_final_state=True, cu_seqlens=bounds,
            implementation=implementation,
        )  # fmt: skip
        return {"y": y, "final_state": state}

    check_golden(case, call)


def test_golden_retention_is_a_constant_decay_per_head():
    def call(q, k, v):
        heads = torch.arange(q.shape[1], dtype=torch.float64)
        g_gamma = torch.log(1 - torch.exp2(-5 - heads))
        y = gated_linear_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), g_gamma=g_gamma)
        return {"y": y.transpose(1, 2)}

    check_golden(load_variant("scan/fla_ops", "retention"), call)


def test_golden_mamba2_is_a_scalar_decay():
    def call(x, dt, A, B, C, initial_state):
        y, state = gated_linear_attention(
            C, B * dt[..., None], x, A * dt, scale=1.0, initial_state=initial_state, return_final_state=True
        )
        return {"y": y, "final_state": state}

    check_golden(load_variant("scan/fla_ops", "mamba2_style"), call)


@pytest.mark.parametrize("variant", ["hgrn2", "hgrn2_lower_bound"])
def test_golden_hgrn2_ties_the_key_to_the_decay(variant):
    def call(q, f, v, initial_state, lower_bound=None):
        g = torch.nn.functional.logsigmoid(f)
        if lower_bound is not None:
            g = torch.logaddexp(lower_bound.log(), torch.log1p(-lower_bound) + g)
        y, state = gated_linear_attention(
            torch.nn.functional.silu(q), 1 - g.exp(), v, g, initial_state=initial_state, return_final_state=True
        )
        return {"y": y, "final_state": state}

    check_golden(load_variant("scan/fla_ops", variant), call)


def test_example_shapes_have_the_sizes_they_name():
    inputs = example_inputs(SHAPES["tiny"], initial_state=True)
    assert gated_linear_attention(**inputs).shape == (2, 37, 4, 5)


@pytest.mark.usefixtures("unannotated")
def test_errors_name_the_remedy():
    good = tiny(5)
    cases = {
        r"q of shape \(5, 4, 6\).*\(batch, length, heads, d_k\).*Remedy": {"q": good["q"][0]},
        r"3 heads of q for 2 of k.*Remedy": {"q": good["q"][:, :, :3]},
        r"v of shape \(2, 4, 2, 5\).*\(2, 5, 2, 5\).*Remedy": {"v": good["v"][:, :4]},
        r"log_decay of shape \(2, 5, 1\).*one per head": {"log_decay": good["log_decay"][..., :1, 0]},
        r"initial_state of shape \(1, 2, 6, 5\).*Remedy": {"initial_state": good["initial_state"][:1]},
        r"v of dtype torch.int64.*Remedy": {"v": good["v"].long()},
        r"implementation 'chunkd'.*did you mean 'chunked'": {"implementation": "chunkd"},
        r"cu_seqlens with a batch of 2.*Remedy": {"cu_seqlens": torch.tensor([0, 5])},
    }
    for pattern, change in cases.items():
        with pytest.raises(ValueError, match=f"gated_linear_attention: received {pattern}"):
            gated_linear_attention(**{**good, **change})
    tokens = {k: v[:, 0] for k, v in good.items() if k != "initial_state"}
    with pytest.raises(ValueError, match=r"received state of shape \(1, 2, 6, 5\).*Remedy"):
        gated_linear_attention_step(**tokens, state=good["initial_state"][:1])


def test_golden_normalised_linear_attention_counts_itself_in_one_more_value():
    def call(q, k, v):
        y = gated_linear_attention(q, k, torch.cat([v, torch.ones_like(v[..., :1])], dim=-1))
        return {"y": y[..., :-1] / (y[..., -1:] + 1e-10)}

    check_golden(load_variant("scan/fla_ops", "linear_attn_normalized"), call)


def test_a_constant_decay_is_read_where_it_lies():
    """The C++ kernel takes it as a view of stride 0: no tensor of (batch, length, heads) is written."""
    inputs = tiny(33, "constant")
    q, k, v, g_gamma = (inputs[name] for name in ("q", "k", "v", "g_gamma"))
    per_token = decay_per_token(Inputs(q, k, v, g_gamma, 1.0, None))
    assert per_token.shape == k.shape[:-1]
    assert per_token.data_ptr() == g_gamma.data_ptr()
    _, total = gated_linear_attention(q, k, v, g_gamma=g_gamma, return_total_decay=True)
    assert_near(total, (33 * g_gamma).exp()[:, None, None].expand(2, -1, 1, 1))


def test_a_constant_decay_takes_the_place_of_one_per_token(unannotated):
    inputs = tiny(5)
    with pytest.raises(ValueError, match=r"log_decay and g_gamma.*Remedy: add g_gamma to log_decay"):
        gated_linear_attention(**inputs, g_gamma=torch.zeros(2, dtype=torch.float64))
    del inputs["log_decay"]
    with pytest.raises(ValueError, match=r"g_gamma.*\(2,\)"):
        gated_linear_attention(**inputs, g_gamma=torch.zeros(4, dtype=torch.float64))
