"""S5 and LRU: golden values, discretised systems, states and gradients; initial values; sampling rates."""

import math

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from scan_modules import prefill_then_step
from seqconv import create_mixer
from seqconv.interop import from_original
from seqconv.parameters import parameter_groups
from tolerances import assert_near

LAYERS = ["s5_ssm_zoh", "s5_ssm_bilinear", "s5_ssm_bidirectional", "s5_layer", "s5_layer_fullglu", "lru", "lru_layer"]
CAUSAL = [name for name in LAYERS if "bidirectional" not in name and name != "s5_layer"]
TOLERANCE = (1e-8, 1e-9)


def imported_case(name):
    case = load_case(name)
    return case, Imported(case.meta["original"], case.group("param"), case.hyper)


def inputs_of(case):
    ((name, x),) = case.group("in").items()
    return name, x


@pytest.mark.parametrize("name", LAYERS)
def test_golden_outputs_and_gradients(name):
    case, imported = imported_case(name)
    key, x = inputs_of(case)
    x = x.requires_grad_()
    y = imported(x[None])[0]
    assert_close(y, case.tensors["out.y"], *TOLERANCE, "output")
    (y * case.tensors["cot.y"]).sum().backward()
    want = case.group("grad")
    assert_close(x.grad, want.pop(f"in.{key}"), *TOLERANCE, "gradient of the input")
    check_gradients(imported, want, *TOLERANCE)


@pytest.mark.parametrize("name", CAUSAL)
def test_golden_prefill_and_steps(name):
    case, imported = imported_case(name)
    _, x = inputs_of(case)
    y, _, final = prefill_then_step(imported, x[None], 7)
    assert_close(y[0], case.tensors["out.y"], *TOLERANCE, "outputs")
    if "out.state_final" in case.tensors:
        assert_close(final.recurrence[0], case.complex("out.state_final"), *TOLERANCE, "state")


@pytest.mark.parametrize("name", ["s5_ssm_zoh", "s5_ssm_bilinear", "s5_ssm_bidirectional"])
def test_golden_discretised_system(name):
    case = load_case(name)
    system = from_original(case.meta["original"], case.group("param"), **case.hyper).system()
    assert_close(system.a, case.complex("out.Lambda_bar"), *TOLERANCE, "factors")
    assert_close(system.B, case.complex("out.B_bar"), *TOLERANCE, "B")


def test_golden_classifier():
    case, imported = imported_case("s5_classifier")
    y = imported(case.tensors["in.x"], case.tensors["in.lengths"])
    assert_close(y, case.tensors["out.y"], *TOLERANCE, "output")
    (y * case.tensors["cot.y"]).sum().backward()
    check_gradients(imported, case.group("grad"), *TOLERANCE)


def test_initial_values_of_s5_are_those_of_the_original():
    case = load_case("s5_ssm_zoh")
    mixer = create_mixer("s5", 5, d_state=8, num_blocks=2, dt_min=0.01, dt_max=0.2)
    want = torch.complex(case.tensors["param_init.Lambda_re"], case.tensors["param_init.Lambda_im"])
    got = torch.complex(mixer.A_real, mixer.A_imag).detach().to(want.dtype)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert math.log(0.01) <= mixer.log_dt.min()
    assert mixer.log_dt.max() <= math.log(0.2)
    torch.manual_seed(0)
    wide = create_mixer("s5", 64, d_state=64)
    for name, variance in (("B", 1 / 64), ("C", 2 / 64)):
        power = getattr(wide, name).square().sum(-1).mean().item()
        assert power == pytest.approx(variance, rel=0.1), f"V is unitary: {name} keeps its variance"


def test_initial_values_of_lru():
    torch.manual_seed(0)
    mixer = create_mixer("lru", 64, d_state=4096, r_min=0.5, r_max=0.9, max_phase=1.0)
    a = mixer.system().a.detach()
    assert 0.5 <= a.abs().min() < 0.51
    assert 0.89 < a.abs().max() <= 0.9 + 1e-6
    assert a.abs().square().mean().item() == pytest.approx((0.25 + 0.81) / 2, rel=0.02)
    assert a.angle().min() > 0
    assert a.angle().max() <= 1.0 + 1e-6
    assert_near(mixer.gamma_log.detach().exp(), (1 - a.abs().square()).sqrt())
    assert mixer.B_re.std().item() == pytest.approx(128**-0.5, rel=0.05)
    assert mixer.C_im.std().item() == pytest.approx(1 / 64, rel=0.05)


def test_eigenvalues_learn_at_a_rate_of_their_own_without_decay():
    groups = parameter_groups(create_mixer("s5", 8), lr=1e-2, weight_decay=0.1)
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    mixer = create_mixer("lru", 8)
    groups = parameter_groups(mixer, lr=1e-2, weight_decay=0.1)
    assert (1e-3, 0.0) in rates.values()
    decays = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert decays[id(mixer.nu_log)] == decays[id(mixer.B_re)] == 0.0
    assert decays[id(mixer.C_re)] == 0.1


def test_half_the_sampling_rate_gives_the_same_function():
    """Of a slow signal, read at every second token with steps of twice the length."""
    torch.manual_seed(0)
    mixer = create_mixer("s5", 4, d_state=8, gate="none", dt_max=0.01).double()
    half = create_mixer("s5", 4, d_state=8, gate="none", dt_max=0.01, rate=2.0).double()
    half.load_state_dict(mixer.state_dict())
    t = torch.arange(2000, dtype=torch.float64)
    x = torch.stack([torch.sin(2 * math.pi * t / p) for p in (400, 500, 800, 1000)], dim=-1)[None]
    error = (half(x[:, ::2]) - mixer(x)[:, ::2]).abs().max()
    assert error < 0.02 * mixer(x).abs().max()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("s5", {"d_state": 6, "num_blocks": 2}, "d_state a multiple of 2 num_blocks"),
        ("s5", {"disc": "euler"}, "disc 'euler'"),
        ("s5", {"C_init": "normal"}, "C_init 'normal'"),
        ("s5", {"gate": "glu"}, "gate 'glu'"),
        ("s5", {"dt_min": 1.0}, "0 < dt_min <= dt_max"),
        ("lru", {"r_min": 0.9, "r_max": 0.5}, "0 <= r_min < r_max <= 1"),
    ],
)
def test_options_out_of_range_raise(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_mixer(name, 8, **options)


@pytest.mark.parametrize(
    ("original", "hyper"),
    [
        ("lindermanlab/S5:SequenceLayer", {"H": 4, "P_full": 8, "layer": {"activation": "relu"}}),
        (
            "NicolasZucchet/minimal-LRU:SequenceLayer",
            {"d_model": 4, "d_hidden": 4, "norm_order": "pre", "norm": "batch"},
        ),
    ],
)
def test_options_of_the_originals_that_were_not_checked_raise(original, hyper):
    with pytest.raises(ValueError, match=r"activation 'relu'|norm 'batch'"):
        from_original(original, {}, **hyper)
