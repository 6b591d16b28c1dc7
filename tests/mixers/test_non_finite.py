"""A value that is not finite reaches later outputs of its own row, and nothing else, in every form of every mixer."""

import pytest
import torch

from mixer_cases import D_MODEL, build, each_causal_default, each_default
from tolerances import assert_near

BATCH, LENGTH, PROMPT, TOKEN = 3, 50, 43, 41
OTHERS = [0, 2]
BOUNDED_GATES = {"elman", "gru", "lstm"}
"""Cells whose inputs reach the state through bounded functions alone: an infinity is a closed or an open gate."""
VALUES = pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=str)


def signals(value):
    """Inputs, and the same with one value of the middle row replaced."""
    x = torch.randn(BATCH, LENGTH, D_MODEL, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    spoilt = x.clone()
    spoilt[1, TOKEN, 3] = value
    return x, spoilt


def assert_isolated(got, want, token, what, *, causal=True, stays=True):
    """Other rows as before, the row of the value as before up to its token and not finite at some later one."""
    assert_near(got[OTHERS], want[OTHERS], what=f"{what}: other rows")
    if causal:
        assert_near(got[1, :token], want[1, :token], what=f"{what}: earlier tokens")
    assert not stays or not got[1, token:].isfinite().all(), f"{what}: it vanished"


@VALUES
@each_default
def test_in_forward(case, value):
    mixer = build(case)
    x, spoilt = signals(value)
    stays = value != torch.inf or case[0] not in BOUNDED_GATES
    assert_isolated(mixer(spoilt), mixer(x), TOKEN, "forward", causal=mixer.causal, stays=stays)


@each_causal_default
@pytest.mark.parametrize(("start", "value"), [(0, torch.inf), (17, torch.nan)])
def test_in_prefill_and_the_steps_after_it(case, start, value):
    mixer, outputs = build(case), []
    for x in signals(value):
        state = mixer.init_state(BATCH)
        if start:
            _, state = mixer.prefill(x[:, :start], state)
        y, state = mixer.prefill(x[:, start:PROMPT], state)
        found = [y]
        for t in range(PROMPT, LENGTH):
            y, state = mixer.step(x[:, t], state)
            found.append(y[:, None])
        outputs.append(torch.cat(found, dim=1))
    stays = value != torch.inf or case[0] not in BOUNDED_GATES
    assert_isolated(*reversed(outputs), TOKEN - start, f"prefill from {start}", stays=stays)


@each_causal_default
def test_in_steps(case):
    mixer, outputs = build(case), []
    for x in signals(torch.nan):
        y, state = mixer.prefill(x[:, :35])
        found = [y]
        for t in range(35, LENGTH):
            y, state = mixer.step(x[:, t], state)
            found.append(y[:, None])
        outputs.append(torch.cat(found, dim=1))
    assert_isolated(*reversed(outputs), TOKEN, "steps")


@each_default
def test_in_gradients(case):
    """Inputs of other rows keep their gradients; nothing raises, although the loss is not a number."""
    # Batch norms in training take statistics over all rows, which is their definition.
    mixer, gradients = build(case).train(case[1].get("norm") != "batch"), []
    for x in signals(torch.nan):
        torch.manual_seed(0)
        x.requires_grad_()
        y = mixer(x)
        (y * torch.linspace(0, 1, D_MODEL, dtype=y.dtype)).sum().backward()
        gradients.append(x.grad)
    assert_near(gradients[1][OTHERS], gradients[0][OTHERS], what="gradients of other rows")
