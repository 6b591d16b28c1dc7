"""Scans under decays of exp(30), exp(-30) and none at all, and over a million tokens: finite, exact at every token."""

from functools import partial

import pytest
import torch
from op_cases import CASES
from scan_cases import CPU
from torch import Tensor

import seqconv_kernels as K

SCANS = {
    "linear_scan": K.linear_scan,
    "selective_scan": K.selective_scan,
    "ssd": K.ssd,
    "gated_linear_attention": K.gated_linear_attention,
    "delta_rule": K.delta_rule,
}
TOKENS = ("a", "x", "u", "delta", "dt", "B", "C", "z", "q", "k", "v", "beta", "log_decay")
GROWTHS, SHRINKS, RESETS = (10, 40), (20, 55), (30, 90)
WITHOUT_CHUNKS = ("selective_scan",)
each = pytest.mark.parametrize("name", SCANS)


def decaying(name: str, length: int, decays: dict[int, float]) -> dict[str, Tensor]:
    """Inputs of one sequence whose states are multiplied by exp(decay) at the tokens of ``decays``."""
    inputs = CASES[name].inputs(1, length)
    steps = torch.full((length,), -0.1, dtype=torch.float64)
    for token, decay in decays.items():
        steps[token] = decay
    if name == "linear_scan":
        inputs["a"] = steps.exp()[:, None].expand(1, length, 3).clone()
    elif name in ("gated_linear_attention", "delta_rule"):
        inputs["log_decay"] = steps[:, None, None].expand(inputs["log_decay"].shape).clone()
        inputs["k"] = torch.nn.functional.normalize(inputs["k"], dim=-1)
    else:  # the time step, which weighs the inputs too, of states that shrink with time, or grow
        step, wide = {"selective_scan": ("delta", (4, 3)), "ssd": ("dt", (4,))}[name]
        inputs[step] = steps.abs().clamp(max=1e4).view(1, length, 1).expand(inputs[step].shape).clone()
        inputs["A"] = -torch.ones(wide, dtype=torch.float64)
        for unused in ("delta_bias", "dt_bias"):
            inputs.pop(unused, None)
    return inputs


def run(name: str, implementation: str, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return partial(SCANS[name], return_final_state=True, implementation=implementation)(**inputs)


def assert_exact(got: Tensor, want: Tensor, tolerance: float) -> None:
    """The error at every token, relative to the largest magnitude at that token."""
    assert got.isfinite().all()
    error, scale = ((t.flatten(2).abs().amax(2)) for t in (got - want, want))
    assert (error <= tolerance * scale).all(), (error / scale).max()


@each
@pytest.mark.parametrize("implementation", [CPU, "chunked"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_extreme_decays_are_exact_at_every_token(name, implementation, dtype, tolerance):
    if implementation == "chunked" and name in WITHOUT_CHUNKS:
        pytest.skip("it has no chunked form")
    decays = {**dict.fromkeys(SHRINKS, -30.0), **dict.fromkeys(RESETS, -torch.inf)}
    if name not in ("selective_scan", "ssd"):
        decays |= dict.fromkeys(GROWTHS, 30.0)
    inputs = decaying(name, 130, decays)
    y, state = run(name, implementation, {k: v.to(dtype) for k, v in inputs.items()})
    want, last = run(name, "reference", inputs)
    assert_exact(y, want, tolerance)
    assert_exact(state[:, None], last[:, None], tolerance)


@pytest.mark.parametrize("name", ["selective_scan", "ssd"])
@pytest.mark.parametrize("implementation", [CPU, "chunked"])
def test_states_that_grow_with_time_are_exact_at_every_token(name, implementation):
    if implementation == "chunked" and name in WITHOUT_CHUNKS:
        pytest.skip("it has no chunked form")
    inputs = decaying(name, 130, dict.fromkeys(GROWTHS + SHRINKS, 30.0))
    inputs["A"] = -inputs["A"]
    (y, state), (want, last) = (run(name, form, inputs) for form in (implementation, "reference"))
    assert_exact(y, want, 1e-10)
    assert_exact(state[:, None], last[:, None], 1e-10)


@each
@pytest.mark.parametrize("implementation", [CPU])
def test_a_million_tokens_stay_finite_and_exact(name, implementation):
    length, last = 1_000_000, 208
    inputs = {k: v.float() for k, v in decaying(name, length, {length - last: -torch.inf}).items()}
    y, state = run(name, implementation, inputs)
    late = {k: v[:, -last:] if k in TOKENS and v.dim() > 1 else v for k, v in inputs.items() if k != "initial_state"}
    late_y, late_state = run(name, implementation, late)
    assert y.isfinite().all()
    assert torch.equal(y[:, -last:], late_y)
    assert torch.equal(state, late_state)
