"""S4D against the numbers of its original: kernels, discretisation, states, steps, whole layers, all gradients."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv.interop import from_original

RTOL, ATOL = 1e-9, 1e-10
KERNEL, OPTIONS = load_case("s4d_kernel"), load_case("s4d_kernel_options")
VARIANTS = [(case, name) for case in (KERNEL, OPTIONS) for name in case.meta["variants"]]
variants = pytest.mark.parametrize(("case", "name"), VARIANTS, ids=[name for _, name in VARIANTS])
STEPPED = [(case, name) for case, name in VARIANTS if f"out.{name}.y_step" in case.tensors]
stepped = pytest.mark.parametrize(("case", "name"), STEPPED, ids=[name for _, name in STEPPED])
LAYERS = ["s4d_block_causal", "s4d_block_bidirectional", "s4d_minimal"]


def hyper(case, name):
    return case.hyper | case.meta["variants"][name]


def loaded(case, name):
    return from_original(case.meta["original"], case.group(f"param.{name}"), **hyper(case, name))


def tolerances(name):
    """The original rounds the kernel of DSS to float32."""
    return (1e-5, 1e-6) if name == "dss" else (RTOL, ATOL)


@variants
def test_kernel_and_its_gradients(case, name):
    imported = Imported(case.meta["original"], case.group(f"param.{name}"), hyper(case, name))
    want = case.tensors[f"out.{name}.k"]
    k = imported(want.shape[-1]).view(want.shape)
    tolerance = tolerances(name)
    assert_close(k, want, *tolerance)
    (k * case.tensors[f"cot.{name}.k"]).sum().backward()
    check_gradients(imported, case.group(f"grad.{name}"), *tolerance)


@variants
def test_kernel_at_another_sampling_rate(case, name):
    want, module = case.tensors[f"out.{name}.k_rate_2.0"], loaded(case, name)
    module.rate = 2.0
    assert_close(module(want.shape[-1]).view(want.shape), want, *tolerances(name))


@stepped
def test_discretisation(case, name):
    module = loaded(case, name)
    log_poles, B = module.discretised()
    assert_close(log_poles.exp(), case.complex(f"out.{name}.dA"), RTOL, ATOL)
    assert_close(B, case.complex(f"out.{name}.dB"), RTOL, ATOL)
    assert_close(module.state_space().C, case.complex(f"out.{name}.dC"), RTOL, ATOL)


@stepped
def test_states_and_steps(case, name):
    """The state lacks the factor Bd, which the residues carry instead."""
    module = loaded(case, name)
    recurrence, B = module.recurrence(), module.discretised()[1]
    u = case.tensors["in.u"].transpose(1, 2)
    y, end = recurrence.prefill(u, recurrence.init_state(len(u)))
    assert_close(y.mT[:, None], case.tensors[f"out.{name}.y_conv"], RTOL, ATOL)
    assert_close(end.hidden * B, case.complex(f"out.{name}.final_state"), RTOL, ATOL)

    state, outputs = recurrence.init_state(len(u)), []
    for u_t in u.unbind(1):
        y_t, state = recurrence.step(u_t, state)
        outputs.append(y_t)
    assert_close(torch.stack(outputs, dim=-1)[:, None], case.tensors[f"out.{name}.y_step"], RTOL, ATOL)

    start = recurrence.init_state(len(u))
    start.hidden = case.complex("in.state") / B
    silent, _ = recurrence.prefill(torch.zeros_like(u), start)
    assert_close(silent.mT[:, None], case.tensors[f"out.{name}.k_state"], RTOL, ATOL)
    _, end = recurrence.prefill(u, start)
    assert_close(end.hidden * B, case.complex(f"out.{name}.forward_state_from_state"), RTOL, ATOL)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_and_its_gradients(name):
    case = load_case(name)
    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    u = case.tensors["in.u"].clone().requires_grad_()
    y = imported(u.transpose(1, 2)).transpose(1, 2)
    assert_close(y, case.tensors["out.y"], RTOL, ATOL)
    (y * case.tensors["cot.y"]).sum().backward()
    want = case.group("grad")
    assert_close(u.grad, want.pop("in.u"), RTOL, ATOL, "gradient of the input")
    check_gradients(imported, want, RTOL, ATOL)


def test_layer_in_steps():
    case = load_case("s4d_block_causal")
    layer = from_original(case.meta["original"], case.group("param"), **case.hyper)
    u = case.tensors["in.u"].transpose(1, 2)
    state, outputs = layer.init_state(len(u)), []
    for u_t in u.unbind(1):
        y_t, state = layer.step(u_t, state)
        outputs.append(y_t)
    assert_close(torch.stack(outputs, dim=-1), case.tensors["out.y_step"], RTOL, ATOL)
    B = layer.convolution.filter.discretised()[1]
    hidden = state.hidden.hidden[:, : layer.inner] * B
    assert_close(hidden, case.complex("out.final_state"), RTOL, ATOL)


def test_float32_stays_within_the_case():
    """All float32 tolerances are relative to the largest tap."""
    for case, name in VARIANTS:
        want = case.tensors[f"out.{name}.k"].double()
        got = loaded(case, name).float()(want.shape[-1]).view(want.shape).double()
        assert (got - want).abs().max() <= 1e-5 * want.abs().max(), name


def test_unknown_hyper_parameters_raise():
    with pytest.raises(ValueError, match=r"hyper-parameter 'd_stat'.*did you mean 'd_state'"):
        from_original("state-spaces/s4:S4Block", {}, d_model=4, mode="s4d", d_stat=8)
    with pytest.raises(ValueError, match=r"mode 's4x'.*one of"):
        from_original("state-spaces/s4:S4Block", {}, d_model=4, mode="s4x")
    with pytest.raises(ValueError, match=r"hyper-parameter 'd_stat'.*did you mean 'd_state'"):
        from_original("state-spaces/s4:S4D", {}, d_model=4, d_stat=8)
