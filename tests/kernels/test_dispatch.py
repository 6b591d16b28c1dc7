"""Choosing an implementation: the fastest that supports the call, a named one or a reason, one warning off the CPU."""

import logging
import sys
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import seqconv_kernels
from seqconv_kernels._core.dispatch import Implementation, Op, signature
from seqconv_kernels._core.registry import ops


class Inputs(NamedTuple):
    x: Tensor
    y: Tensor | None = None
    flag: bool = False


@pytest.fixture
def loaded(monkeypatch):
    """A module of two implementations, of which the fast one supports flagged calls only; what was imported of it."""
    found = []

    class Recording(ModuleType):
        def __getattribute__(self, name):
            if not name.startswith("__"):
                found.append(name)
            return super().__getattribute__(name)

    module = Recording("seqconv_kernels.doubled")
    module.fast = lambda inputs: "fast"
    module.reference = lambda inputs: "reference"
    module.reason = lambda inputs: None if inputs.flag else "no such device"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return found


@pytest.fixture
def op(loaded):
    fast = Implementation("fast", "doubled:fast", "doubled:reason")
    return Op("double", Inputs, fast, Implementation("reference", "doubled:reference"))


def passes(_, inputs):
    """A check that nothing fails."""


def test_the_first_that_supports_the_call(op):
    assert op(Inputs(torch.ones(1), flag=True), passes) == "fast"
    assert op(Inputs(torch.ones(1)), passes) == "reference"


def test_a_named_one_runs_or_raises(op):
    inputs = Inputs(torch.ones(1))
    assert op(inputs, passes, "reference") == "reference"
    with pytest.raises(ValueError, match=r"double: received implementation='fast'.*no such device.*'reference'"):
        op(inputs, passes, "fast")
    with pytest.raises(ValueError, match=r"implementation 'fats'.*did you mean 'fast'"):
        op(inputs, passes, "fats")


def test_report(op):
    assert op.report(Inputs(torch.ones(1))) == {"fast": "no such device", "reference": None}
    assert op.report(Inputs(torch.ones(1), flag=True)) == {"fast": None, "reference": None}


def test_one_warning_where_a_device_lands_on_the_reference(op, caplog):
    inputs = Inputs(torch.ones(1, device="meta"))
    with caplog.at_level(logging.WARNING):
        op(inputs, passes)
        op(inputs, passes)
    assert [r.getMessage() for r in caplog.records] == [
        "double: meta tensors run on the reference: {'fast': 'no such device', 'reference': None}"
    ]


def test_imports_wait_for_the_choice_and_happen_once(op, loaded):
    assert op.report(Inputs(torch.ones(1))) == {"fast": "no such device", "reference": None}
    assert loaded == ["reason"]
    for _ in range(2):
        op(Inputs(torch.ones(1)), passes)
    assert loaded == ["reason", "reference"]


def test_checks_run_once_per_signature(op):
    checked = []

    def check(name, inputs):
        checked.append((name, inputs))

    x = torch.ones(2, 3)
    same = (Inputs(x), Inputs(2 * x), Inputs(torch.ones(3, 2).T))
    others = (Inputs(x[:1]), Inputs(x.double()), Inputs(x, x), Inputs(x, flag=True), Inputs(x.clone().requires_grad_()))
    for inputs in same:
        op(inputs, check)
    assert [name for name, _ in checked] == ["double"]
    for inputs in others:
        op(inputs, check)
    assert len(checked) == 1 + len(others)


def test_a_check_that_fails_is_not_remembered(op):
    def check(name, inputs):
        raise ValueError(name)

    for _ in range(2):
        with pytest.raises(ValueError, match="double"):
            op(Inputs(torch.ones(1)), check)


class Own(Tensor):
    """A subclass, as of a mode or a distributed tensor."""


@pytest.mark.parametrize(
    "special",
    [
        torch.ones(2, device="meta"),
        torch.ones(2, dtype=torch.int64),
        torch.ones(2, dtype=torch.complex64),
        torch._neg_view(torch.ones(2)),
        torch.ones(2).as_subclass(Own),
    ],
    ids=["device", "integers", "complex", "lazy sign", "subclass"],
)
def test_only_plain_tensors_have_a_signature(special):
    assert signature(Inputs(torch.ones(2))) is not None
    assert signature(Inputs(torch.ones(2), special)) is None


def test_under_transforms_there_is_no_signature():
    seen = []
    torch.func.vmap(lambda x: seen.append(signature(Inputs(torch.ones(2)))) or x)(torch.ones(2))
    with torch.autograd.forward_ad.dual_level():
        seen.append(signature(Inputs(torch.ones(2))))
    assert seen == [None, None]


def test_every_public_op_is_registered_and_every_path_leads_to_a_function():
    found = ops()
    assert set(seqconv_kernels.__all__) - set(found) == {"unroll_rings"}
    for name, entry in found.items():
        assert entry.op.implementations[-1].name == "reference", name
        for implementation in entry.op.implementations:
            if implementation.name == "triton":
                pytest.importorskip("triton")
            assert callable(implementation.run.resolve()), implementation.run.path
            assert implementation._reason is None or callable(implementation._reason.resolve()), name
