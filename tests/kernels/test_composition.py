"""Scans over the halves of sequences, each from a state of zero, combine to the scan over the whole."""

import pytest
import torch
from op_cases import CASES
from torch.testing import assert_close

import seqconv_kernels as K

SCANS = {
    "linear_scan": (),
    "selective_scan": ("delta_softplus",),
    "ssd": ("dt_softplus",),
    "gated_linear_attention": (),
}
TOKENS = ("a", "x", "u", "delta", "dt", "B", "C", "z", "q", "k", "v", "log_decay", "beta")
each = pytest.mark.parametrize("name", [name for name in CASES if name.split(",")[0] in SCANS])


def scan(name, inputs):
    op = name.split(",")[0]
    options = dict.fromkeys(SCANS[op], True)
    return getattr(K, op)(**inputs, **options, return_final_state=True, return_total_decay=True)


def part(inputs, start, stop):
    return {k: v[:, start:stop] if k in TOKENS and v.dim() > 1 and k != "A" else v for k, v in inputs.items()}


@each
def test_halves_compose(name):
    if name.endswith("packed"):
        pytest.skip("see the test of packed sequences")
    inputs = CASES[name].inputs(2, 9)
    first = inputs.pop("initial_state", None)
    given = {} if first is None else {"initial_state": first}
    y, final, total = scan(name, inputs | given)
    _, early, early_decay = scan(name, part(inputs, 0, 4))
    late_y, late, late_decay = scan(name, part(inputs, 4, 9))
    entering = early if first is None else early + early_decay * first
    assert_close(late + late_decay * entering, final, rtol=1e-9, atol=1e-9)
    assert_close(early_decay * late_decay, total, rtol=1e-9, atol=1e-9)
    resumed, _, _ = scan(name, part(inputs, 4, 9) | {"initial_state": entering})
    assert_close(resumed, y[:, 4:], rtol=1e-9, atol=1e-9)
    assert late_y.shape == resumed.shape


@each
def test_packed_sequences_have_their_own_decays(name):
    if not name.endswith("packed"):
        pytest.skip("one row is one sequence")
    inputs = CASES[name].inputs(2, 7)
    _, final, total = scan(name, inputs)
    states = inputs.pop("initial_state")
    _, zero, _ = scan(name, inputs)
    assert_close(zero + total * states, final, rtol=1e-9, atol=1e-9)


def test_the_transition_of_the_delta_rule():
    inputs = CASES["delta_rule"].inputs(2, 9)
    first, width = inputs.pop("initial_state"), inputs["k"].shape[-1]
    _, final = K.delta_rule(**inputs, initial_state=first, return_final_state=True)
    _, zero = K.delta_rule(**inputs, return_final_state=True)
    silent = inputs | {"v": torch.zeros(*inputs["v"].shape[:3], width, dtype=torch.float64)}
    identity = torch.eye(width, dtype=torch.float64).expand(2, 2, width, width)
    _, transition = K.delta_rule(**silent, initial_state=identity, return_final_state=True)
    assert_close(zero + transition @ first, final, rtol=1e-9, atol=1e-9)


@each
def test_total_decay_is_differentiable_and_comes_alone_too(name):
    inputs = CASES[name].inputs(2, 7)
    leaves = {k: v.requires_grad_() if v.is_floating_point() or v.is_complex() else v for k, v in inputs.items()}
    op = name.split(",")[0]
    options = dict.fromkeys(SCANS[op], True)
    y, total = getattr(K, op)(**leaves, **options, return_total_decay=True)
    assert y.shape[0] == inputs.get("x", inputs.get("u", inputs.get("q"))).shape[0]
    if name == "gated_linear_attention, bare":  # without a decay the total is one
        assert total.eq(1).all()
        return
    total.abs().sum().backward()
    assert any(leaf.grad is not None and leaf.grad.any() for leaf in leaves.values())
