"""What holds for S4 and S4D beyond what every mixer's tests and the original's numbers say."""

import math

import pytest
import torch

from golden_cases import load_case
from seqconv import create_mixer
from seqconv.filters.explicit.dense import DenseSSM, dense_response
from seqconv.filters.state_space.hippo import nplr, rank_correction, transition
from seqconv.filters.state_space.s4 import S4Filter, real_columns, real_rows
from seqconv.filters.state_space.s4d import S4DFilter
from seqconv.filters.state_space.ssm_init import DiagonalOptions, initial_ssm
from seqconv.filters.wrappers import TapDropout, TruncatedFilter
from seqconv.options import with_defaults
from tolerances import assert_near

S4_OPTIONS = [
    {},
    {"init": "legt", "rank": 2},
    {"init": "legs", "rank": 3, "heads": 2, "n_ssm": 2},
    {"init": "all", "dt_tie": False, "dt_transform": "softplus"},
    {"init": "dplr-lin", "real_transform": "softplus", "dt_fast": True, "rate": 0.5},
    {"init": "fourier_diag", "bandlimit": 0.5},
]
s4_options = pytest.mark.parametrize("options", S4_OPTIONS, ids=str)


def s4(seed=0, **options):
    """Built in float64, so that C~ is C transformed without rounding."""
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.float64)
    try:
        return S4Filter(4, d_state=8, dt_min=0.01, dt_max=0.2, **options)
    finally:
        torch.set_default_dtype(torch.float32)


def impulse_by_steps(filter, length):
    recurrence = filter.recurrence()
    u = torch.zeros(1, length, filter.channels, dtype=torch.float64)
    u[:, 0] = 1
    state, taps = recurrence.init_state(1), []
    for u_t in u.unbind(1):
        y_t, state = recurrence.step(u_t, state)
        taps.append(y_t[0])
    return torch.stack(taps, dim=-1)


@s4_options
@pytest.mark.parametrize("length", [1, 2, 31, 32, 70])
def test_generating_function_powers_and_steps_agree(options, length):
    """With C~ tuned for 32 or 33 taps (which do and do not have the frequency z = -1), and with C itself."""
    free = s4(**options)
    want = impulse_by_steps(free, length)
    assert_near(free(length), want, what="powers")
    for l_max in (32, 33):
        tuned = s4(**options, l_max=l_max)
        # A silenced part of C~ is not that of C, and C~ of one rate is only nearly that of another.
        if not {"bandlimit", "rate"} & set(options):
            assert_near(tuned(length), want, what=f"tuned for {l_max}")
        assert_near(impulse_by_steps(tuned, length), tuned(length), what="steps of the tuned one")


def test_the_tuned_parameter_differs_from_C_and_longer_responses_are_differentiable():
    free, tuned = s4(), s4(l_max=16)
    assert (free.C - tuned.C).abs().max() > 1e-3
    tuned(40).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in tuned.parameters())
    assert int(tuned.l_kernel) == 16


@pytest.mark.parametrize("length", [16, 64, 256])
def test_float32_is_exact_at_the_alternating_frequency(length):
    """Even lengths have omega = -1, where the bilinear transform is infinite: errors would alternate in sign."""
    exact = s4(l_max=length)
    rounded = S4Filter(4, d_state=8, dt_min=0.01, dt_max=0.2, l_max=length)
    rounded.load_state_dict(exact.state_dict())
    error = (rounded(length).double() - exact(length)).abs().max()
    assert error < 1e-5 * exact(length).abs().max()


def test_zero_order_hold_is_the_exact_response_to_steps():
    """Constant input: the state after t steps is A^-1 (exp(t dt A) - 1) B."""
    filter = s4(disc="zoh")
    space, n = filter.state_space(), 8
    P = filter.weights("P")
    A = torch.diag_embed(torch.cat([space.A, space.A.conj()], -1))
    P_all, B, C = (torch.cat([x, x.conj()], dim=-1) for x in (P[0], space.B, space.C[0]))
    A = A - P_all[:, :, None] * P_all[:, None].conj()
    time = 25 * space.dt[..., None]
    growth = torch.linalg.matrix_exp(A * time) - torch.eye(n, dtype=A.dtype)
    want = (C * (torch.linalg.inv(A) @ growth @ B[..., None])[..., 0]).sum(-1).real
    assert_near(filter(25).sum(-1), want)


@pytest.mark.parametrize("measure", ["legs", "legsd", "legt", "lagt", "fourier", "fourier2", "fourier_decay"])
@pytest.mark.parametrize("d_state", [2, 16, 64])
def test_normal_part_plus_low_rank_part_is_the_measure(measure, d_state):
    """``lagt`` and ``legt`` have eigenvalues near 0 in their normal part; all are reconstructed."""
    form, (A, _) = nplr(measure, d_state), transition(measure, d_state)
    P = rank_correction(measure, d_state)
    normal = 2 * (form.V @ torch.diag(form.poles) @ form.V.mH).real
    assert_near(normal - P.mT @ P, A)
    assert (form.poles.real <= 1e-12).all()
    assert (form.poles.imag <= 1e-12).all()


def test_legs_state_holds_the_legendre_coefficients_of_the_past():
    """HiPPO's promise: driven by a constant 1, the scaled LegS state is e_0 (the constant function)."""
    A, B = transition("legs", 6)
    torch.testing.assert_close(torch.linalg.solve(-A, B), torch.eye(6, dtype=torch.float64)[0] * 1.0)


@pytest.mark.parametrize("length", [1, 2, 7, 64, 65])
def test_dense_recurrence_in_all_forms(length):
    generator = torch.Generator().manual_seed(0)
    A, B, C, u = (
        torch.randn(*size, dtype=torch.float64, generator=generator)
        for size in ((3, 5, 5), (3, 5), (3, 5), (2, length + 9, 3))
    )
    ssm = DenseSSM(A / 6, B, C)
    state, outputs = ssm.init_state(2), []
    for u_t in u.unbind(1):
        y, state = ssm.step(u_t, state)
        outputs.append(y)
    y1, between = ssm.prefill(u[:, :length], ssm.init_state(2))
    y2, end = ssm.prefill(u[:, length:], between)
    assert_near(torch.cat([y1, y2], dim=1), torch.stack(outputs, dim=1))
    assert_near(end.hidden, state.hidden)
    taps = [(C[:, None] @ torch.linalg.matrix_power(A / 6, t) @ B[..., None])[:, 0, 0] for t in range(length)]
    assert_near(dense_response(A / 6, B, C[None], length)[0], torch.stack(taps, dim=-1))


def test_real_form_of_rows_and_columns():
    x, C = torch.randn(2, 3, 4, dtype=torch.complex128)
    torch.testing.assert_close((real_rows(C) * real_columns(x)).sum(-1), 2 * (C * x).sum(-1).real)


@pytest.mark.parametrize("disc", ["zoh", "bilinear"])
def test_s4d_at_twice_the_rate_skips_every_second_sample_of_a_smooth_response(disc):
    torch.manual_seed(0)
    filter = S4DFilter(3, d_state=8, init="lin", disc=disc, dt_min=1e-4, dt_max=2e-4).double()
    fine = filter(201)
    filter.rate = 2.0
    assert (filter(101) / 2 - fine[:, ::2]).abs().max() < 2e-3 * fine.abs().max()


def test_zero_order_hold_at_a_pole_of_zero():
    filter = S4DFilter(1, d_state=2, init="lin", real_transform="none").double()
    with torch.no_grad():
        filter.A_real.zero_(), filter.A_imag.zero_(), filter.C.copy_(torch.tensor([1.0, 0.0]))
    taps = filter(4)
    torch.testing.assert_close(taps, 2 * filter.inv_dt.exp().expand(1, 4))
    taps.sum().backward()
    assert filter.A_real.grad.isfinite().all()


@pytest.mark.parametrize("length", [5, 32, 50])
def test_dss_with_a_length_of_its_own_has_a_recurrence(length):
    torch.manual_seed(0)
    filter = S4DFilter(2, d_state=8, init="lin", disc="dss", dss_length=32, real_transform="none").double()
    assert_near(impulse_by_steps(filter, length), filter(length))
    with torch.no_grad():
        filter.A_real[0, 0] = -0.03
    assert_near(impulse_by_steps(filter, length), filter(length), what="a growing pole")
    assert S4DFilter(2, disc="dss").recurrence() is None


@pytest.mark.parametrize("variant", ["legs_zoh", "lin_zoh", "inv_zoh"])
def test_initial_values_are_the_originals(variant):
    case = load_case("s4d_kernel")
    want = case.group(f"param_init.{variant}")
    filter = S4DFilter(3, d_state=8, init=f"diag-{variant[:-4].removeprefix('diag-')}")
    for name in ("A_real", "A_imag"):
        torch.testing.assert_close(getattr(filter, name), want[name], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(filter.weights("B").abs(), torch.view_as_complex(want["B"][0]).abs(), rtol=1e-4, atol=0)
    dt = filter.inv_dt.exp()
    assert ((dt >= 0.001) & (dt <= 0.1)).all()


def test_deterministic_initialisation_reads_the_first_coordinate():
    filter = S4DFilter(4, d_state=8, init="legs", deterministic=True, dt_min=0.01, dt_max=0.1).double()
    V = nplr("legs", 8).V
    assert_near(filter.weights("C")[0, 0], V[0].to(torch.complex64).to(V.dtype), dtype=torch.float32)
    torch.testing.assert_close(filter.inv_dt[:, 0].exp(), torch.logspace(-2, -1, 4).double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("init", ["inv2", "quad", "random", "real", "linear", "diag", "diag-legs", "dplr-inv"])
def test_every_initialisation_is_stable(init):
    torch.manual_seed(0)
    options = with_defaults(DiagonalOptions, {"B_init": "alternating", "normalize": True}, "test")
    start = initial_ssm(init, 8, 1, 4, options)
    assert start.poles.shape == start.B.shape == (4, 4)
    assert (start.poles.real < 0).all()
    assert (start.poles.imag <= 0).all()
    assert (start.P.abs().sum() > 0) == init.startswith("dplr")
    gain = 2 * (start.B / start.poles).abs().square().sum(-1)
    torch.testing.assert_close(gain, torch.ones_like(gain))


@pytest.mark.parametrize("b_init", ["unit-cw", "unit-ccw", "constant", "legs", "random"])
def test_input_weights_and_scales(b_init):
    given = {"B_init": b_init, "B_scale": 2.0, "real_random": True, "imag_random": True, "real_scale": 3.0}
    options = with_defaults(DiagonalOptions, given, "test")
    start = initial_ssm("diag-lin", 8, 1, 4, options)
    if b_init not in ("random", "legs"):
        torch.testing.assert_close(start.B.abs(), torch.full((4, 4), 2.0).double())
    assert (start.poles.real >= -3).all()
    assert start.poles.imag.abs().max() <= 4 * math.pi


def test_slow_parameters_say_so_to_the_optimiser():
    filter = S4Filter(4, d_state=8)
    marks = {name: getattr(p, "_optim", {}) for name, p in filter.named_parameters()}
    assert marks.pop("C") == {}
    assert set(marks) == {"inv_dt", "A_real", "A_imag", "B", "P"}
    assert all(mark == {"lr": 1e-3, "weight_decay": 0.0} for mark in marks.values())
    filter = S4DFilter(4, d_state=8, lr={"A": 1e-4, "dt": 0.0}, wd=None)
    assert filter.A_real._optim == {"lr": 1e-4}
    assert "inv_dt" in dict(filter.named_buffers())


def test_narrow_dtypes_leave_the_poles_in_float32():
    mixer = create_mixer("s4d", 4, d_state=8).to(torch.bfloat16)
    assert mixer.D.dtype == torch.bfloat16
    assert mixer.convolution.filter.A_imag.dtype == torch.float32
    assert mixer.double().convolution.filter.A_imag.dtype == torch.float64


def test_truncated_and_dropped_taps():
    inner = S4DFilter(2, d_state=4).double()
    cut = TruncatedFilter(inner, 5)
    assert_near(cut(9)[:, :5], inner(5))
    assert not cut(9)[:, 5:].any()
    dropped = TapDropout(inner, 0.5)
    assert_near(dropped.eval()(9), inner(9))
    assert (dropped.train()(200) == 0).float().mean() > 0.3
    assert cut.recurrence() is None
    assert TruncatedFilter(inner, 5, untruncated_steps=True).recurrence() is not None
    mixer = create_mixer("s4d", 4, truncation=5, d_state=4, kernel_dropout=0.1).double().eval()
    x = torch.zeros(1, 9, 4, dtype=torch.float64)
    x[:, 0] = 1
    silence = mixer(x)[:, 5:]
    assert_near(silence, mixer(torch.zeros_like(x))[:, 5:])


@pytest.mark.parametrize("name", ["s4", "s4d"])
def test_a_truncated_layer_decodes_what_forward_computes_or_raises(name):
    torch.manual_seed(0)
    mixer = create_mixer(name, 4, truncation=9, d_state=4).double().eval()
    bounded = create_mixer(name, 4, truncation=9, d_state=4, recurrent_steps=True).double().eval()
    bounded.load_state_dict(mixer.state_dict())
    x = torch.randn(2, 30, 4, dtype=torch.float64)
    assert_near(mixer.prefill(x)[0], mixer(x))
    assert bounded.state_kind == "constant"
    y, state = bounded.prefill(x[:, :9])
    assert_near(y, mixer(x)[:, :9])
    for use in (lambda: bounded.step(x[:, 9], state), lambda: bounded.prefill(x[:, :10])):
        with pytest.raises(ValueError, match=r"10 tokens with truncation=9.*at most 9 tokens.*Remedy"):
            use()


def test_padding_behind_a_bottleneck_with_a_bias():
    mixer = create_mixer("s4", 4, bottleneck=2, d_state=4, bidirectional=True).double().eval()
    x = torch.randn(1, 9, 4, dtype=torch.float64)
    mask = torch.arange(12)[None] < 9
    assert_near(mixer(torch.nn.functional.pad(x, (0, 0, 0, 3)), mask=mask)[:, :9], mixer(x))


UNSUPPORTED = {
    r"state space: received features=4, heads=1, n_ssm=3; .*divisor": {"n_ssm": 3},
    r"state space: received dt_min=0.1, dt_max=0.01; .*change the range": {"dt_min": 0.1, "dt_max": 0.01},
    r"state space: received rate=0": {"rate": 0.0},
    r"state space: received dt_transform 'expp'.*did you mean 'exp'": {"dt_transform": "expp"},
    r"S4DFilter: received disc 'bilinea'.*did you mean 'bilinear'": {"disc": "bilinea"},
    r"initial_ssm: received init 'lgs'.*did you mean 'legs'": {"init": "lgs"},
    r"initial_ssm: received B_init 'constnt'.*did you mean 'constant'": {"init": "lin", "B_init": "constnt"},
    r"state space: received d_state=7; wanted an even": {"d_state": 7},
    r"initial_ssm: received n_ssm=1; wanted a multiple of 2": {"init": "diag", "n_ssm": 1},
    r"S4DFilter: received dss_length=3 with disc='zoh'": {"dss_length": 3},
    r"state space: received a bandlimit for real poles": {"is_real": True, "bandlimit": 0.5},
    r"s4d: received activation 'glue'.*did you mean 'glu'": {"activation": "glue"},
    r"s4d: received initializer 'xavir'.*did you mean 'xavier'": {"initializer": "xavir"},
    r"s4d: received bottleneck=3; wanted a divisor of d_model=4": {"bottleneck": 3},
    r"s4d: received channels=0, gate=None": {"channels": 0},
    r"s4d: received outputs of width 8 without an output projection": {"channels": 2, "final_activation": None},
    r"TruncatedFilter: received taps=-1": {"truncation": -1},
}


@pytest.mark.parametrize("pattern", UNSUPPORTED)
def test_errors_of_s4d(pattern):
    with pytest.raises(ValueError, match=pattern) as error:
        create_mixer("s4d", 4, **UNSUPPORTED[pattern])
    assert "Remedy: " in str(error.value)


def test_errors_of_s4():
    for pattern, options in {
        r"hippo.rank_correction: received rank=1 for 'legt'; wanted at least 2": {"init": "legt"},
        r"S4Filter: received l_max=9 with disc='zoh'": {"disc": "zoh", "l_max": 9},
        r"S4Filter: received disc 'bilin'": {"disc": "bilin"},
    }.items():
        with pytest.raises(ValueError, match=rf"{pattern}.*Remedy"):
            create_mixer("s4", 4, **options)
    with pytest.raises(ValueError, match=r"hippo.transition: received measure 'legz'.*did you mean"):
        transition("legz", 4)
    with pytest.raises(ValueError, match=r"hippo.transition\('lagt'\): received option 'bta'.*did you mean 'beta'"):
        transition("lagt", 4, bta=1.0)
    with pytest.raises(ValueError, match=r"hippo.rank_correction: received measure 'lmu'"):
        nplr("lmu", 4)
    with pytest.raises(ValueError, match=r"hippo.nplr: received d_state=5; wanted an even"):
        nplr("legs", 5)
