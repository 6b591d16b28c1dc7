"""Any sequence of prefill and step calls equals one forward, whatever longest context the state was made for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer_cases import D_MODEL, each_default
from seqconv import create_mixer, list_mixers
from seqconv.convolution.replacement import decode_smoothly
from seqconv.rows import RowGroups
from tolerances import assert_near

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


@each_default
@settings(max_examples=6)
@given(lengths=turns, max_length=st.one_of(st.none(), st.integers(1, 60)))
def test_any_sequence_of_turns_equals_forward(case, lengths, max_length):
    mixer = build(*case)
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
    assert mixer(x).shape == x.shape
    if not mixer.causal:
        return
    y, state = mixer.prefill(x[:, :17])
    assert y.shape == (0, 17, D_MODEL)
    for t in range(17, 40):
        y_t, state = mixer.step(x[:, t], state)
    assert y_t.shape == (0, D_MODEL)
    assert state.batch_size == 0


@each_default
def test_rows_that_bring_different_numbers_of_tokens_continue_as_alone(case):
    mixer, generator = build(*case), torch.Generator().manual_seed(2)
    if not mixer.causal:
        return
    lengths = torch.tensor([[5, 4, 2], [3, 0, 3], [7, 9, 2]])  # of three turns, per row
    rows = [torch.randn(int(n.sum()) + 3, D_MODEL, dtype=torch.float64, generator=generator) for n in lengths]
    read, outputs, state = [0, 0, 0], [[], [], []], None
    for turn in lengths.T:
        longest = int(turn.max())
        mask = torch.arange(longest) >= longest - turn[:, None]
        x = torch.randn(3, longest, D_MODEL, dtype=torch.float64, generator=generator)
        for i, count in enumerate(turn.tolist()):
            x[i, longest - count :] = rows[i][read[i] : read[i] + count]
        y, state = mixer.prefill(x, state, mask=mask)
        for i, count in enumerate(turn.tolist()):
            outputs[i].append(y[i, longest - count :])
            read[i] += count
            assert not y[i, : longest - count].any()
    for step in range(3):
        y, state = mixer.step(torch.stack([row[read[i] + step] for i, row in enumerate(rows)]), state)
        if step == 0:  # beams are reordered and repeated in between
            state = state.repeat_interleave(2).select(torch.tensor([0, 3, 4]))
        for i in range(3):
            outputs[i].append(y[i : i + 1])
    for row, parts in zip(rows, outputs, strict=True):
        assert_near(torch.cat(parts), mixer(row[None])[0])


@pytest.mark.parametrize("name", list_mixers())
def test_a_mask_without_padding_changes_nothing_for_rows_that_are_apart(name):
    mixer = build(name, {})
    if not mixer.causal:
        return
    mask, whole = torch.tensor([[True, True], [False, True]]), torch.ones(2, 3, dtype=torch.bool)
    x = torch.randn(2, 3, D_MODEL, dtype=torch.float64)
    _, state = mixer.prefill(x)
    _, state = mixer.prefill(x[:, :2], state, mask=mask)
    want, after = mixer.prefill(x, state.clone())
    got, same = mixer.prefill(x, state.clone(), mask=whole)
    assert_near(got, want)
    assert_near(mixer.step(x[:, 0], same)[0], mixer.step(x[:, 0], after)[0])


def test_a_state_of_rows_apart_is_checked():
    mixer = build("hyena", {})
    mask = torch.tensor([[True, True], [False, True]])
    _, state = mixer.prefill(torch.randn(2, 3, D_MODEL, dtype=torch.float64))
    _, state = mixer.prefill(torch.randn(2, 2, D_MODEL, dtype=torch.float64), state, mask=mask)
    assert isinstance(state, RowGroups)
    assert state.batch_size == 2
    assert state.clone().select(torch.tensor([1, 0, 1])).batch_size == 3
    with pytest.raises(ValueError, match=r"a state of 2 rows for 3 inputs"):
        mixer.step(torch.randn(3, D_MODEL, dtype=torch.float64), state)
    with pytest.raises(ValueError, match=r"pass what this mixer's init_state"):
        build("gla", {}).step(torch.randn(2, D_MODEL, dtype=torch.float64), state)
