"""The long convolution in C++ as a PyTorch operator: forward, backward, and their shapes for the compiler."""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core import native
from .._core.dispatch import Call
from .._core.double_backward import composed_gradients, differentiate_again
from .._core.operators import Operator, room, typed_like
from . import reference

SMALLEST = 4
"""Size of the smallest transform."""
LEAST_ODD = 16
"""Least size of a transform with an odd factor."""


class Inputs(NamedTuple):
    """The arguments of an implementation, in order."""

    u: Tensor
    h: Tensor
    skip: Tensor | None
    pre_gate: Tensor | None
    post_gate: Tensor | None
    history: Tensor | None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the sums."""
        return torch.float64 if self.u.dtype == torch.float64 else torch.float32


_ARGUMENTS = "Tensor u, Tensor h, Tensor? skip, Tensor? pre_gate, Tensor? post_gate, Tensor? history"


def refuse(call: Call) -> str | None:
    """Why this implementation cannot serve the call, or ``None``."""
    tensors = call.given()
    u = tensors["u"]
    if u.shape[1] == 0:
        return "u has no time steps"
    if call.options["frequency_limit"] is not None:
        return "frequency_limit is not None, and this kernel multiplies whole spectra"
    sums = torch.float64 if u.dtype == torch.float64 else torch.float32
    for name in ("h", "skip", "history"):
        if name in tensors and torch.promote_types(tensors[name].dtype, sums) != sums:
            return f"{name} of dtype {tensors[name].dtype} is wider than the sums, {sums}"
    for name in ("pre_gate", "post_gate"):
        if name in tensors and tensors[name].dtype != u.dtype:
            return f"{name} has dtype {tensors[name].dtype}, u has {u.dtype}"
    return native.refuse_call(tensors)


def fft_conv(*arguments: Any) -> Tensor:
    """The output."""
    *tensors, _ = arguments
    y: Tensor = _OPERATOR(*tensors)
    return y


def transform_size(heard: int) -> int:
    """Points of the transform for a signal of that length: 2^k, 3 2^k or 5 2^k, the odd ones from 16 on."""
    power = 1 << (heard - 1).bit_length()
    odd = [n for n in (power * 5 // 8, power * 3 // 4) if n >= max(heard, LEAST_ODD)]
    return max(SMALLEST, min([power, *odd]))


@lru_cache(maxsize=16)
def tables(size: int, dtype: torch.dtype) -> Tensor:
    """The factors of every level of the transform, as pairs of real numbers.

    exp(2 pi i j (r - 1/4) / size) for the R outputs of the first level, which hold the twist; then for every level of
    n > 4 points exp(2 pi i j r / n) for r = 1, 2. An odd factor of the size is the radix R of the first level; all
    others have the radix 4.
    """
    odd = size // (size & -size)
    radix = odd if odd > 1 else 4
    parts = [_angles(size, radix, torch.arange(radix) - 0.25)]
    n = size // radix
    while n > SMALLEST:
        parts.append(_angles(n, 4, torch.arange(1, 3)))
        n //= 4
    angles = torch.cat(parts)
    return torch.stack([angles.cos(), angles.sin()], dim=-1).flatten().to(dtype)


def _angles(n: int, radix: int, turns: Tensor) -> Tensor:
    """2 pi j r / n for j < n / radix and r in ``turns``, flat."""
    j = torch.arange(n // radix, dtype=torch.float64, device="cpu")
    return (j[:, None] * turns.to("cpu", torch.float64) * (2 * math.pi / n)).flatten()


def _prepare(inputs: Inputs) -> tuple[list[Tensor | None], int]:
    """The inputs in the layouts of the extension, with the tables; and the size of the transform."""

    def wide(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else native.dense(tensor, inputs.dtype)

    def rows(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else native.dense_rows(tensor)

    past = None if inputs.history is None else native.dense_rows(inputs.history.to(inputs.dtype))
    heard = inputs.u.shape[1] + (0 if past is None else past.shape[1])
    size = transform_size(heard)
    gates = (rows(inputs.pre_gate), rows(inputs.post_gate))
    return [rows(inputs.u), wide(inputs.h), wide(inputs.skip), *gates, past, tables(size, inputs.dtype)], size


def _gradients(inputs: Inputs) -> tuple[Tensor, ...]:
    """Room for the gradients, in the order of the inputs; empty for those that were not given."""
    u, stored, sums = inputs.u, inputs.u.dtype, inputs.dtype
    return tuple(room(u, t, dtype) for t, dtype in zip(inputs, (stored, sums, sums, stored, stored, sums), strict=True))


def _forward(*arguments: Any) -> Tensor:
    inputs = Inputs(*arguments)
    prepared, size = _prepare(inputs)
    y = room(inputs.u, inputs.u, inputs.u.dtype)
    native.library().fft_conv_forward(*map(native.view, prepared), size, native.view(y), torch.get_num_threads())
    return y


def _backward(*arguments: Any) -> tuple[Tensor, ...]:
    *given, dy = arguments
    inputs = Inputs(*given)
    prepared, size = _prepare(inputs)
    dy = native.dense_rows(dy)
    gradients = _gradients(inputs)
    wanted = [None if t is None else g for t, g in zip(inputs, gradients, strict=True)]
    native.library().fft_conv_backward(
        *map(native.view, prepared), size, *map(native.view, (dy, *wanted)), torch.get_num_threads()
    )
    return gradients


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    inputs = ctx.saved_tensors
    gradients = _BACKWARD(*inputs, dy)
    return tuple(typed_like(inputs, gradients))


def _composed_gradients(*arguments: Any) -> tuple[Tensor, ...]:
    *given, dy = arguments
    return composed_gradients([reference.fft_conv(*Inputs(*given), None)], [dy], given)


_OPERATOR = Operator("fft_conv", f"({_ARGUMENTS}) -> Tensor", _forward, lambda *a: a[0].new_empty(a[0].shape))
_BACKWARD = Operator(
    "fft_conv_backward",
    f"({_ARGUMENTS}, Tensor dy) -> ({', '.join(['Tensor'] * 6)})",
    _backward,
    lambda *a: _gradients(Inputs(*a[:-1])),
)
_OPERATOR.differentiate(_setup_context, _differentiate)
differentiate_again(_BACKWARD, _composed_gradients)
