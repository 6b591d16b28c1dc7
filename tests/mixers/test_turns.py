"""Any sequence of prefill and step calls equals one forward, whatever longest context the state was made for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqconv import create_mixer, list_mixers
from seqconv.convolution.replacement import decode_smoothly
from seqconv.registry import mixer_entry
from tolerances import assert_near

D_MODEL = 8
CASES = [(name, dict(options)) for name in list_mixers() for options in ({}, *mixer_entry(name).examples)]
GROWING = ("hyena", "multihyena", "sgconv")

turns = st.lists(st.one_of(st.integers(1, 40), st.just(1)), min_size=1, max_size=12)


def build(name, options):
    torch.manual_seed(3)
    return create_mixer(name, D_MODEL, **options).double().eval()


def run(mixer, lengths, max_length):
    """Turns of the given lengths, those of one token through ``step``, against one forward."""
    x = torch.randn(1, sum(lengths), D_MODEL, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    state, outputs, start = mixer.init_state(1, max_length=max_length), [], 0
    for length in lengths:
        if length == 1:
            y, state = mixer.step(x[:, start], state)
            y = y[:, None]
        else:
            y, state = mixer.prefill(x[:, start : start + length], state)
        outputs.append(y)
        start += length
    assert_near(torch.cat(outputs, dim=1), mixer(x))


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda v: str(v))
@settings(max_examples=12)
@given(lengths=turns, max_length=st.one_of(st.none(), st.integers(1, 60)))
def test_any_sequence_of_turns_equals_forward(name, options, lengths, max_length):
    mixer = build(name, options)
    if mixer.causal:
        run(mixer, lengths, max_length)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("name", GROWING)
@settings(max_examples=10)
@given(lengths=st.lists(st.integers(1, 200), min_size=2, max_size=6), max_length=st.integers(1, 100))
def test_growing_states_reach_beyond_the_context_they_were_made_for(name, smooth, lengths, max_length):
    mixer = build(name, {"l_max": 512})
    decode_smoothly(mixer, smooth)
    run(mixer, [*lengths, *[1] * 20, 30], max_length)


@pytest.mark.parametrize("name", list_mixers())
def test_empty_batches_go_through_every_form(name):
    mixer, x = build(name, {}), torch.zeros(0, 40, D_MODEL, dtype=torch.float64)
    y, state = mixer.prefill(x[:, :17])
    assert y.shape == (0, 17, D_MODEL)
    for t in range(17, 40):
        y_t, state = mixer.step(x[:, t], state)
    assert y_t.shape == (0, D_MODEL)
    assert state.batch_size == 0
