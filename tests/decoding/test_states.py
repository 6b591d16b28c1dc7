"""States inside a prefill, tokens taken back, pools: for every causal mixer, through its prefill and step alone."""

import pytest
import torch

from mixer_cases import BATCH, build, each_causal_default, inputs
from seqconv import create_mixer
from seqconv.build import build_backbone
from seqconv.decoding import StatePool, Stream
from tolerances import assert_near


def after(mixer, state, x):
    """What the next tokens give from a state."""
    return mixer.prefill(x, state.clone())[0]


@each_causal_default
def test_states_inside_a_prefill_continue_as_the_whole(case):
    mixer, x = build(case), inputs(23)
    want = mixer(x)
    y, state, states = mixer.prefill(x[:, :19], states_at=(4, 19, 0, 7, 4))
    assert_near(y, want[:, :19], what="outputs")
    assert_near(after(mixer, state, x[:, 19:]), want[:, 19:], what="after the prefill")
    for start, kept in zip((4, 19, 0, 7, 4), states, strict=True):
        assert_near(mixer.prefill(x[:, start:], kept)[0], want[:, start:], what=f"from {start}")


@each_causal_default
def test_tokens_that_were_taken_back_leave_no_trace(case):
    mixer, x, wrong = build(case), inputs(21), inputs(6) + 1
    want = mixer(x)
    stream = Stream(mixer)
    assert_near(stream.prefill(x[:, :9]), want[:, :9])
    stream.accept()
    stream.prefill(torch.cat([x[:, 9:12], wrong[:, :3]], 1))  # a draft whose second half is rejected
    stream.rollback(3)
    assert_near(stream.step(x[:, 12]), want[:, 12], what="after a part of a call")
    for t in range(2):  # tokens of several calls, the first of them in part
        stream.step(wrong[:, t])
    stream.rollback(3)
    assert_near(stream.prefill(x[:, 12:]), want[:, 12:], what="after several calls")
    stream.rollback(0)
    with pytest.raises(ValueError, match=r"1 tokens; wanted 0 to the 0 that were read while recording"):
        stream.rollback(1)


@each_causal_default
def test_every_row_takes_back_its_own_number_of_tokens(case):
    mixer, x = build(case), inputs(20)
    want = mixer(x)
    stream = Stream(mixer)
    stream.prefill(x[:, :8])
    stream.prefill(x[:, 8:12])
    stream.rollback(torch.tensor([0, 5]))
    second = torch.stack([x[0, 12:16], x[1, 7:11]])
    got = stream.prefill(second)
    assert_near(got, torch.stack([want[0, 12:16], want[1, 7:11]]))


@each_causal_default
def test_slots_of_a_pool_go_on_as_requests_alone(case):
    """Requests that begin at different times, in batches of changing rows, one of them padded to its size."""
    mixer, x = build(case), inputs(16, batch=3)
    want, pool = mixer(x), StatePool(mixer, 4)
    read, got = [0, 0, 0], [[], [], []]
    slots = (3, 0, 1)
    for rows, count in (((0,), 5), ((1, None), 2), ((0, 1), 1), ((2, 0, 1), 1), ((1, 2), 3), ((None, 0, 2), 1)):
        index = torch.tensor([-1 if row is None else slots[row] for row in rows])
        tokens = [x[0, :count] + 1 if row is None else x[row, read[row] : read[row] + count] for row in rows]
        state = pool.gather(index)
        if count == 1:
            y, state = mixer.step(torch.cat(tokens), state)
            y = y[:, None]
        else:
            y, state = mixer.prefill(torch.stack(tokens), state)
        pool.scatter(index, state)
        for i, row in enumerate(rows):
            if row is not None:
                got[row].append(y[i])
                read[row] += count
    for row in range(3):
        assert_near(torch.cat(got[row]), want[row, : read[row]], what=f"request {row}")
    pool.reset(torch.tensor([3]))
    assert_near(mixer.step(x[:1, 0], pool.gather(torch.tensor([3])))[0], want[:1, 0], what="a slot used again")


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    pattern = ["mamba", "attention", "hyena", {"mixer": "none", "mlp": "gelu"}]
    return build_backbone(8, 4, pattern).double().eval()


def test_stacks_keep_take_back_and_pool_as_mixers_do(backbone):
    x = inputs(16)
    want = backbone(x)
    _, state, (inside,) = backbone.prefill(x[:, :9], states_at=[6])
    assert_near(backbone.prefill(x[:, 6:], inside)[0], want[:, 6:])
    stream = Stream(backbone, state)
    stream.prefill(x[:, 9:13])
    stream.rollback(torch.tensor([1, 3]))
    assert_near(stream.step(torch.stack([x[0, 12], x[1, 10]])), torch.stack([want[0, 12], want[1, 10]]))
    pool = StatePool(backbone, 2)
    pool.scatter(torch.tensor([1, 0]), stream.state)
    got, _ = backbone.step(torch.stack([x[1, 11], x[0, 13]]), pool.gather(torch.tensor([0, 1])))
    assert_near(got, torch.stack([want[1, 11], want[0, 13]]))


def test_left_padding_goes_through_cuts_and_rollback(backbone):
    x = inputs(14)
    mask = torch.ones(BATCH, 14, dtype=torch.bool)
    mask[0, :5] = False
    want = backbone(x, mask=mask)
    y, _, (inside,) = backbone.prefill(x, mask=mask, states_at=[3])
    assert_near(y, want)
    assert_near(backbone.prefill(x[:, 3:], inside, mask=mask[:, 3:])[0], want[:, 3:])
    stream = Stream(backbone)
    stream.prefill(x[:, :4], mask=mask[:, :4])
    stream.prefill(x[:, 4:12], mask=mask[:, 4:12])
    stream.rollback(10)
    assert_near(stream.prefill(x[:, 2:], mask=mask[:, 2:]), want[:, 2:])


def test_growing_caches_of_different_lengths_share_one_tensor():
    mixer = create_mixer("attention", 8).double().eval()
    x = inputs(12)
    pool = StatePool(mixer, 2)
    for row, length in enumerate((11, 4)):
        pool.scatter(torch.tensor([row]), mixer.prefill(x[row : row + 1, :length])[1])
    state = pool.gather(torch.tensor([1, 0]))
    assert state.key.shape[:2] == (2, 11)
    y, _ = mixer.step(torch.stack([x[1, 4], x[0, 11]]), state)
    want = mixer(x)
    assert_near(y, torch.stack([want[1, 4], want[0, 11]]))


@pytest.mark.parametrize("name", ["attention", "transformer_xl", "cca", "tcnca", "mega"])
def test_attention_up_to_a_capacity_has_one_size(name):
    mixer = create_mixer(name, 8).double().eval()
    x = inputs(12)
    want, pool = mixer(x), StatePool(mixer, 3, capacity=12)
    index = torch.tensor([2, 0])
    y, state = mixer.prefill(x[:, :7], pool.gather(index))
    pool.scatter(index, state)
    y_t, state = mixer.step(x[:, 7], pool.gather(index))
    assert_near(torch.cat([y, y_t[:, None]], 1), want[:, :8])
    if name == "attention":
        with pytest.raises(ValueError, match=r"13 tokens; wanted at most its capacity of 12"):
            mixer.prefill(x[:, :5], state)


def test_a_pool_is_written_in_place_and_unused_rows_stay_initial():
    mixer = create_mixer("gla", 8).eval()
    pool = StatePool(mixer, 3)
    memory = {leaf.name: leaf.tensor.data_ptr() for leaf in pool._whole._leaves()}
    index = torch.tensor([-1, 2, -1])
    state = pool.gather(index)
    _, state = mixer.step(torch.full((3, 8), torch.nan), state)
    pool.scatter(index, state)
    assert {leaf.name: leaf.tensor.data_ptr() for leaf in pool._whole._leaves()} == memory
    unused = pool.gather(torch.tensor([-1, 0, 1]))
    assert all(torch.isfinite(leaf.tensor).all() for leaf in unused._leaves())
    assert any(leaf.tensor.isnan().any() for leaf in pool.gather(torch.tensor([2]))._leaves())


def test_what_does_not_fit_raises():
    mixer, x = create_mixer("gla", 8), inputs(4, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"gla.prefill: received states_at with \[5\]; wanted positions from 0 to 4"):
        mixer.prefill(x, states_at=[1, 5])
    pool = StatePool(mixer, 2)
    state = pool.gather(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"slots \[0, 2\]; wanted slots 0 to 1, or -1"):
        pool.gather(torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"slots \[1, 1\]; wanted every slot once"):
        pool.scatter(torch.tensor([1, 1]), state)
    with pytest.raises(ValueError, match=r"a state of 2 rows for 1 slots; wanted a slot per row"):
        pool.scatter(torch.tensor([1]), state)
    with pytest.raises(ValueError, match=r"slots=0; wanted at least 1"):
        StatePool(mixer, 0)
    stream = Stream(mixer)
    stream.prefill(x)
    with pytest.raises(ValueError, match=r"5 tokens; wanted 0 to the 4 that were read while recording"):
        stream.rollback(5)
    with pytest.raises(ValueError, match=r"-1 tokens; wanted 0 to the 4"):
        stream.rollback(-1)
