"""The inputs of the Vandermonde and Cauchy products and their implementations, fastest first."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core import native
from .._core.dispatch import Implementation, Op, device_type
from .._core.operator.inputs import given_tensors
from .._core.triton import support as triton_support

SERVED = (torch.float32, torch.float64, torch.complex64, torch.complex128)


class VandermondeInputs(NamedTuple):
    """What an implementation receives; shapes as in :func:`.api.vandermonde`."""

    residues: Tensor
    log_poles: Tensor
    length: int


class CauchyInputs(NamedTuple):
    """What an implementation receives; shapes as in :func:`.api.cauchy`."""

    v: Tensor
    poles: Tensor
    length: int


VANDERMONDE: Op[VandermondeInputs, Tensor] = Op(
    "vandermonde",
    VandermondeInputs,
    Implementation("triton", "ssm_kernel.triton:vandermonde", "ssm_kernel.spec:triton_unsupported_reason"),
    Implementation("cpu", "ssm_kernel.cpu:vandermonde", "ssm_kernel.spec:cpu_unsupported_reason"),
    Implementation("chunked", "ssm_kernel.chunked:vandermonde"),
    Implementation("reference", "ssm_kernel.reference:vandermonde"),
)
CAUCHY: Op[CauchyInputs, Tensor] = Op(
    "cauchy",
    CauchyInputs,
    Implementation("triton", "ssm_kernel.triton:cauchy", "ssm_kernel.spec:triton_unsupported_reason"),
    Implementation("cpu", "ssm_kernel.cpu:cauchy", "ssm_kernel.spec:cpu_unsupported_reason"),
    Implementation("chunked", "ssm_kernel.chunked:cauchy", "ssm_kernel.spec:chunked_unsupported_reason"),
    Implementation("reference", "ssm_kernel.reference:cauchy"),
)


def triton_unsupported_reason(inputs: tuple[Any, ...]) -> str | None:
    """Why the kernels in Triton do not support the inputs, or ``None``."""
    reason: str | None = triton_support.unavailable(device_type(inputs))
    if reason is not None:
        return reason
    if not torch.compiler.is_compiling() and native.transformed():
        return "under torch.func or forward-mode differentiation, which the operators of the kernels have no rule for"
    return _dtype_unsupported_reason(inputs)


def cpu_unsupported_reason(inputs: tuple[Any, ...]) -> str | None:
    """Why the kernels in C++ do not support the inputs, or ``None``."""
    return _dtype_unsupported_reason(inputs) or native.unsupported_reason(inputs)


def chunked_unsupported_reason(_: CauchyInputs) -> str | None:
    """Why the Cauchy product in blocks does not support the call, or ``None``: it has a gradient, and no more."""
    if not torch.compiler.is_compiling() and native.transformed():
        return "under torch.func or forward-mode differentiation, for which its gradient has no rule"
    return None


def _dtype_unsupported_reason(inputs: tuple[Any, ...]) -> str | None:
    for name, tensor in given_tensors(inputs).items():
        if tensor.dtype not in SERVED:
            return f"{name} has dtype {tensor.dtype}, wanted float32, float64, complex64 or complex128"
    return None
