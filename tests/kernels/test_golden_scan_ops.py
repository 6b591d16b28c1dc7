"""selective_scan and causal_conv1d against the original projects: values and gradients, steps, packing, states.

The originals put channels before the length; time axes are swapped on the way in and out.
"""

import json

import pytest
import torch
import torch.nn.functional as F
from scan_cases import check_golden

from golden_cases import GOLDEN, assert_close, load_variant
from seqconv_kernels import (
    causal_conv1d,
    causal_conv1d_step,
    linear_scan,
    selective_scan,
    selective_scan_step,
    ssd_step,
)

ACTIVATION_NOT_STATED = {"w4_short_len2_finalstates": "silu", "w4_short_len2_init_finalstates": None}


def variants(folder, *, holding="", without="\0"):
    names = json.loads((GOLDEN / "scan" / folder / "case.json").read_text())["variants"]
    return [name for name in names if holding in name and without not in name]


fastest_and_reference = pytest.mark.parametrize("implementation", [None, "reference"])


@fastest_and_reference
@pytest.mark.parametrize("variant", variants("selective_scan", without="complex"))
def test_selective_scan(variant, implementation):
    case = load_variant("scan/selective_scan", variant)

    def call(u, delta, A, B, C, D=None, z=None, delta_bias=None):
        swap = [None if t is None else t.mT for t in (u, delta, z)]
        channels, d_state = A.shape
        size = (*swap[0].shape[:2], channels, d_state)
        grouped = [_grouped(t, size) for t in (B, C)]
        y, state = selective_scan(
            swap[0], swap[1], A, *grouped, D, swap[2], delta_bias=delta_bias, return_final_state=True,
            delta_softplus=case.meta["args"]["delta_softplus"], implementation=implementation,
        )  # fmt: skip
        return {"y": y.mT, "last_state": state}

    check_golden(case, call)


def _grouped(weights, size):
    """(batch, length, channels, d_state) from constant (d, n), shared (b, n, l) or grouped (b, g, n, l) weights."""
    if weights.dim() == 2:
        return weights.expand(size)
    per_group = weights[:, None] if weights.dim() == 3 else weights
    return per_group.movedim(-1, 1).repeat_interleave(size[2] // per_group.shape[1], dim=2)


@pytest.mark.parametrize("variant", variants("selective_scan", holding="complex"))
def test_a_complex_selective_scan_is_a_linear_scan(variant):
    """The original takes complex B and C of every token as real ones, real and imaginary parts side by side."""
    case = load_variant("scan/selective_scan", variant)

    def as_complex(weights, size):
        pairs = weights if weights.shape[-1] == 2 and weights.dim() == 3 else weights.unflatten(-1, (-1, 2))
        return _grouped(torch.view_as_complex(pairs.contiguous()), size)

    def call(u, delta, A, B, C, D=None, z=None, delta_bias=None):
        u, delta = u.mT, F.softplus(delta.mT + delta_bias)[..., None]
        rates = torch.view_as_complex(A)
        B, C = (as_complex(t, (*u.shape, rates.shape[1])) for t in (B, C))
        h, state = linear_scan((delta * rates).exp(), delta * B * u[..., None], return_final_state=True)
        y = 2 * (C * h).sum(-1).real + D * u
        y = y if z is None else y * F.silu(z.mT)
        return {"y": y.mT, "last_state": torch.view_as_real(state)}

    check_golden(case, call)


@fastest_and_reference
@pytest.mark.parametrize("variant", variants("selective_state_update", holding="mamba1"))
def test_one_step_of_mamba(variant, implementation):
    case = load_variant("scan/selective_state_update", variant)
    t = {k: v.double() for k, v in case.group("in").items()}
    y, state = selective_scan_step(
        t["x"], t["dt"], t["A"], t["B"], t["C"], t.get("D"), t.get("z"), state=t["state"],
        delta_bias=t.get("dt_bias"), delta_softplus=case.meta["args"]["dt_softplus"], implementation=implementation,
    )  # fmt: skip
    assert_close(y, case.tensors["out.y"], 1e-9, 1e-10, "y")
    assert_close(state, case.tensors["out.state_after"], 1e-9, 1e-10, "state")


@fastest_and_reference
@pytest.mark.parametrize("variant", variants("selective_state_update", holding="heads"))
def test_one_step_with_heads_is_one_over_all_their_channels(variant, implementation):
    case = load_variant("scan/selective_state_update", variant)
    t = {k: v.double() for k, v in case.group("in").items()}
    flat = {k: t[k].flatten(1, 2) for k in ("x", "dt", "state", "z") if k in t}
    y, state = selective_scan_step(
        flat["x"], flat["dt"], t["A"].flatten(0, 1), t["B"], t["C"], t["D"].flatten(), flat.get("z"),
        state=flat["state"], delta_bias=t["dt_bias"].flatten(), delta_softplus=True, implementation=implementation,
    )  # fmt: skip
    assert_close(y, case.tensors["out.y"].flatten(1), 1e-9, 1e-10, "y")
    assert_close(state, case.tensors["out.state_after"].flatten(1, 2), 1e-9, 1e-10, "state")


def test_one_step_with_heads_that_share_their_dynamics_is_one_of_ssd():
    """The original's step repeated over channels whose rates, time steps and biases are equal."""
    case = load_variant("scan/selective_state_update", "heads_grouped_full")
    t = {k: v.double() for k, v in case.group("in").items()}
    A, dt, bias = t["A"][:, :1, :1], t["dt"][..., :1], t["dt_bias"][:, :1]
    y, state = ssd_step(
        t["x"], dt[..., 0], A[:, 0, 0], t["B"], t["C"], t["D"], t["z"], state=t["state"].clone(),
        dt_bias=bias[:, 0], dt_softplus=True,
    )  # fmt: skip
    wide = (dt.expand_as(t["x"]), A.expand_as(t["A"]), bias.expand_as(t["dt_bias"]))
    want, want_state = selective_scan_step(
        t["x"].flatten(1), wide[0].flatten(1), wide[1].flatten(0, 1), t["B"], t["C"], t["D"].flatten(),
        t["z"].flatten(1), state=t["state"].flatten(1, 2), delta_bias=wide[2].flatten(), delta_softplus=True,
    )  # fmt: skip
    assert_close(y.flatten(1), want, 1e-12, 1e-12, "y")
    assert_close(state.flatten(1, 2), want_state, 1e-12, 1e-12, "state")


@fastest_and_reference
@pytest.mark.parametrize("variant", [name for name in variants("causal_conv1d", holding="w") if "seqidx" not in name])
def test_causal_conv1d(variant, implementation):
    case = load_variant("scan/causal_conv1d", variant)
    activation = case.meta["args"].get("activation", ACTIVATION_NOT_STATED.get(variant))

    def call(x, weight, bias=None, initial_states=None):
        y, state = causal_conv1d(
            x.mT, weight, bias, activation=activation, return_final_state=True,
            initial_state=None if initial_states is None else initial_states.mT, implementation=implementation,
        )  # fmt: skip
        return {"y": y.mT, "final_states": state.mT}

    check_golden(case, call)


@fastest_and_reference
@pytest.mark.parametrize("variant", variants("causal_conv1d", holding="seqidx"))
def test_causal_conv1d_of_packed_sequences(variant, implementation):
    """Every row has boundaries of its own, so the rows are packed one by one."""
    case = load_variant("scan/causal_conv1d", variant)

    def call(x, weight, bias):
        rows = []
        for row, index in zip(x, case.tensors["const.seq_idx"], strict=True):
            cuts = (index.diff() != 0).nonzero().flatten() + 1
            bounds = torch.tensor([0, *cuts.tolist(), len(index)])
            rows.append(
                causal_conv1d(
                    row.mT[None], weight, bias, activation="silu", cu_seqlens=bounds, implementation=implementation
                )
            )
        return {"y": torch.cat(rows).mT}

    check_golden(case, call)


@fastest_and_reference
@pytest.mark.parametrize("variant", ["update_1tok", "update_1tok_state4", "update_3tok"])
def test_causal_conv1d_steps(variant, implementation):
    """The original may keep more inputs than its taps reach; seqconv's keeps what they reach."""
    case = load_variant("scan/causal_conv1d", variant)
    t = {k: v.double() for k, v in case.group("in").items()}
    reach = t["weight"].shape[1] - 1
    tokens = t["x"][..., None] if t["x"].dim() == 2 else t["x"]
    seen, state, outputs = t["conv_state"].mT, t["conv_state"].mT[:, -reach:], []
    for token in tokens.unbind(-1):
        y, state = causal_conv1d_step(
            token, t["weight"], t["bias"], state=state, activation="silu", implementation=implementation
        )
        outputs.append(y)
        seen = torch.cat([seen[:, 1:], token[:, None]], dim=1)
    want = case.tensors["out.y"]
    assert_close(torch.stack(outputs, -1), want[..., None] if want.dim() == 2 else want, 1e-9, 1e-10, "y")
    assert_close(seen.mT, case.tensors["out.conv_state_after"], 1e-9, 1e-10, "inputs kept")
    assert_close(state.mT, case.tensors["out.conv_state_after"][..., -reach:], 1e-9, 1e-10, "state")


def test_causal_conv1d_from_a_ring_of_inputs():
    """The original's circular buffer, unrolled: the newest input is before the write position."""
    case = load_variant("scan/causal_conv1d", "update_circular")
    t = {k: v.double() for k, v in case.group("in").items()}
    reach, size = t["weight"].shape[1] - 1, t["conv_state"].shape[-1]
    starts = case.tensors["const.cache_seqlens"].long()
    for row, start in enumerate(starts.tolist()):
        past = t["conv_state"][row].roll(-(start % size), dims=-1)[:, -reach:]
        y = causal_conv1d(t["x"][row].T[None], t["weight"], t["bias"], activation="silu", initial_state=past.T[None])
        assert_close(y[0].T, case.tensors["out.y"][row], 1e-9, 1e-10, f"row {row}")


def test_last_inputs_of_packed_sequences():
    case = load_variant("scan/causal_conv1d", "varlen_states")
    x, want = case.tensors["in.x"].double(), case.tensors["out.y"]
    weight = torch.ones(x.shape[1], want.shape[-1] + 1, dtype=torch.float64)
    _, states = causal_conv1d(x[None], weight, cu_seqlens=case.tensors["const.cu_seqlens"], return_final_state=True)
    assert_close(states.mT, want, 1e-12, 1e-12, "last inputs")
