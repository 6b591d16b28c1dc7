"""ListOps: the language, and a generator whose draws and distribution are the original's."""

import csv
import json
import random
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lra.tasks.listops.expressions import CLASSES, CODES, END, SYMBOLS, bracketed, cut_value, evaluate, symbols_of
from lra.tasks.listops.generator import FULL, SMALL, Grammar, draw_block, draw_examples, draw_expression, generate

GOLDEN = Path(__file__).parents[2] / "golden" / "lra"
STATS = json.loads((GOLDEN / "listops_stats.json").read_text())
ORIGINAL_SEED = 20240501


def original_examples() -> list[tuple[str, int]]:
    with (GOLDEN / "listops_examples.tsv").open(newline="") as file:
        return [(source, int(target)) for source, target in list(csv.reader(file, delimiter="\t"))[1:]]


@pytest.fixture(scope="module")
def replayed():
    """The draws of the original functions after ``random.seed``: 5,000 measured ones, then the 20 kept in full."""
    return list(islice(draw_examples(random.Random(ORIGINAL_SEED), FULL), 5020))


@pytest.fixture(scope="module")
def drawn():
    """Examples of our own streams."""
    return [example for block in range(10) for example in draw_block(7, block, FULL)]


def test_the_draws_equal_the_original_ones_symbol_by_symbol(replayed):
    assert [(bracketed(codes), value) for codes, value in replayed[5000:]] == original_examples()


def test_the_replayed_statistics_equal_the_measured_ones(replayed):
    examples = replayed[:5000]
    assert (
        np.histogram([len(c) for c, _ in examples], STATS["length_tokens"]["hist_bin_edges"])[0].tolist()
        == (STATS["length_tokens"]["hist_counts"])
    )
    assert Counter(str(value) for _, value in examples) == STATS["label_counts"]
    for depth in (1, 2, 4):
        accuracy = STATS["depth_truncated_evaluator_accuracy"][str(depth)]
        right = sum(cut_value(codes, depth) == value for codes, value in examples)
        assert right / 5000 == pytest.approx(accuracy, abs=1e-9)


def agree(observed: list[int], expected: list[int], p: float = 1e-4) -> None:
    """Two samples of counts come from one distribution."""
    assert stats.chi2_contingency(np.array([observed, expected])).pvalue > p


def arguments(codes: bytes) -> Counter[int]:
    counts: Counter[int] = Counter()
    stack: list[int] = []
    for code in codes:
        if code == END:
            counts[stack.pop()] += 1
        elif stack and code < CLASSES:
            stack[-1] += 1
        elif code >= CLASSES:
            if stack:
                stack[-1] += 1
            stack.append(0)
    return counts


def test_our_streams_follow_the_original_distribution(drawn):
    agree(
        np.histogram([len(codes) for codes, _ in drawn], STATS["length_tokens"]["hist_bin_edges"])[0].tolist(),
        STATS["length_tokens"]["hist_counts"],
    )
    labels = Counter(str(value) for _, value in drawn)
    agree([labels[str(k)] for k in range(10)], [STATS["label_counts"][str(k)] for k in range(10)])
    roots = Counter(SYMBOLS[codes[0]].strip("[") for codes, _ in drawn)
    agree([roots[op] for op in STATS["root_operator_counts"]], list(STATS["root_operator_counts"].values()))
    used = sum((arguments(codes) for codes, _ in drawn), Counter())
    agree([used[k] for k in range(2, 11)], [STATS["args_per_op_counts"][str(k)] for k in range(2, 11)])
    tokens = np.bincount(np.frombuffer(b"".join(codes for codes, _ in drawn), np.uint8), minlength=15)
    expected = np.array([STATS["token_freq"][symbol] for symbol in SYMBOLS])
    assert np.abs(tokens / tokens.sum() - expected).max() < 1e-3


def test_lengths_follow_the_replayed_ones(drawn, replayed):
    assert stats.ks_2samp([len(c) for c, _ in drawn], [len(c) for c, _ in replayed]).pvalue > 1e-4


def test_acceptance_and_leaves():
    stream = random.Random(5)
    lengths = np.array([len(draw_expression(stream, FULL)[0]) for _ in range(20_000)])
    draw = STATS["unconditional_draw"]
    for found, share in (
        ((lengths == 1), draw["p_single_leaf"]),
        ((lengths > 500) & (lengths < 2000), draw["p_in_window"]),
    ):
        assert stats.binomtest(int(found.sum()), len(lengths), share).pvalue > 1e-4


def test_windows_are_strict_and_examples_differ():
    examples = list(generate(600, SMALL, 0))
    assert {len(codes) for codes, _ in examples} <= set(range(17, 96))
    assert len({codes for codes, _ in examples}) == 600
    tight = Grammar(max_depth=2, max_args=2, longer_than=2, shorter_than=5)
    assert len({codes for codes, _ in generate(400, tight, 0)}) == 400
    with pytest.raises(ValueError, match=r"received 401 examples of Grammar.*about 400, all there are"):
        list(generate(401, tight, 0))


def test_impossible_grammars_are_rejected():
    with pytest.raises(ValueError, match=r"listops grammar: received Grammar\(max_depth=1.*an open window"):
        Grammar(max_depth=1)


def test_labels_equal_the_independent_evaluator(drawn):
    for codes, value in [*drawn[:300], *draw_block(1, 0, SMALL)]:
        assert evaluate(bracketed(codes)) == value
        assert evaluate(" ".join(SYMBOLS[code] for code in codes)) == value


def test_evaluator_on_the_original_examples():
    for source, target in original_examples():
        assert evaluate(source) == target
        assert evaluate(" ".join(symbols_of(source)).replace("]", "X")) == target


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6))
def test_writing_and_reading_are_inverse(seed):
    codes, _ = draw_expression(random.Random(seed), SMALL)
    assert bytes(CODES[symbol] for symbol in symbols_of(bracketed(codes))) == codes


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("7", 7),
        ("[MED 1 2 ]", 1),
        ("[MED 3 1 8 X", 3),
        ("[SM 9 9 9 ]", 7),
        ("((([MIN 5 )8 )] )", 5),
        ("[MAX 4 ]", 4),
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),
        ("[MAX 2 9[MIN 4 7]0]", 9),
        ("  [SM\t1 2\r\n3 ]\n", 6),
        ("[MED 9 8 2 1 X", 5),
        ("( ( ( [MAX 5 ) 8 ) X )", 8),
    ],
)
def test_values_by_hand(source, value):
    assert evaluate(source) == value


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", r"the end of the text at symbol 0; wanted a digit or an operator"),
        ("[MAX 5 8", r"the end of the text at symbol 3"),
        ("[MAX ]", r"received \] at symbol 1; wanted a digit, an operator, or \] after an argument"),
        ("5 5", r"received 5 at symbol 1; wanted nothing after a complete expression"),
        ("[FOO 3 ]", r"received \[FOO at symbol 0"),
        ("12", r"received 12 at symbol 0"),
        ("[ MAX 3 ]", r"received \[ at symbol 0"),
        ("[max 3 ]", r"received \[max at symbol 0"),
        ("[MAX3 4]", r"received \[MAX3 at symbol 0"),
        ("-3", r"received -3 at symbol 0"),
        ("[MAX 3 ] ]", r"received \] at symbol 3; wanted nothing after"),
        ("( ( ( [MAX 5 ) 8 ) ]", r"the end of the text at symbol 9; wanted a parenthesis after the \]"),
        ("( 5 )", r"received 5 at symbol 1"),
        ("( ( ( [MAX 5 8 ) ] )", r"received 8 at symbol 5; wanted a parenthesis after an argument of \[MAX"),
        ("( ( ( ( [MAX 5 ) 8 ) ] )", r"received 4 parentheses before a \[MAX of 2 arguments at symbol \d+; wanted 3"),
        ("( ( ( [MAX 5 ) 8 ) ] ) )", r"received \) at symbol 10; wanted nothing after"),
        ("٣", r"received ٣ at symbol 0"),
    ],
)
def test_malformed_text_is_rejected_with_its_place(source, message):
    with pytest.raises(ValueError, match=message):
        evaluate(source)
