"""Synthetic tasks: labels follow from the inputs, rows depend on nothing but their index."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lra.tasks import TASKS, create_task
from lra.tasks.synthetic.base import UNASKED, DrawnRows, Online, Synthetic, WrittenRows
from lra.tasks.synthetic.copying import Copying, Delay, SelectiveCopying
from lra.tasks.synthetic.recall import Induction, MultiQueryRecall, Recall
from lra.tasks.synthetic.signals import SignalDelay, SignalReconstruct, explained, white_signal
from lra.tasks.synthetic.tracking import Parity, Permutations, elements

SYNTHETIC = [name for name in TASKS if isinstance(create_task(name), Synthetic)]


def rows_of(task: Synthetic, split: str = "train", count: int = 50) -> list[tuple[np.ndarray, np.ndarray]]:
    dataset = task.rows(split)
    return [(dataset[index]["input_ids"], dataset[index]["labels"]) for index in range(count)]


@pytest.mark.parametrize("name", SYNTHETIC)
def test_rows_depend_on_seed_split_and_index_exclusive(name):
    task = create_task(name, {"length": 512} if name == "selective-copying" else {})
    again = create_task(name, task.options())
    for split in ("train", "val"):
        for index in (3, 0):
            row, same = task.rows(split)[index], again.rows(split)[index]
            assert np.array_equal(row["input_ids"], same["input_ids"])
            assert np.array_equal(row["labels"], same["labels"])
    other = create_task(name, task.options() | {"seed": 1})
    assert not np.array_equal(task.rows("train")[0]["input_ids"], other.rows("train")[0]["input_ids"])
    assert not np.array_equal(task.rows("train")[0]["input_ids"], task.rows("val")[0]["input_ids"])
    assert len(task.rows("val")) == task.val
    with pytest.raises(IndexError):
        task.rows("val")[task.val]


def test_splits_are_written_whole_where_they_are_small(monkeypatch, tmp_path):
    task = Parity(length=64, train=400, val=300, test=20)
    monkeypatch.setattr("lra.tasks.synthetic.base.WRITTEN", 2 * 8 * 64 * 300)
    task.prepare(tmp_path, quiet=True)
    splits = task.load(tmp_path).splits
    assert [type(splits[name]) for name in ("train", "val", "test")] == [DrawnRows, WrittenRows, WrittenRows]
    assert [len(splits[name]) for name in ("train", "val", "test")] == [400, 300, 20]
    for name, index in (("train", 399), ("val", 299), ("test", 0)):
        row, drawn = splits[name][index], task.rows(name)[index]
        assert row.keys() == drawn.keys()
        assert all(np.array_equal(row[column], drawn[column]) for column in row)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_prepared_and_loaded(name, tmp_path):
    task = create_task(name, {"length": 64, "train": 300, "val": 40, "test": 40})
    task.prepare(tmp_path, quiet=True)
    data = task.load(tmp_path)
    batch = data.collate([data.splits["train"][index] for index in range(5)])
    assert batch["input_ids"].shape == batch["labels"].shape == (5, data.max_length)
    assert batch["input_ids"].dtype == torch.int64
    assert int(batch["input_ids"].max()) < data.vocab_size
    asked = batch["labels"][batch["labels"] != UNASKED]
    assert len(asked) > 0
    assert 0 <= int(asked.min()) <= int(asked.max()) < data.classes
    assert 0 < data.baselines["test"]["chance"] <= 0.5


@pytest.mark.parametrize("length", [2, 3, 40, 1001])
def test_recall_labels_are_the_next_tokens_and_the_value_that_the_key_had(length):
    task = Recall(length=length, vocab=10)
    for ids, labels in rows_of(task, "train"):
        assert len(ids) == 2 * (length // 2) + 2
        assert labels[:-1].tolist() == ids[1:].tolist()
        value_of = dict(zip(ids[:-2:2].tolist(), ids[1:-2:2].tolist(), strict=True))
        assert ids[-2] == 9
        assert labels[-1] == value_of[int(ids[-1])]
        assert set(ids[:-2:2].tolist()) <= set(range(4))
        assert set(ids[1:-2:2].tolist()) <= set(range(4, 8))
    for ids, labels in rows_of(task, "test"):
        assert (labels[:-1] == UNASKED).all()
        assert labels[-1] in ids


@pytest.mark.parametrize("filler", ["random", "zero"])
def test_every_key_of_mqar_is_asked_once_and_has_its_value(filler):
    task = MultiQueryRecall(length=64, pairs=8, vocab=64, filler=filler)
    gaps = []
    for ids, labels in rows_of(task, count=200):
        value_of = dict(zip(ids[:16:2].tolist(), ids[1:16:2].tolist(), strict=True))
        assert len(value_of) == len(set(value_of.values())) == 8
        assert all(0 < key < 32 <= value for key, value in value_of.items())
        places = np.flatnonzero(labels != UNASKED)
        assert sorted(ids[places].tolist()) == sorted(value_of)
        assert [value_of[key] for key in ids[places].tolist()] == labels[places].tolist()
        assert (places >= 16).all()
        assert (places % 2 == 0).all()
        if filler == "zero":
            rest = np.delete(ids[16:], places - 16)
            assert (rest == 0).all()
        gaps += places.tolist()
    assert np.mean(np.array(gaps) < 40) > 0.55


def test_the_first_gap_of_mqar_has_the_stated_weight():
    task = MultiQueryRecall(length=44, pairs=1, vocab=64)
    slots = np.arange(1, 22)
    weight = slots**-0.99
    counts = np.zeros(21)
    for _, labels in rows_of(task, count=1000):
        counts[(np.flatnonzero(labels != UNASKED)[0] - 2) // 2] += 1
    assert stats.chisquare(counts, 1000 * weight / weight.sum()).pvalue > 1e-4


@pytest.mark.parametrize(("length", "copied"), [(2, 1), (30, 1), (30, 4), (256, 1)])
def test_induction_asks_what_followed_the_trigger(length, copied):
    task = Induction(length=length, copied=copied)
    for ids, labels in rows_of(task):
        first, final = np.flatnonzero(ids == 19)[[0, 1]]
        assert final == length
        assert (labels[:length] == UNASKED).all()
        assert labels[length:].tolist() == ids[first + 1 : first + 1 + copied].tolist()
        assert ids[length + 1 :].tolist() == labels[length:-1].tolist()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.integers(1, 12), st.integers(0, 10**6))
def test_copying_asks_the_data_in_order(length, memory, seed):
    for task in (
        Copying(length=length, memory=memory, seed=seed),
        SelectiveCopying(length=length + memory, memory=memory),
    ):
        ids, labels = rows_of(task, count=1)[0]
        assert len(ids) == length + 2 * memory
        data = ids[:-memory][ids[:-memory] > 0]
        assert labels[-memory:].tolist() == data.tolist()
        assert (labels[:-memory] == UNASKED).all()
        assert (ids[-memory:] == task.vocab - 1).all()
        assert (data < task.vocab - 1).all()


def test_selective_places_are_uniform():
    task = SelectiveCopying(length=20, memory=5)
    places = np.concatenate([np.flatnonzero(ids[:20]) for ids, _ in rows_of(task, count=500)])
    assert stats.chisquare(np.bincount(places, minlength=20)).pvalue > 1e-4


@pytest.mark.parametrize("lag", [0, 1, 31])
def test_delay_asks_the_token_lag_steps_before(lag):
    for ids, labels in rows_of(Delay(length=32, lag=lag)):
        assert labels[lag:].tolist() == ids[: 32 - lag].tolist()
        assert (labels[:lag] == UNASKED).all()


@pytest.mark.parametrize("modulus", [2, 5])
def test_parity_counts(modulus):
    for ids, labels in rows_of(Parity(modulus=modulus)):
        total = 0
        for token, label in zip(ids.tolist(), labels.tolist(), strict=True):
            total = (total + token) % modulus
            assert label == total


@pytest.mark.parametrize("group", ["s3", "a4", "a5", "s5"])
def test_permutations_compose_as_matrices_do(group):
    task = Permutations(group=group, length=30)
    matrices = [np.eye(len(p), dtype=int)[:, list(p)] for p in elements(group)]
    assert len(matrices) == task.tokens == {"s3": 6, "a4": 12, "a5": 60, "s5": 120}[group]
    assert np.array_equal(matrices[0], np.eye(len(matrices[0])))
    if group[0] == "a":
        assert all(round(np.linalg.det(matrix)) == 1 for matrix in matrices)
    for ids, labels in rows_of(task, count=5):
        product = matrices[0]
        for token, label in zip(ids.tolist(), labels.tolist(), strict=True):
            product = matrices[token] @ product
            assert np.array_equal(product, matrices[label])


def test_signals_are_band_limited_and_start_at_0():
    signal = white_signal(np.random.default_rng(0), 4000, 1e-3, 50.0)
    power = np.abs(np.fft.rfft(signal)) ** 2
    assert signal[0] == 0
    passed = np.fft.rfftfreq(4000, 1e-3) <= 50
    assert power[~passed].sum() < 1e-20 * power.sum()
    assert np.count_nonzero(power[passed] > 1e-9 * power.max()) > 190
    assert np.std(signal) == pytest.approx(0.5, rel=0.15)
    assert len(white_signal(np.random.default_rng(0), 101, 1e-3, 100.0)) == 101


def test_signals_are_asked_again():
    for signal, labels in signal_rows(SignalDelay(length=300, lag=70)):
        assert signal.dtype == labels.dtype == np.float32
        assert np.array_equal(labels[70:], signal[:230])
        assert (labels[:70] == 0).all()
    for signal, labels in signal_rows(SignalReconstruct(length=300, memory=70, freq=200.0)):
        assert np.array_equal(labels, signal[230:])


def signal_rows(task: Online) -> list[tuple[np.ndarray, np.ndarray]]:
    dataset = task.rows("test")
    return [(dataset[index]["input_values"], dataset[index]["labels"]) for index in range(3)]


@pytest.mark.parametrize("name", ["signal-delay", "signal-reconstruct"])
def test_signals_are_prepared_and_loaded(name, tmp_path):
    memory = {"lag": 20} if name == "signal-delay" else {"memory": 20, "freq": 200.0}
    task = create_task(name, {"length": 64, "train": 300, "val": 40, "test": 40, **memory})
    task.prepare(tmp_path, quiet=True)
    data = task.load(tmp_path)
    batch = data.collate([data.splits["train"][index] for index in range(5)])
    assert batch["input_values"].shape == (5, 64)
    assert batch["labels"].dtype == torch.float32
    assert data.score == "explained variance"
    assert -0.5 < data.baselines["test"]["always 0"] <= 0.01


def test_explained_variance():
    assert explained(np.array([1.0, 3.0]), np.array([1.0, 3.0])) == 1
    assert explained(np.array([1.0, 3.0]), np.array([2.0, 2.0])) == 0
    assert explained(np.array([1.0, 3.0]), np.array([3.0, 1.0])) == -3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("permutations", {"group": "s6"}, r"permutations: received group='s6'; wanted one of s3, s4, s5, a4, a5"),
        ("signal-delay", {"freq": 2500.0}, r"signal-delay: received .*to half the sampling rate"),
        ("signal-delay", {"freq": 0.5}, r"freq from one period in the row"),
        ("signal-delay", {"lag": 4000}, r"0 <= lag < length"),
        ("signal-reconstruct", {"memory": 1}, r"2 <= memory <= length"),
        ("recall", {"vocab": 7}, r"recall: received .*'vocab': 7.*an even vocab >= 4"),
        ("mqar", {"pairs": 40}, r"wanted an even length >= 4 pairs"),
        ("mqar", {"filler": "noise"}, r"filler='noise'; wanted one of random, zero"),
        ("induction", {"copied": 30}, r"wanted copied >= 1, length > copied"),
        ("copying", {"memory": 0}, r"wanted length >= 0, memory >= 1"),
        ("selective-copying", {"length": 3}, r"wanted length >= memory >= 1"),
        ("delay", {"lag": 128}, r"wanted 0 <= lag < length"),
        ("parity", {"modulus": 1}, r"wanted length >= 1, modulus >= 2"),
        ("parity", {"train": 0}, r"parity: received seed=0, sizes 0"),
    ],
)
def test_impossible_options_are_rejected(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_task(name, options)


def test_rows_of_another_generator_are_noticed(tmp_path, monkeypatch):
    task = Parity(length=16, train=4, val=4, test=4)
    task.prepare(tmp_path, quiet=True)
    monkeypatch.setattr(Parity, "draw", lambda self, stream, training: (np.zeros(16, int), np.ones(16, int)))
    with pytest.raises(ValueError, match=r"rows of another version of the generator.*prepare parity --force"):
        task.load(tmp_path)
