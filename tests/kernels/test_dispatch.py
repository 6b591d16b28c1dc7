"""Choosing an implementation: the fastest that serves, a named one or a reason, one warning off the CPU."""

import logging

import pytest
import torch

from seqconv_kernels._core.dispatch import Call, Implementation, Op, lazy, serves_all


def make_op(refuse=lambda call: "no such device" if "x" in call.given() else None):
    fast = Implementation("fast", lambda: lambda: "fast", refuse)
    return Op("double", fast, Implementation("reference", lambda: lambda: "reference", serves_all))


def test_the_first_that_serves():
    assert make_op(lambda call: None).choose(None, Call({"x": torch.ones(1)}))() == "fast"
    assert make_op().choose(None, Call({"x": torch.ones(1)}))() == "reference"


def test_a_named_one_runs_or_raises():
    op, call = make_op(), Call({"x": torch.ones(1), "y": None}, {"flag": True})
    assert op.choose("reference", call)() == "reference"
    with pytest.raises(ValueError, match=r"double: received implementation='fast'.*no such device.*'reference'"):
        op.choose("fast", call)
    with pytest.raises(ValueError, match=r"implementation 'fats'.*did you mean 'fast'"):
        op.choose("fats", call)


def test_report_and_call():
    call = Call({"none": None, "x": torch.ones(1)})
    assert make_op().report(call) == {"fast": "no such device", "reference": None}
    assert list(call.given()) == ["x"]
    assert call.device_type == "cpu"


def test_one_warning_where_a_device_lands_on_the_reference(caplog):
    op, call = make_op(), Call({"x": torch.ones(1, device="meta")})
    with caplog.at_level(logging.WARNING):
        op.choose(None, call)
        op.choose(None, call)
    assert [r.getMessage() for r in caplog.records] == [
        "double: meta tensors run on the reference: {'fast': 'no such device', 'reference': None}"
    ]


def test_loading_waits_for_the_choice():
    loaded = []

    def load():
        loaded.append("slow")
        return make_op

    slow = Implementation("slow", load, serves_all)
    op = Op("op", slow)
    assert op.report(Call({"x": torch.ones(1)})) == {"slow": None}
    assert loaded == []
    op.choose(None, Call({"x": torch.ones(1)}))
    assert loaded == ["slow"]


def test_a_late_function_is_imported_at_its_first_call_and_once():
    loaded = []

    @lazy
    def double():
        loaded.append("double")
        return lambda x: 2 * x

    assert loaded == []
    assert (double(2), double(3)) == (4, 6)
    assert loaded == ["double"]
