"""Steps of a recurrence on CPU that write the next state over the last one."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .native import memory_reason, transformed
from .operator.inputs import given_tensors, needs_gradient


def in_place_unsupported_reason(inputs: tuple[Any, ...]) -> str | None:
    """Why a step in place does not support the inputs, or ``None``: it has no gradient and no form for a compiler."""
    if torch.compiler.is_compiling() or torch._C._is_tracing():
        return "it writes the next state over the last one, which a compiler must see"
    if transformed():
        return "it writes the next state over the last one, for which torch.func and forward mode have no rule"
    if needs_gradient(inputs):
        return "it writes the next state over the last one, which the gradient needs"
    for name, tensor in given_tensors(inputs).items():
        if not tensor.is_cpu:
            return f"{name} is on {tensor.device}, and it writes in place on CPU only"
        reason = memory_reason(name, tensor)
        if reason is not None:
            return reason
    return None


def state_to_overwrite(state: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The state itself if it may be overwritten and holds values of that dtype, else a copy, wider if need be.

    It may not be overwritten where that needs another layout, or where autograd would object.
    """
    assert state is not None
    frozen = state.requires_grad or (state.is_inference() and not torch.is_inference_mode_enabled())
    wide = torch.promote_types(state.dtype, dtype)
    if state.dtype == wide and state.is_contiguous() and not frozen:
        return state
    return state.detach().to(wide, copy=True, memory_format=torch.contiguous_format)


def overwritten(state: Tensor) -> None:
    """Let autograd know that the values are new, in case it kept the ones before."""
    if not state.is_inference():
        increment_version(state)
