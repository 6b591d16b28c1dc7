"""Typed options that are handed on: names, types and defaults written once, seen by the registry."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypedDict, Unpack

import numpy as np
import pytest

from seqconv.options import Default, keyword_parameters, option_parameters, select_options, wanted_value, with_defaults


class Inner(TypedDict, total=False):
    d_state: Annotated[int, Default(64)]
    init: Annotated[str | None, Default(None)]


class Outer(Inner, total=False):
    dropout: Annotated[float, Default(0.5)]


def build(d_model: int, *, gate: bool = True, **options: Unpack[Outer]) -> None:
    """A constructor that hands its options on."""


def test_a_constructor_shows_the_options_it_hands_on():
    shown = {p.name: (p.annotation, p.default) for p in keyword_parameters(build)}
    assert shown == {
        "gate": (bool, True), "d_state": (int, 64), "init": (str | None, None), "dropout": (float, 0.5),
    }  # fmt: skip


def test_given_options_replace_defaults_and_unknown_ones_raise():
    assert with_defaults(Outer, {"d_state": 8}, "Build") == {"d_state": 8, "init": None, "dropout": 0.5}
    with pytest.raises(ValueError, match=r"Build: received option 'd_stat'.*did you mean 'd_state'"):
        with_defaults(Outer, {"d_stat": 8}, "Build")


def test_each_part_gets_its_own_options():
    assert select_options(Inner, {"d_state": 8, "dropout": 0.1}) == {"d_state": 8}


def test_types_and_ranges_of_values_are_those_of_the_annotation_and_the_name():
    wrong = {
        ("dt_rank", int | Literal["auto"], "many"): 'int | Literal["auto"]',
        ("window", Sequence[int] | None, 3): "Sequence[int] | None",
        ("mixer_options", Mapping[str, Any] | None, "none"): "Mapping[str, Any] | None",
        ("l_max", int, 4.5): "int",
        ("omega_0", float, 0): "a number above 0",
        ("gate_low_rank_dim", int | None, -1): "a number above 0",
        ("conv_init", float | None, -1.0): "0 or more",
    }
    assert {case: wanted_value(*case) for case in wrong} == wrong
    for right in (("l_max", int, np.int64(4)), ("lr", float, 1), ("sizes", Sequence[int], [2]), ("bias", bool, 1)):
        assert wanted_value(*right) is None, right


def test_an_option_without_a_default_raises():
    class Bare(TypedDict, total=False):
        width: int

    with pytest.raises(TypeError, match=r"option 'width'.*Default"):
        option_parameters(Bare)
