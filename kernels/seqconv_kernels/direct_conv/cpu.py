"""The direct sums in C++, called without an operator: for every token, in place, without gradients."""

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .._core import native
from .._core.operator.inputs import given_tensors
from .spec import StepInputs, TileInputs

_SUMS = dict.fromkeys((torch.float32, torch.bfloat16, torch.float16), torch.float32) | {torch.float64: torch.float64}
_WRITTEN = ("past", "sums")


def unsupported_reason(inputs: StepInputs | TileInputs) -> str | None:
    """Why this implementation does not support the inputs, or ``None``."""
    if torch.compiler.is_compiling() or native.transformed():
        return "under the compiler, torch.func or forward-mode differentiation, which must see what is written"
    tensors, learning, inference = given_tensors(inputs), torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    taps = tensors["taps"]
    dtype = _SUMS.get(taps.dtype)
    for name, tensor in tensors.items():
        if (_SUMS.get(tensor.dtype) if name == "u" else tensor.dtype) is not dtype:
            return f"{name} has dtype {tensor.dtype} and taps have {taps.dtype}; sums are float32 or float64"
        if tensor.requires_grad and (learning or name in _WRITTEN):
            return f"{name} needs a gradient, which only the reference gives"
        if not tensor.is_cpu:
            return f"{name} is on {tensor.device}, the native kernels run on CPU"
        reason = native.memory_reason(name, tensor)
        if reason is not None:
            return reason
    for name in _WRITTEN:
        if name not in tensors:
            continue
        tensor = tensors[name]
        if tensor.is_inference() and not inference:
            return f"{name} was made in inference mode and cannot be written outside"
        if not (tensor.is_contiguous() or ("x" in tensors and tensor.stride(2) == 1)):
            return f"{name} has strides {tensor.stride()} and cannot be written as it lies"
    return native.unavailable()


def direct_conv_step(inputs: StepInputs) -> Tensor:
    """The output; rows of the rings are overwritten."""
    u, taps, past, sums, row, count = inputs
    u, taps = native.dense_rows(u), taps.contiguous()
    batch, ring, width = past.shape
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    native.library().direct_conv_step(
        native.code(u), (batch, width, ring, row, count), u.stride(0), u.data_ptr(), taps.data_ptr(), past.data_ptr(),
        sums.data_ptr(), y.data_ptr(),
    )  # fmt: skip
    _written(past, sums)
    return y


def direct_conv_tile(inputs: TileInputs) -> None:
    """Adds to the sums."""
    x, taps, sums, lag = inputs
    x, taps, view = native.dense_rows(x), taps.contiguous(), native.view
    native.library().direct_conv_tile(view(x), view(taps), lag, view(sums), torch.get_num_threads())
    _written(sums)


def _written(*buffers: Tensor) -> None:
    """Let autograd know, should it have kept the values that were there."""
    if not torch.is_inference_mode_enabled():
        increment_version(buffers)
