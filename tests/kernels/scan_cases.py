"""What the tests of the scanning ops share: gradients of two implementations side by side, and golden numbers.

``run`` is a function of the op's arguments that returns the output and the final state.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from golden_cases import Case, assert_close
from seqconv_kernels._core import native
from tolerances import assert_near

LENGTHS = (1, 2, 63, 64, 65, 200)
CPU = pytest.param("cpu", marks=pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable())))
FAST = (CPU, "chunked")
ALL = (*FAST, "reference")
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


def check_packed(
    run: Callable[..., Outputs],
    reference: Callable[..., Outputs],
    inputs: Mapping[str, Any],
    tokens: tuple[str, ...],
    *,
    bounds: tuple[int, ...] = (0, 1, 70, 100),
) -> None:
    """Packed segments equal the segments one by one, in values and gradients.

    Args:
        inputs: with one initial state per segment.
        tokens: names of the arguments with a time axis.
    """

    def separate(initial_state: Tensor, **arguments: Any) -> Outputs:
        rest = {k: v for k, v in arguments.items() if k not in tokens}
        parts = [
            reference(**{k: arguments[k][:, a:b] for k in tokens if k in arguments}, **rest, initial_state=state)
            for (a, b), state in zip(pairwise(bounds), initial_state.split(1), strict=True)
        ]
        return torch.cat([y for y, _ in parts], dim=1), torch.cat([s for _, s in parts])

    def packed(**arguments: Any) -> Outputs:
        return run(**arguments, cu_seqlens=torch.tensor(bounds))

    assert_same(values_and_gradients(packed, inputs), values_and_gradients(separate, inputs), "packed")


def check_steps(
    run: Callable[..., Outputs], step: Callable[..., Outputs], inputs: Mapping[str, Any], tokens: tuple[str, ...]
) -> None:
    """One token after another, from state to state, equals the whole; in place unless a gradient is wanted."""
    want, final = run(**inputs)
    check_steps_in_place(step, inputs, tokens, want, final)
    rest = {k: v for k, v in inputs.items() if k not in tokens and k != "initial_state"}
    state = inputs["initial_state"].clone().requires_grad_()
    for t in range(want.shape[1]):
        y, state = step(**{k: inputs[k][:, t] for k in tokens if k in inputs}, **rest, state=state)
        assert_near(y, want[:, t], what=f"output {t}")
        assert y.requires_grad
    assert_near(state, final, what="final state")


def check_steps_in_place(
    step: Callable[..., Outputs], inputs: Mapping[str, Any], tokens: tuple[str, ...], want: Tensor, final: Tensor
) -> None:
    """The same without gradients; the op may write each state over the last one, and leaves all else alone."""
    rest = {k: v for k, v in inputs.items() if k not in tokens and k != "initial_state"}
    state = inputs["initial_state"].clone()
    for t in range(want.shape[1]):
        y, state = step(**{k: inputs[k][:, t] for k in tokens if k in inputs}, **rest, state=state)
        assert_near(y, want[:, t], what=f"output {t}")
    assert_near(state, final, what="final state")


def check_finite_differences(
    run: Callable[..., Outputs], inputs: Mapping[str, Any], *, twice: bool = False, fast: bool = False
) -> None:
    """Gradients are those of finite differences; with ``twice`` those of gradients too, one direction if ``fast``."""
    tensors = {k: v.requires_grad_() for k, v in inputs.items() if isinstance(v, Tensor)}
    rest = {k: v for k, v in inputs.items() if k not in tensors}

    def call(*values: Tensor) -> Outputs:
        return run(**dict(zip(tensors, values, strict=True)), **rest)

    assert gradcheck(call, list(tensors.values()))
    assert not twice or gradgradcheck(call, list(tensors.values()), fast_mode=fast)


def check_low_precision(run: Callable[..., Outputs], inputs: Mapping[str, Any], dtype: torch.dtype, wide=()) -> None:
    """Close to float64, outputs in ``dtype``, states in float32; arguments named in ``wide`` are in float32."""
    want, want_state = run(**inputs)
    narrow = {k: v.to(torch.float32 if k in wide else dtype) if isinstance(v, Tensor) else v for k, v in inputs.items()}
    y, state = run(**narrow)
    assert y.dtype == dtype
    assert state.dtype == torch.float32
    assert_near(y, want)
    assert_near(state, want_state, dtype=dtype)


def check_no_autocast(run: Callable[..., Outputs], inputs: Mapping[str, Any]) -> None:
    """Autocast changes nothing inside."""
    wanted = {k: v.float() if isinstance(v, Tensor) else v for k, v in inputs.items()}
    want, _ = run(**wanted)
    with torch.autocast("cpu", torch.bfloat16):
        got, _ = run(**wanted)
    assert torch.equal(got, want)


def check_strides_and_empty_batches(
    run: Callable[..., Outputs], inputs: Mapping[str, Any], batched: tuple[str, ...]
) -> None:
    """Transposed memory gives the same result, a batch of none an empty one."""
    want, _ = run(**inputs)
    strided = {k: inputs[k].transpose(0, 1).contiguous().transpose(0, 1) for k in batched if k in inputs}
    assert_near(run(**{**inputs, **strided})[0], want)
    empty = {k: inputs[k][:0] for k in batched if k in inputs}
    assert run(**{**inputs, **empty})[0].shape == (0, *want.shape[1:])


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
