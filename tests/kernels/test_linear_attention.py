"""The C++ recurrence with a matrix state: every instruction set and block size, threads, the operator, its errors."""

import math

import pytest
import torch
from scan_cases import assert_same, values_and_gradients

from seqconv_kernels import delta_rule, delta_rule_step, gated_linear_attention, gated_linear_attention_step
from seqconv_kernels._core import native
from seqconv_kernels.delta_rule.cases import Shape, example_inputs
from tolerances import assert_near

ISAS = native.library().isas() if native.unavailable() is None else []
pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
OPS = {"delta_rule": delta_rule, "gated_linear_attention": gated_linear_attention}
STEPS = {"delta_rule": delta_rule_step, "gated_linear_attention": gated_linear_attention_step}
SIZES = [(1, 1), (5, 17), (16, 48), (9, 112), (33, 3)]


@pytest.fixture(params=ISAS)
def isa(request):
    native.library().set_isa(request.param)
    yield request.param
    native.library().set_isa(ISAS[0])


def given(name, d_k, d_v, length=70, dtype=torch.float32, decay="vector", batch=2):
    inputs = example_inputs(Shape(batch, length, 1, d_k, d_v, 2), dtype=dtype, decay=decay, initial_state=True)
    if name == "gated_linear_attention":
        inputs.pop("beta")
        inputs["k"] = inputs["k"].repeat(1, 1, 2, 1)
        inputs["q"] = inputs["q"].repeat(1, 1, 4, 1)
    return inputs


def run(name, implementation):
    return lambda **inputs: OPS[name](**inputs, return_final_state=True, implementation=implementation)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("d_k", "d_v"), SIZES)
@pytest.mark.parametrize("name", OPS)
def test_every_instruction_set_and_size_equals_the_reference(name, d_k, d_v, dtype, isa):
    inputs = given(name, d_k, d_v, dtype=dtype)
    inputs["log_decay"][:, 40, :, ::2] = -math.inf
    want = values_and_gradients(run(name, "reference"), {k: v.double() for k, v in inputs.items()})
    assert_same(values_and_gradients(run(name, "cpu"), inputs), want, isa)


@pytest.mark.parametrize("decay", ["scalar", "none"])
@pytest.mark.parametrize("name", OPS)
def test_other_decays_on_every_instruction_set(name, decay, isa):
    inputs = given(name, 6, 20, decay=decay)
    want = values_and_gradients(run(name, "reference"), {k: v.double() for k, v in inputs.items()})
    assert_same(values_and_gradients(run(name, "cpu"), inputs), want, isa)


@pytest.mark.parametrize("name", OPS)
def test_threads_change_no_bit(name):
    inputs = given(name, 32, 32, length=140, batch=3)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        results.append(values_and_gradients(run(name, "cpu"), inputs))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(other[k], v) for k, v in results[0].items())


@pytest.mark.parametrize("name", OPS)
def test_only_the_outputs_that_are_used_need_a_gradient(name):
    inputs = given(name, 6, 5, dtype=torch.float64)
    for i in range(2):
        got, want = (
            values_and_gradients(lambda **a: run(name, form)(**a)[i : i + 1], inputs)  # noqa: B023
            for form in ("cpu", "reference")
        )
        assert_same(got, want, f"output {i}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", OPS)
def test_narrow_numbers_are_read_and_written_as_they_are(name, dtype, isa):
    wide = ("log_decay", "initial_state")
    inputs = {k: v if k in wide else v.to(dtype) for k, v in given(name, 5, 37).items()}
    got = values_and_gradients(run(name, "cpu"), inputs)
    want = values_and_gradients(run(name, "reference"), {k: v.double() for k, v in inputs.items()})
    assert got["output 0"].dtype == got["gradient of k"].dtype == dtype
    assert got["output 1"].dtype == got["gradient of log_decay"].dtype == torch.float32
    for key, tensor in want.items():
        assert_near(got[key], tensor, dtype=dtype, what=key)


@pytest.mark.parametrize("name", STEPS)
def test_a_step_writes_over_the_state_unless_it_is_needed(name):
    inputs = {k: v[:, 0] if k != "initial_state" else v for k, v in given(name, 6, 5).items()}
    if name == "gated_linear_attention":
        inputs["q"] = inputs["q"][:, :2]
    state = inputs.pop("initial_state")
    before, version = state.clone(), state._version
    wanted, kept = STEPS[name](**inputs, state=state.clone().requires_grad_())
    y, after = STEPS[name](**inputs, state=state)
    assert after is state
    assert state._version > version
    assert_near(y, wanted)
    assert_near(after, kept)
    for narrow in (before.bfloat16(), before.mT.contiguous().mT):
        same = narrow.clone()
        STEPS[name](**inputs, state=narrow)
        assert torch.equal(narrow, same)


def test_vmap_is_left_to_the_other_forms():
    inputs = given("gated_linear_attention", 3, 4, length=5, dtype=torch.float64)
    q = torch.stack([inputs.pop("q")] * 2)
    q[1] *= 2

    def attend(q):
        return gated_linear_attention(q, **inputs)

    one = attend(q[0])
    assert_near(torch.func.vmap(attend)(q), torch.stack([one, 2 * one]))


def test_the_extension_rejects_what_does_not_fit():
    q = torch.ones(1, 4, 2, 3)
    out, state = torch.ones(1, 4, 2, 3), torch.ones(1, 2, 3, 3)
    forward, view = native.library().linear_attention_forward, native.view

    def call(q=q, k=q, v=q, decay=None, bounds=None, o=out, state=state):
        forward(*map(view, (q, k, v, decay, None, bounds)), 1.0, (), *map(view, (o, state, None)), 1)

    call()
    cases = {
        "k of shape": {"k": q[:, :3]},
        "heads of v do not divide": {
            "v": torch.ones(1, 4, 2, 3),
            "q": torch.ones(1, 4, 3, 3),
            "k": torch.ones(1, 4, 3, 3),
        },
        "log_decay must have width 1": {"decay": q[..., :2].contiguous()},
        "o of shape": {"o": out[:, :3]},
        "q must have a floating dtype": {"q": q.long()},
        "states float32 or float64": {"state": state.half()},
        "o of dtype code 0; wanted code 3": {"v": q.half()},
        "bounds that rise from 0 to the length": {"bounds": torch.tensor([0, 5])},
        "k of strides": {"k": torch.ones(1, 4, 3, 2).mT},
    }
    for pattern, change in cases.items():
        with pytest.raises(ValueError, match=pattern):
            call(**change)
