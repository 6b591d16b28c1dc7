"""Every op under every tool that PyTorch has for operators, through the implementation that runs by default.

The tools: ``opcheck``, ``torch.compile`` without graph breaks, ``torch.export``, activation checkpointing, and finite
differences of first and second order. The inputs are as small as they can be with more than one of everything.
"""

import pytest
import torch
from op_cases import CASES, STEPS
from scan_cases import assert_same, check_finite_differences, values_and_gradients
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from seqconv_kernels._core import native
from seqconv_kernels._core.registry import ops
from tolerances import assert_near

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))


each = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def test_every_op_is_here():
    assert {name.split(",")[0] for name in CASES | STEPS} == set(ops())


class Operators(TorchFunctionMode):
    """Keeps the calls of this project's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[torch._ops.OpOverload, tuple[object, ...]]] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if isinstance(function, torch._ops.OpOverload) and function.namespace == "seqconv":
            self.calls.append((function, args))
        return function(*args, **kwargs or {})


def leaves(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().clone().requires_grad_() for k, v in tensors.items()}


@each
def test_opcheck(case):
    with Operators() as seen:
        case.run(**leaves(case.tensors))
    assert seen.calls
    operator, arguments = seen.calls[0]
    arguments = tuple(
        x.detach().requires_grad_(x.is_floating_point()) if isinstance(x, Tensor) else x for x in arguments
    )
    torch.library.opcheck(operator, arguments)


@each
@pytest.mark.slow
@pytest.mark.usefixtures("unannotated")
def test_compiles_without_graph_breaks(case):
    """At sizes that stay; at those that change, below, in every run."""
    torch.compiler.reset()
    compiled = torch.compile(case.run, fullgraph=True, backend="aot_eager")
    assert_same(values_and_gradients(compiled, case.tensors), values_and_gradients(case.run, case.tensors))


# What changed once is kept open by the compiler from then on; a batch of one is always compiled for itself.
SIZES = [(2, 64), (3, 65), (1, 100)]


@pytest.mark.parametrize("case", (CASES | STEPS).values(), ids=CASES | STEPS)
@pytest.mark.parametrize("dynamic", [None, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("unannotated")
def test_compiles_for_open_batches_and_lengths(case, dynamic):
    torch.compiler.reset()
    compiled = torch.compile(case.run, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for size in SIZES:
        inputs = case.inputs(*size)
        got, want = values_and_gradients(compiled, inputs), values_and_gradients(case.run, inputs)
        assert_same(got, want, f"batch and length {size}")


@each
@pytest.mark.usefixtures("unannotated")
def test_exports(case):
    class Layer(torch.nn.Module):
        def forward(self, tensors):
            return case.run(**tensors)

    exported = torch.export.export(Layer(), (case.tensors,)).module()
    for got, want in zip(exported(case.tensors), case.run(**case.tensors), strict=True):
        assert_near(got, want)


@each
def test_recomputes_in_the_backward_pass(case):
    def recomputed(**tensors):
        return checkpoint(
            lambda *values: case.run(**dict(zip(tensors, values, strict=True))), *tensors.values(), use_reentrant=False
        )

    assert_same(values_and_gradients(recomputed, case.tensors), values_and_gradients(case.run, case.tensors))


@each
def test_gradients_of_both_orders_are_those_of_finite_differences(case):
    check_finite_differences(case.run, leaves(case.tensors), twice=True, fast=True)
