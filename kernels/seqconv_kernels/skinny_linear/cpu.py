"""The linear layer of few rows in C++: called for every layer and token, so at once in plain eager mode.

It has no gradient: where one is wanted, and under the compiler, which has products of its own, the reference runs.
"""

import torch
from torch import Tensor

from .._core import native
from .._core.operator.inputs import given_tensors
from .._core.operator.operators import Operator
from .api import check
from .spec import MAX_ROWS, Inputs

WORTH_A_CALL = 1 << 15
"""Weights from which on this is faster than torch's product, whose call takes less time."""
_INT8 = -1
_ACCUMULATION = dict.fromkeys((torch.float32, torch.bfloat16, torch.float16), torch.float32) | {
    torch.float64: torch.float64
}


def unsupported_reason(inputs: Inputs) -> str | None:
    """Why this implementation does not support the inputs, or ``None``."""
    if torch.compiler.is_compiling():
        return "under the compiler, which has products of its own"
    if inputs.x.shape[0] > MAX_ROWS:
        return f"x has {inputs.x.shape[0]} rows, the kernel serves up to {MAX_ROWS}"
    learning = torch.is_grad_enabled()
    for name, tensor in given_tensors(inputs).items():
        if tensor.requires_grad and learning:
            return f"{name} needs a gradient, which only the reference gives"
        reason = native.memory_reason(name, tensor)
        if reason is not None:
            return reason
    if inputs.scale is None and _ACCUMULATION.get(inputs.x.dtype) is not _ACCUMULATION.get(inputs.weight.dtype):
        return f"x has dtype {inputs.x.dtype} and weight {inputs.weight.dtype}: one of them is float64"
    return native.unsupported_reason(inputs)


def eager(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None) -> Tensor | None:
    """See :func:`.api.eager_linear`; what does not fit is left to torch's layer, which has the messages."""
    if type(x) is not Tensor or not _plain(weight) or weight.numel() < WORTH_A_CALL or x.dtype not in _ACCUMULATION:
        return None
    if x.numel() > MAX_ROWS * x.shape[-1] or x.shape[-1] != weight.shape[-1] or not x.is_cpu or x.is_neg():
        return None
    if scale is None and x.dtype is not weight.dtype:
        return None
    if bias is not None and not (_plain(bias) and bias.shape == weight.shape[:1] and bias.dtype in _ACCUMULATION):
        return None
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return None
    if _transformed() or native.unavailable() is not None:
        return None
    inputs = Inputs(x if x.dim() == 2 else x.reshape(-1, x.shape[-1]), weight, bias, scale)
    y: Tensor = _OPERATOR(inputs) if torch._C._autograd._profiler_enabled() else _run(inputs)
    return y if x.dim() == 2 else y.view(*x.shape[:-1], weight.shape[0])


def _plain(tensor: Tensor) -> bool:
    """Whether a parameter's values are in memory that the kernel can read."""
    return type(tensor) in native.PLAIN and tensor.is_cpu and not tensor.is_neg()


def skinny_linear(inputs: Inputs) -> Tensor:
    """The output, through an operator where a tool has to see it."""
    y: Tensor = _OPERATOR(inputs)
    return y


def _transformed() -> bool:
    """Whether something that has rules for torch's layer sees the call: a mode, a tracer, a transform, autocast."""
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._is_tracing()
        or torch.is_autocast_enabled("cpu")
        or native.transformed()
    )


def _run(inputs: Inputs) -> Tensor:
    x, weight, bias, scale = inputs
    x, weight = native.dense_rows(x), native.dense_rows(weight)
    (rows, width), outputs = x.shape, weight.shape[0]
    wide = native.accumulator_dtype(x)
    bias = None if bias is None else native.dense(bias, x.dtype)
    scale = None if scale is None else native.dense(scale, wide)
    y = x.new_empty(rows, outputs)
    groups = 1 if scale is None or scale.dim() == 1 else scale.shape[1]
    code = _INT8 if weight.dtype is torch.int8 else native.code(weight)
    native.library().skinny_linear(
        native.code(x), code, (rows, width, outputs, groups), (x.stride(0), weight.stride(0)), x.data_ptr(),
        weight.data_ptr(), _address(scale), _address(bias), y.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return y


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _outputs(inputs: Inputs) -> Tensor:
    return inputs.x.new_empty(inputs.x.shape[0], inputs.weight.shape[0])


def _checked(inputs: Inputs) -> Tensor:
    check("seqconv::skinny_linear", inputs)
    return _run(inputs)


_OPERATOR = Operator("skinny_linear", _checked, _outputs)
