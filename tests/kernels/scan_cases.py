"""What the tests of the scanning ops share: gradients of two implementations side by side, and golden numbers."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from golden_cases import Case, assert_close
from tolerances import assert_near

LENGTHS = (1, 2, 63, 64, 65, 200)
Outputs = tuple[Tensor, ...]


def leaves(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The same arguments, every floating or complex tensor a leaf that wants a gradient."""
    wanted = {k: v for k, v in inputs.items() if isinstance(v, Tensor) and (v.is_floating_point() or v.is_complex())}
    return {**inputs, **{k: v.detach().clone().requires_grad_() for k, v in wanted.items()}}


def values_and_gradients(run: Callable[..., Outputs], inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Outputs of ``run(**inputs)``, and the gradient of a fixed random combination of them for every input."""
    arguments, rng = leaves(inputs), torch.Generator().manual_seed(0)
    outputs = run(**arguments)
    total = torch.zeros((), dtype=torch.float64)
    for output in outputs:
        wide = torch.complex128 if output.is_complex() else torch.float64
        weight = torch.randn(output.shape, generator=rng, dtype=wide).to(output.dtype)
        total = total + (output * weight.conj()).sum().real
    grads = {k: v for k, v in arguments.items() if isinstance(v, Tensor) and v.requires_grad}
    found = torch.autograd.grad(total, list(grads.values()), materialize_grads=True)
    named = {f"output {i}": output.detach() for i, output in enumerate(outputs)}
    return named | {f"gradient of {k}": g for k, g in zip(grads, found, strict=True)}


def assert_same(got: Mapping[str, Tensor], want: Mapping[str, Tensor], what: str = "") -> None:
    """Every value and gradient agrees, and is finite."""
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert tensor.isfinite().all(), f"{what}: {name} wanted is not finite"
        assert_near(got[name], tensor, dtype=got[name].real.dtype, what=f"{what}: {name}")


def check_golden(case: Case, run: Callable[..., Mapping[str, Tensor]], rtol: float = 1e-9, atol: float = 1e-10) -> None:
    """Outputs and gradients of ``run(**inputs)``, named as in the case, equal those stored."""
    inputs = {k: v.double().requires_grad_() for k, v in case.group("in").items()}
    outputs = run(**inputs)
    want, cotangents = case.group("out"), case.group("cot")
    assert want
    for name, tensor in want.items():
        assert_close(outputs[name], tensor, rtol, atol, f"{case.name}: {name}")
    sum((outputs[name] * weight).sum() for name, weight in cotangents.items()).backward()
    gradients = case.group("grad.in")
    assert gradients
    for name, tensor in gradients.items():
        found = inputs[name].grad
        assert found is not None, f"{case.name}: no gradient reached {name}"
        assert_close(found, tensor, rtol, atol, f"{case.name}: gradient of {name}")
