"""Mamba-3: golden outputs, states and gradients of the layer and of its scan; steps; rotated pairs; errors."""

import math

import pytest
import torch
import torch.nn.functional as F

from golden_cases import Imported, assert_close, check_gradients, load_case
from scan_modules import prefill_then_step
from seqconv import create_mixer
from seqconv.mixers.state_space.mamba3 import rotate_pairs, trapezoidal_scan
from tolerances import assert_near

CASES = ["mamba3_siso", "mamba3_mimo", "mamba3_mimo_norm_unfused"]
TOLERANCE = (1e-8, 1e-9)
each_case = pytest.mark.parametrize("name", CASES)


def imported_case(name):
    case = load_case(name)
    return case, Imported(case.meta["original"], case.group("param"), case.hyper)


@each_case
def test_golden_outputs_and_gradients(name):
    case, imported = imported_case(name)
    u = case.tensors["in.u"].clone().requires_grad_()
    y = imported(u)
    assert_close(y, case.tensors["out.y"], *TOLERANCE, "output")
    (y * case.tensors["cot.y"]).sum().backward()
    want = case.group("grad")
    assert_close(u.grad, want.pop("in.u"), *TOLERANCE, "gradient of the input")
    check_gradients(imported, want, *TOLERANCE)


@each_case
def test_golden_states_after_prefill_and_steps(name):
    case, imported = imported_case(name)
    u = case.tensors["in.u"]
    for prompt in (1, 5, u.shape[1]):
        y, _, state = prefill_then_step(imported, u, prompt)
        assert_close(y, case.tensors["out.y"], *TOLERANCE, "outputs")
        turns = (state.angle - case.tensors["out.state_angle"]) / (2 * math.pi)
        assert_close(turns, turns.round(), *TOLERANCE, "angles, but for whole turns")
        k = case.tensors["out.state_k"]
        assert_close(state.b, k if k.dim() == 4 else k[:, None], *TOLERANCE, "last keys")
        if "out.state_ssm_NP" in case.tensors:
            assert_close(state.ssm, case.tensors["out.state_ssm_NP"], *TOLERANCE, "state")
        else:
            assert_close(state.ssm.mT, case.tensors["out.state_ssm"], *TOLERANCE, "state")
            assert_close(state.x, case.tensors["out.state_v"], *TOLERANCE, "last inputs")


def test_golden_scan_from_a_state():
    case = load_case("mamba3_scan")
    given = {name: t.requires_grad_() for name, t in case.group("in").items()}
    heads = given["V"].shape[2]
    dt, log_decay, mix = (given[name].mT for name in ("DT", "ADT", "Trap"))
    mix = mix.sigmoid()
    turn = (math.pi * torch.tanh(given["Angles"]) * dt[..., None]).cumsum(1)
    angle = given["state_angle"][:, None] + turn
    k, q = (rotate_pairs(given[n].repeat_interleave(heads, 2) + given[f"{n}_bias"], angle, adjacent=True) for n in "KQ")
    before = torch.einsum("bhn,bhp->bhnp", given["state_k"], given["state_v"])
    before = given["state_ssm"].mT + ((1 - mix) * dt)[:, 0, :, None, None] * before
    y, state = trapezoidal_scan(q[:, :, None], k[:, :, None], given["V"][:, :, None], log_decay, dt, mix, before)
    y = (y[:, :, 0] + given["D"][:, None] * given["V"]) * F.silu(given["Z"])
    final = {"state_ssm": state.mT, "state_k": k[:, -1], "state_v": given["V"][:, -1]}
    final["state_angle"] = angle[:, -1].remainder(2 * math.pi)
    assert_close(y, case.tensors["out.y"], *TOLERANCE, "output")
    loss = (y * case.tensors["cot.y"]).sum()
    for name, tensor in final.items():
        assert_close(tensor, case.tensors[f"out.final_{name}"], *TOLERANCE, name)
        loss = loss + (tensor * case.tensors[f"cot.final_{name}"]).sum()
    loss.backward()
    for name, tensor in given.items():
        assert_close(tensor.grad, case.tensors[f"grad.in.{name}"], *TOLERANCE, f"gradient of {name}")


def by_the_equation(mixer, u):
    """The layer token by token, every head on its own."""
    m, heads, states, outputs = mixer, range(mixer.heads), {}, []
    angle = torch.zeros(u.shape[0], m.heads, m.angles, dtype=u.dtype)
    for t in range(u.shape[1]):
        z, x, B, C, delta, a, trap, phi = m.in_proj(u[:, t]).split(m.parts, dim=-1)
        dt, mix = F.softplus(delta + m.dt_bias), trap.sigmoid()
        A = -torch.where(a >= 0, 1 + a, 1 / (1 - a)).clamp(min=m.A_floor)
        angle = angle + math.pi * torch.tanh(phi)[:, None] * dt[..., None]
        B, C = (s.unflatten(-1, (m.rank, m.num_groups, m.d_state)) for s in (B, C))
        B, C = m.B_norm(B), m.C_norm(C)
        y = torch.zeros(u.shape[0], m.heads, m.head_dim, dtype=u.dtype)
        for h in heads:
            group, P = h // (m.heads // m.num_groups), slice(h * m.head_dim, (h + 1) * m.head_dim)
            ones = torch.ones(m.rank, m.head_dim, dtype=u.dtype)
            up, gate, down = ((p[h] if m.mimo else ones) for p in (m.mimo_x, m.mimo_z, m.mimo_o))
            biased = (B[:, :, group] + m.B_bias[h], C[:, :, group] + m.C_bias[h])
            b, c = (rotate_pairs(s, angle[:, None, h].expand(-1, m.rank, -1), adjacent=not m.mimo) for s in biased)
            inputs = x[:, None, P] * up
            new = torch.einsum("brn,brp->bnp", b, inputs)
            state, last = states.get(h, (torch.zeros_like(new), torch.zeros_like(new)))
            step, share = dt[:, h, None, None], mix[:, h, None, None]
            state = (A[:, h, None, None] * step).exp() * (state + (1 - share) * step * last) + share * step * new
            states[h] = (state, new)
            read = torch.einsum("brn,bnp->brp", c, state) + m.D[h] * inputs
            if m.norm is not None:
                read = read * (read.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * m.norm.weight[P]
            y[:, h] = (read * F.silu(z[:, None, P] * gate) * down).sum(1)
        outputs.append(m.out_proj(y.flatten(1)))
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("mimo_rank", [None, 1, 3])
@pytest.mark.parametrize("outproj_norm", [False, True])
def test_options_without_golden_numbers_follow_the_equation(mimo_rank, outproj_norm):
    torch.manual_seed(0)
    options = {"d_state": 6, "head_dim": 4, "num_groups": 2, "rope_fraction": 1.0, "A_floor": 0.5}
    mixer = create_mixer("mamba3", 8, mimo_rank=mimo_rank, outproj_norm=outproj_norm, **options).double()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        u = torch.randn(2, 7, 8, dtype=torch.float64)
        assert_near(mixer(u), by_the_equation(mixer, u))


def test_pairs_of_channels_that_rotate():
    x = torch.arange(8.0)[None]
    quarter = torch.full((1, 2), math.pi / 2)
    adjacent = rotate_pairs(x, quarter, adjacent=True)
    assert_near(adjacent, torch.tensor([[-1.0, 0.0, -3.0, 2.0, 4.0, 5.0, 6.0, 7.0]]))
    halves = rotate_pairs(x, quarter, adjacent=False)
    assert_near(halves, torch.tensor([[-4.0, -5.0, 2.0, 3.0, 0.0, 1.0, 6.0, 7.0]]))


def test_a_rank_of_one_without_its_projections_differs_in_the_pairs_alone():
    torch.manual_seed(0)
    plain = create_mixer("mamba3", 8, d_state=4, head_dim=4, rope_fraction=1.0).double()
    mimo = create_mixer("mamba3", 8, d_state=4, head_dim=4, rope_fraction=1.0, mimo_rank=1).double()
    order = torch.tensor([0, 2, 1, 3])  # channels (0, 1) and (2, 3) become (0, 2) and (1, 3)
    weights = plain.state_dict()
    start, groups = 2 * plain.d_inner, plain.in_proj.weight.clone()
    for part in range(2):
        rows = slice(start + 4 * part, start + 4 * part + 4)
        groups[rows] = plain.in_proj.weight[rows][order]
    weights["in_proj.weight"] = groups
    mimo.load_state_dict(weights, strict=False)
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    assert_near(mimo(x), plain(x))


def test_angles_stay_exact_over_a_long_sequence():
    torch.manual_seed(0)
    mixer = create_mixer("mamba3", 8, d_state=4, head_dim=4, dt_min=0.1)
    x = torch.randn(1, 20_000, 8)
    with torch.no_grad():
        got = mixer.prefill(x)[1].angle
        want = mixer.double().prefill(x.double())[1].angle
    assert ((got - want) / 2).sin().abs().max() < 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_dim": 3}, "head_dim that divides the inner width"),
        ({"head_dim": 4, "num_groups": 3}, "num_groups that divides the heads"),
        ({"d_state": 3}, "at least one pair"),
        ({"d_state": 5, "mimo_rank": 2}, "an even d_state with mimo_rank"),
        ({"rope_fraction": 0.25}, "a fraction among"),
        ({"mimo_rank": 0}, "sizes of at least 1"),
        ({"dt_min": 0.2}, "0 < dt_min <= dt_max"),
    ],
)
def test_sizes_out_of_range_raise(options, message):
    with pytest.raises(ValueError, match=message):
        create_mixer("mamba3", 8, **options)
