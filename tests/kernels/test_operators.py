"""Kernels are the same called directly and through the dispatcher, and modes and profilers see them."""

import pytest
import torch
from op_cases import CASES, STEPS
from scan_cases import assert_same, values_and_gradients
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from seqconv_kernels._core import native
from seqconv_kernels._core.operator.operators import Operator
from seqconv_kernels.diagonal_step import prepare
from tolerances import assert_near

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))

each = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


class Counting:
    """Counts this project's operators."""

    count = 0

    def counted(self, function, args, kwargs):
        self.count += getattr(function, "namespace", "") == "seqconv"
        return function(*args, **kwargs or {})


class Dispatched(Counting, TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return self.counted(function, args, kwargs)


class Called(Counting, TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return self.counted(function, args, kwargs)


@each
def test_straight_calls_equal_those_of_the_dispatcher(case):
    straight = values_and_gradients(case.run, case.tensors)
    for mode in (Dispatched(), Called()):
        with mode:
            dispatched = values_and_gradients(case.run, case.tensors)
        assert mode.count >= 1
        assert_same(dispatched, straight)


def lazily_negated(tensor: Tensor) -> Tensor:
    """The same values, whose signs turn only when they are read: as in the imaginary part of a conjugate."""
    negated: Tensor = torch._neg_view(-tensor)
    assert negated.is_neg()
    return negated


def through_imaginary_parts(tensor: Tensor) -> Tensor:
    """The same values; their gradients are lazily negated."""
    if tensor.is_complex():
        return tensor
    return -torch.complex(torch.zeros_like(tensor), tensor).conj().imag


@pytest.mark.parametrize("case", (CASES | STEPS).values(), ids=CASES | STEPS)
def test_lazy_signs_are_turned(case):
    def lazily(**tensors):
        arguments = {k: lazily_negated(v) if v.is_floating_point() else v for k, v in tensors.items()}
        return tuple(map(through_imaginary_parts, case.run(**arguments)))

    assert_same(values_and_gradients(lazily, case.tensors), values_and_gradients(case.run, case.tensors))
    plain = {k: v.clone() for k, v in case.tensors.items()}
    with torch.no_grad():
        for got, want in zip(lazily(**case.tensors), case.run(**plain), strict=True):
            assert_near(got, want)


def test_a_prepared_recurrence_leaves_lazy_signs_to_others():
    inputs = STEPS["diagonal_step"].inputs(2, 1)
    u, past = inputs["u"], inputs["past"]
    real = {name: inputs[name].real.clone() for name in ("offsets", "residues", "hidden")}
    ready = prepare(real["offsets"], real["residues"], inputs["head"])
    assert ready.step(u, real["hidden"], past, None) is not None
    assert ready.step(lazily_negated(u), real["hidden"], past, None) is None
    assert ready.step(u, lazily_negated(real["hidden"]), past, None) is None
    lazy = prepare(lazily_negated(real["offsets"]), real["residues"], inputs["head"])
    assert lazy.step(u, real["hidden"], past, None) is None


@each
def test_profilers_see_operators(case):
    with torch.profiler.profile() as profile:
        values_and_gradients(case.run, case.tensors)
    assert any(event.key.startswith("seqconv::") for event in profile.key_averages())


@pytest.fixture(scope="module")
def calls():
    return []


@pytest.fixture(scope="module")
def square(calls):
    def run(x: Tensor) -> Tensor:
        calls.append(torch.is_grad_enabled())
        return x.detach().square()

    def gradients(ctx, dy):
        return 2 * ctx.saved_tensors[0] * dy

    operator = Operator("test_square", run, torch.empty_like)
    operator.differentiate(lambda ctx, inputs, output: ctx.save_for_backward(*inputs), gradients)
    return operator


def test_plain_calls_leave_the_dispatcher_out(square, calls, monkeypatch):
    monkeypatch.setattr(square, "_registered", None)
    calls.clear()
    x = torch.tensor([3.0], requires_grad=True)
    y = square(x)
    y.backward()
    assert (y.item(), x.grad.item()) == (9.0, 6.0)
    with torch.no_grad():
        assert not square(x).requires_grad
    assert len(calls) == 2


def test_subclasses_go_through_the_dispatcher(square, monkeypatch):
    class Own(Tensor):
        pass

    seen = []
    monkeypatch.setattr(square, "_registered", lambda *a: seen.append(a))
    square(torch.ones(2).as_subclass(Own))
    assert seen


def test_without_a_gradient_there_is_none():
    def run(x: Tensor) -> Tensor:
        return 2 * x.detach()

    operator = Operator("test_flat", run, torch.empty_like)
    x = torch.ones(2, requires_grad=True)
    assert operator(x.detach()).tolist() == [2.0, 2.0]
    with pytest.raises(ValueError, match=r"seqconv::test_flat: .*it has no gradient.*implementation='reference'"):
        operator(x).sum().backward()
