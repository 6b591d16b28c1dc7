"""S4 against the numbers of its original: HiPPO matrices, kernels, doubling, states, steps, layers, all gradients."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv.filters.state_space.hippo import nplr, rank_correction, transition
from seqconv.filters.state_space.s4 import complex_rows, real_columns
from seqconv.interop import from_original

RTOL, ATOL = 1e-7, 1e-8
KERNELS = [load_case(f"s4_dplr_{name}") for name in ("legs", "legt", "fourier_tied", "hippo_combo")]
kernels = pytest.mark.parametrize("case", KERNELS, ids=lambda case: case.name)
STAGES = pytest.mark.parametrize("stage", ["param", "param_after"])
HIPPO = load_case("s4_hippo")
MEASURES = sorted({key.split(".")[1] for key in HIPPO.tensors if key.endswith(".A")} - {"nplr"})
NORMAL_FORMS = ["legs", "legs_rank2", "legs_noclip", "legsd", "legt", "lagt", "fourier", "fourier2", "fourier_decay"]


def loaded(case, stage="param"):
    return from_original(case.meta["original"], case.group(stage), **case.hyper)


@pytest.mark.parametrize("measure", MEASURES)
def test_hippo_matrices(measure):
    A, B = transition(measure, 8, **HIPPO.meta["measure_args"].get(measure, {}))
    assert_close(A, HIPPO.tensors[f"out.{measure}.A"], 1e-10, 1e-12, "A")
    assert_close(B[:, None], HIPPO.tensors[f"out.{measure}.B"], 1e-10, 1e-12, "B")
    if f"out.{measure}.P_dense" in HIPPO.tensors:
        want = HIPPO.tensors[f"out.{measure}.P_dense"]
        assert_close(rank_correction(measure, 8), want, *((1e-6, 0) if want.dtype == torch.float32 else (1e-10, 1e-12)))


def test_hippo_rank_above_the_measures_own():
    assert_close(rank_correction("legs", 8, 2), HIPPO.tensors["out.legs_rank2.P_dense"], 1e-10, 1e-12)


@pytest.mark.parametrize("name", NORMAL_FORMS)
def test_hippo_normal_plus_low_rank_form(name):
    """Eigenvectors are unique only up to a phase each: what is compared does not depend on it."""
    measure = "legs" if name.startswith("legs_") else name
    form = nplr(measure, 8, 2 if "rank2" in name else None, B_clip=None if "noclip" in name else 2.0)
    # The original's P of the Fourier measures is in float32, so are its poles.
    exact = 1e-6 if "fourier" in name else 1e-10
    assert_close(form.poles, HIPPO.complex(f"out.nplr.{name}.W"), exact, exact, "poles")
    normal = 2 * (form.V @ torch.diag(form.poles) @ form.V.mH).real
    low_rank = (form.V @ form.P.mT).real * 2
    assert_close(normal - low_rank @ low_rank.mT, HIPPO.tensors[f"out.nplr.{name}.recon_A"], 1e-6, 1e-6, "A")
    if name != "legs_rank2" and "legs" in name:
        A, _ = transition(measure, 8)
        assert_close(normal - low_rank @ low_rank.mT, A, 1e-10, 1e-10, "A")
    want = HIPPO.complex(f"out.nplr.{name}.P")
    assert_close(form.P.abs(), want.abs(), 1e-6, 1e-6, "P")
    if name == "legs_noclip":
        assert_close(2 * (form.V @ form.B).real, transition("legs", 8)[1], 1e-10, 1e-10, "B")


def test_fourier_diag_keeps_both_halves_of_its_real_pair():
    """The original keeps one of the two real eigenvalues twice; seqconv reconstructs A."""
    form = nplr("fourier_diag", 8)
    A, _ = transition("fourier_diag", 8)
    assert_close(2 * (form.V @ torch.diag(form.poles) @ form.V.mH).real, A, 1e-10, 1e-12)


@kernels
@STAGES
def test_kernel_and_its_gradients(case, stage):
    """From before and from after the first forward, which replaces C by C~ without gradient."""
    imported = Imported(case.meta["original"], case.group(stage), case.hyper)
    k = imported(case.hyper["L"]).view(case.tensors["out.k"].shape)
    assert_close(k, case.tensors["out.k"], RTOL, ATOL)
    (k * case.tensors["cot.k"]).sum().backward()
    check_gradients(imported, case.group("grad"), RTOL, ATOL)


@kernels
def test_transformed_C(case):
    module = loaded(case)
    assert int(module.l_kernel) == int(case.tensors["param_after.l_kernel"])
    assert_close(module.C, case.tensors["param_after.C"], RTOL, ATOL)


@kernels
def test_discretisation(case):
    """The original's matrices act on [x, conj(x)], seqconv's on [Re x, Im x]."""
    module = loaded(case)
    A, B = module.discretised()
    pairs = A.shape[-1] // 2
    both = case.complex("out.dA")
    X, Y = both[:, :pairs, :pairs], both[:, :pairs, pairs:]
    want = torch.cat([torch.cat([(X + Y).real, (Y - X).imag], -1), torch.cat([(X + Y).imag, (X - Y).real], -1)], dim=-2)
    assert_close(A, want, RTOL, ATOL, "dA")
    assert_close(B, real_columns(case.complex("out.dB")[:, :pairs]), RTOL, ATOL, "dB")
    C = complex_rows(module.recurrence().C).view(module.heads, module.features, pairs)
    assert_close(C, case.complex("out.dC")[..., :pairs], RTOL, ATOL, "dC")


@kernels
@STAGES
def test_states_and_steps(case, stage):
    module = loaded(case, stage)
    recurrence, heads, H = module.recurrence(), module.heads, module.features
    pairs = module.d_state // 2
    u = case.tensors["in.u"].transpose(1, 2).repeat(1, 1, heads)
    shape = case.tensors["out.y_conv"].shape

    def hidden(state):
        return torch.complex(*state.hidden[:, :H].chunk(2, dim=-1))

    y, end = recurrence.prefill(u, recurrence.init_state(len(u)))
    assert_close(y.mT.reshape(shape), case.tensors["out.y_conv"], RTOL, ATOL, "prefill")
    assert_close(hidden(end), case.complex("out.forward_state_from_zero"), RTOL, ATOL, "state after prefill")
    state, outputs = recurrence.init_state(len(u)), []
    for u_t in u.unbind(1):
        y_t, state = recurrence.step(u_t, state)
        outputs.append(y_t)
    assert_close(torch.stack(outputs, -1).view(shape), case.tensors["out.y_step_linear"], RTOL, ATOL, "steps")
    assert_close(hidden(state), case.complex("out.final_state_linear"), RTOL, ATOL, "state after steps")
    assert_close(hidden(state), case.complex("out.final_state_dense")[..., :pairs], RTOL, ATOL)

    start = recurrence.init_state(len(u))
    start.hidden = real_columns(case.complex("in.state")).repeat(1, heads, 1)
    silent, _ = recurrence.prefill(torch.zeros_like(u), start)
    assert_close(silent.mT.reshape(shape), case.tensors["out.k_state"], RTOL, ATOL, "echo of a state")
    _, end = recurrence.prefill(u, start)
    assert_close(hidden(end), case.complex("out.forward_state_from_state"), RTOL, ATOL, "state from a state")


def test_doubling_leaves_the_parameters_alone():
    case = KERNELS[0]
    module, want = loaded(case), case.tensors["out.k_L2_after_doubling"]
    before = {k: v.clone() for k, v in module.state_dict().items()}
    assert_close(module(case.hyper["L2"]).view(want.shape), want, RTOL, ATOL)
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    doubled = from_original(case.meta["original"], case.group("param_after_L2"), **case.hyper)
    assert doubled.tuned_length == int(case.tensors["param_after_L2.l_kernel"]) == 192
    assert_close(doubled(case.hyper["L2"]).view(want.shape), want, RTOL, ATOL)
    assert_close(doubled(48).view(1, 4, 48), case.tensors["out.k"], RTOL, ATOL)


@pytest.mark.parametrize("rate", [2.0, 0.5])
def test_kernel_at_another_sampling_rate(rate):
    case = KERNELS[0]
    module, want = loaded(case), case.tensors[f"out.k_rate_{rate}"]
    module.rate = rate
    assert_close(module(want.shape[-1]).view(want.shape), want, RTOL, ATOL)


@pytest.mark.parametrize("name", ["s4_block", "s4_block_bidirectional"])
@STAGES
def test_layer_and_its_gradients(name, stage):
    case = load_case(name)
    imported = Imported(case.meta["original"], case.group(stage), case.hyper)
    u = case.tensors["in.u"].clone().requires_grad_()
    y = imported(u.transpose(1, 2)).transpose(1, 2)
    assert_close(y, case.tensors["out.y"], RTOL, ATOL)
    (y * case.tensors["cot.y"]).sum().backward()
    want = case.group("grad")
    assert_close(u.grad, want.pop("in.u"), RTOL, ATOL, "gradient of the input")
    check_gradients(imported, want, RTOL, ATOL)


def test_layer_in_steps():
    case = load_case("s4_block")
    layer = loaded(case)
    u = case.tensors["in.u"].transpose(1, 2)
    state, outputs = layer.init_state(len(u)), []
    for u_t in u.unbind(1):
        y_t, state = layer.step(u_t, state)
        outputs.append(y_t)
    assert_close(torch.stack(outputs, dim=-1), case.tensors["out.y_step"], RTOL, ATOL)
    pairs = layer.convolution.filter.inner.d_state // 2
    hidden = torch.complex(*state.inner.hidden.hidden.chunk(2, dim=-1))
    assert_close(hidden, case.complex("out.final_state")[..., :pairs], RTOL, ATOL)


@pytest.mark.parametrize("name", ["s4_backbone_prenorm_batch", "s4_backbone_postnorm_layer"])
def test_backbone_and_its_gradients(name):
    case = load_case(name)
    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    u = case.tensors["in.u"].clone().requires_grad_()
    y = imported(u)
    assert_close(y, case.tensors["out.y"], RTOL, ATOL)
    (y * case.tensors["cot.y"]).sum().backward()
    want = case.group("grad")
    assert_close(u.grad, want.pop("in.u"), RTOL, ATOL, "gradient of the input")
    check_gradients(imported, want, RTOL, ATOL)


@kernels
def test_float32_stays_within_the_case(case):
    want = case.tensors["out.k"]
    got = loaded(case).float()(case.hyper["L"]).view(want.shape).double()
    assert_close(got, want, 2e-3, 1e-3 * want.abs().max().item())
