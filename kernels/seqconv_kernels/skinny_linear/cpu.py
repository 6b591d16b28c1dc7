"""The linear layer of few rows in C++: called for every layer and token, so at once in plain eager mode.

It has no gradient: where one is wanted, and under the compiler, which has products of its own, the reference runs.
"""

import torch
from torch import Tensor

from .._core import native
from .._core.operator.inputs import given_tensors
from .._core.operator.operators import Operator
from . import onednn
from .api import check
from .spec import MAX_ROWS, Inputs

WORTH_A_CALL = {
    torch.int8: 0,
    torch.bfloat16: 1 << 13,
    torch.float16: 1 << 16,
    torch.float32: 1 << 17,
    torch.float64: 1 << 17,
}
"""Number of products (rows times weights) from which on this is faster than torch's layer, by dtype of the weight.

A call costs 7 us, one of torch's 2 us in float32 and 16 us in bfloat16; torch has none for int8. Measured in turns, in
whole tokens of Mamba models of 256 to 768 channels, where other weights take the cache in between. For a weight that is
still in the cache both take as long at 2^18 products in float32.
"""
_CODES = {torch.int8: -1} | {t: native.CODES[t] for t in (torch.float32, torch.float64, torch.bfloat16, torch.float16)}
"""What the extension calls the dtypes of weights."""
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
    least = WORTH_A_CALL.get(weight.dtype)
    if least is None or x.numel() * weight.shape[0] < least or type(x) is not Tensor or not _plain(weight):
        return None
    dtype, width = x.dtype, x.shape[-1]
    if dtype not in _ACCUMULATION or (scale is None and dtype is not weight.dtype):
        return None
    few = x.numel() <= MAX_ROWS * width
    if width != weight.shape[-1] or not (few or scale is None) or not x.is_cpu or x.is_neg():
        return None
    if not few and not onednn.serves(x, weight, bias):
        return None
    if bias is not None and not (_plain(bias) and bias.shape == weight.shape[:1] and bias.dtype in _ACCUMULATION):
        return None
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return None
    if transformed() or native.unavailable() is not None:
        return None
    if not few:
        return onednn.linear(x, weight, bias)
    inputs = Inputs(x if x.dim() == 2 else x.reshape(-1, width), weight, bias, scale)
    y: Tensor = _OPERATOR(inputs) if torch._C._autograd._profiler_enabled() else _run(inputs)
    return y if x.dim() == 2 else y.view(*x.shape[:-1], weight.shape[0])


def _plain(tensor: Tensor) -> bool:
    """Whether a parameter's values are in memory that the kernel can read."""
    return type(tensor) in native.PLAIN and tensor.is_cpu and not tensor.is_neg()


def skinny_linear(inputs: Inputs) -> Tensor:
    """The output, through an operator where a tool has to see it."""
    y: Tensor = _OPERATOR(inputs)
    return y


def transformed() -> bool:
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
    (rows, width), outputs, dtype = x.shape, weight.shape[0], x.dtype
    groups, scale_address, bias_address = 1, 0, 0
    if bias is not None:
        bias = native.dense(bias, dtype)
        bias_address = bias.data_ptr()
    if scale is not None:
        scale = native.dense(scale, _ACCUMULATION[dtype])
        scale_address, groups = scale.data_ptr(), 1 if scale.dim() == 1 else scale.shape[1]
    y = x.new_empty(rows, outputs)
    native.library().skinny_linear(
        _CODES[dtype], _CODES[weight.dtype], (rows, width, outputs, groups), (x.stride(0), weight.stride(0)),
        x.data_ptr(), weight.data_ptr(), scale_address, bias_address, y.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return y


def _outputs(inputs: Inputs) -> Tensor:
    return inputs.x.new_empty(inputs.x.shape[0], inputs.weight.shape[0])


def _checked(inputs: Inputs) -> Tensor:
    check("seqconv::skinny_linear", inputs)
    return _run(inputs)


_OPERATOR = Operator("skinny_linear", _checked, _outputs)
