"""The MAD tasks: every row checked by a reader of its own, which knows the rules and nothing of the generator."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lra.tasks import create_task
from lra.tasks.synthetic.base import UNASKED, Synthetic
from lra.tasks.synthetic.mad import (
    Compression,
    ContextRecall,
    FuzzyRecall,
    MadSelectiveCopying,
    Memorization,
    NoisyRecall,
    fixed_map,
)


def rows_of(task: Synthetic, split: str, count: int = 40) -> list[tuple[list[int], list[int]]]:
    dataset = task.rows(split)
    return [(row["input_ids"].tolist(), row["labels"].tolist()) for row in (dataset[i] for i in range(count))]


def read_pairs(tokens: list[int], noise_from: int) -> list[int]:
    """Labels of a sequence of pairs: the value where the key was seen before, noise never asked."""
    value_of, labels = {}, []
    for place in range(0, len(tokens), 2):
        key, value = tokens[place : place + 2]
        assert (key >= noise_from) == (value >= noise_from)
        labels += [UNASKED, value if key in value_of and key < noise_from else UNASKED]
        assert value_of.setdefault(key, value) == value or key >= noise_from
    return labels


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 100), st.integers(2, 40), st.integers(0, 20), st.floats(0, 0.95), st.integers(0, 10**6))
def test_recall_asks_values_of_keys_seen_before(pairs, symbols, noise_vocab, noise, seed):
    task: Synthetic = ContextRecall(length=2 * pairs, vocab=symbols, seed=seed)
    if noise_vocab:
        options = {"noise_vocab": noise_vocab, "noise": noise, "seed": seed}
        task = NoisyRecall(length=2 * pairs, vocab=symbols + noise_vocab, **options)
    half = symbols // 2
    for (ids, labels), (trained, all_labels) in zip(rows_of(task, "test", 5), rows_of(task, "train", 5), strict=True):
        assert len(ids) == 2 * pairs - 1
        assert all_labels[:-1] == trained[1:]
        whole = [*ids, labels[-1]]
        assert labels == read_pairs(whole, symbols)[1:]
        for place, token in enumerate(whole):
            assert 0 <= token < half + (symbols - half) * (place % 2) or symbols <= token < symbols + noise_vocab
        assert whole[-2] in whole[:-2:2]
        assert min(whole) < symbols


def test_noise_has_its_share():
    task = NoisyRecall(noise=0.4)
    shares = [np.mean(np.array(ids[:-2:2]) >= 16) for ids, _ in rows_of(task, "train", 300)]
    count = 300 * 63
    assert stats.binomtest(round(np.mean(shares) * count), count, 0.4 * 62 / 63).pvalue > 1e-4


def words(tokens: list[int], half: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Keys and values: a key is a run of low ids, a value of high ones."""
    found: list[tuple[list[int], list[int]]] = []
    for token in tokens:
        if token < half and (not found or found[-1][1]):
            found.append(([], []))
        found[-1][token >= half].append(token)
    return [(tuple(key), tuple(value)) for key, value in found]


@settings(max_examples=30, deadline=None)
@given(st.integers(9, 40), st.integers(1, 3), st.integers(1, 3), st.integers(20, 300), st.integers(0, 10**6))
def test_fuzzy_recall_asks_words_seen_before(vocab, key_size, value_size, length, seed):
    task = FuzzyRecall(length=length, vocab=vocab, key_size=key_size, value_size=value_size, seed=seed)
    half, pad = (vocab - 1) // 2, vocab - 1
    for split in ("train", "test"):
        for ids, labels in rows_of(task, split, 5):
            assert len(ids) == len(labels) == length
            whole = [*ids, labels[-1]]
            start = next(place for place, token in enumerate(whole) if token != pad)
            pairs = words(whole[start:], half)
            expected, value_of = [UNASKED] * start, {}
            for key, value in pairs:
                assert len(set(key)) == len(key) <= key_size
                assert len(set(value)) == len(value) <= value_size
                assert split == "train" or len(key) == key_size
                expected += [UNASKED] * len(key) + [token if key in value_of else UNASKED for token in value]
                assert value_of.setdefault(key, value) == value
            assert pairs[-1] in pairs[:-1]
            assert labels == (whole[1:] if split == "train" else expected[1:])
            context = length - sum(map(len, pairs[-1])) - key_size - value_size
            assert context <= sum(len(k) + len(v) for k, v in pairs[:-1]) < context + key_size + value_size


def test_sizes_of_words_are_uniform_and_the_probe_stands_anywhere():
    sizes, places = [], []
    for ids, labels in rows_of(FuzzyRecall(), "train", 400):
        whole = [*ids, labels[-1]]
        pairs = words([token for token in whole if token != 15], 7)
        sizes += [len(key) for key, _ in pairs[1:-1]]
        places.append(sum(len(k) + len(v) for k, v in pairs[: pairs.index(pairs[-1])]) / 128)
    assert stats.chisquare(np.bincount(sizes)[1:]).pvalue > 1e-4
    assert 0.3 < np.mean(places) < 0.55
    assert max(places) > 0.8


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 200), st.integers(3, 50), st.integers(0, 10**6))
def test_selective_copying_asks_the_data_in_order(copied, blanks, vocab, seed):
    task = MadSelectiveCopying(length=2 * copied + 1 + blanks, vocab=vocab, copied=copied, seed=seed)
    for ids, labels in rows_of(task, "train", 5):
        assert len(ids) == task.length
        assert ids[-copied - 1 :] == [vocab - 1] + [vocab - 2] * copied
        data = [token for token in ids[: -copied - 1] if token != vocab - 2]
        assert len(data) == copied
        assert max(data) < vocab - 2
        assert ids[-copied - 2] != vocab - 2
        assert labels == [UNASKED] * (task.length - copied) + data


def test_blanks_stand_before_each_data_token_alike():
    before = np.zeros(4)
    for ids, _ in rows_of(MadSelectiveCopying(length=29, copied=4), "train", 300):
        data = [-1, *np.flatnonzero(np.array(ids[:24]) != 14).tolist()]
        before += np.diff(data) - 1
    assert stats.chisquare(before).pvalue > 1e-4


def test_compression_asks_everything():
    for ids, labels in rows_of(Compression(length=20, vocab=5), "test"):
        assert ids == labels
        assert ids[-1] == 4
        assert set(ids[:-1]) <= {0, 1, 2, 3}
        assert len(ids) == 20


def test_memorization_has_one_map_for_all_rows():
    for vocab in (4, 256, 513):
        value_of = fixed_map(vocab)
        half = (vocab - 1) // 2
        assert len(set(value_of.tolist())) == half == len(value_of)
        assert half <= value_of.min() <= value_of.max() < vocab - 1
        for split, seed in (("train", 0), ("test", 9)):
            for ids, labels in rows_of(Memorization(vocab=vocab, seed=seed), split, 10):
                assert ids[1::2] == [vocab - 1] * 16
                assert labels[::2] == [UNASKED] * 16
                assert labels[1::2] == [value_of[key] for key in ids[::2]]


@pytest.mark.parametrize(
    ("name", "shape", "sizes"),
    [
        ("mad-recall", (127, 16), (12_800, 1_280, 1_280)),
        ("mad-noisy-recall", (127, 32), (12_800, 1_280, 1_280)),
        ("mad-fuzzy-recall", (128, 16), (12_800, 1_280, 1_280)),
        ("mad-selective-copying", (256, 16), (12_800, 1_280, 1_280)),
        ("mad-compression", (32, 16), (12_800, 1_280, 1_280)),
        ("mad-memorization", (32, 256), (256, 1_280, 1_280)),
    ],
)
def test_base_settings(name, shape, sizes):
    task = create_task(name)
    assert isinstance(task, Synthetic)
    assert (len(task.rows("train")[0]["input_ids"]), task.tokens) == shape
    assert (task.train, task.val, task.test) == sizes


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mad-recall", {"length": 7}, r"mad-recall: received .*'length': 7.*an even length >= 4"),
        ("mad-noisy-recall", {"noise": 1.0}, r"0 <= noise < 1"),
        ("mad-noisy-recall", {"vocab": 17}, r"vocab >= noise_vocab \+ 2"),
        ("mad-fuzzy-recall", {"length": 17}, r"length >= 3 \(key_size \+ value_size\)"),
        ("mad-fuzzy-recall", {"key_size": 8}, r"sizes from 1 to half the vocab"),
        ("mad-selective-copying", {"copied": 128}, r"length > 2 copied \+ 1"),
        ("mad-compression", {"vocab": 1}, r"length >= 2, vocab >= 2"),
        ("mad-memorization", {"length": 31}, r"an even length >= 2"),
    ],
)
def test_impossible_options_are_rejected(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_task(name, options)
