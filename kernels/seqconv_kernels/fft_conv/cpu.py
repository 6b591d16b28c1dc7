"""The long convolution in C++ as a PyTorch operator: forward, backward, and their shapes for the compiler.

Backward, a correlation for each factor: with ``g = post_gate dy`` and ``v = pre_gate u`` after the history::

    dv[t] = sum_s h[s] g[t+s] + skip g[t],    dh[s] = sum_t g[t] v[t-s],    dskip = sum_t g[t] v[t]

so that both are the convolution's own transforms with one spectrum conjugated.
"""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .._core import native
from .._core.operator.double_backward import differentiate_by
from .._core.operator.inputs import differentiable
from .._core.operator.operators import Operator, empty_like
from . import reference
from .isolation import isolated
from .spec import PARAMETERS, Inputs

SMALLEST = 4
"""Size of the smallest transform."""
LEAST_ODD = 16
"""Least size of a transform with an odd factor."""


def unsupported_reason(inputs: Inputs) -> str | None:
    """Why this implementation does not support the inputs, or ``None``."""
    u = inputs.u
    if u.shape[1] == 0:
        return "u has no time steps"
    if inputs.frequency_limit is not None:
        return "frequency_limit is not None, and this kernel multiplies whole spectra"
    for name, gate in (("pre_gate", inputs.pre_gate), ("post_gate", inputs.post_gate)):
        if gate is not None and gate.dtype != u.dtype:
            return f"{name} has dtype {gate.dtype}, u has {u.dtype}"
    return native.unsupported_reason(inputs, activation="u", parameters=PARAMETERS)


def fft_conv(inputs: Inputs) -> Tensor:
    """The output."""
    y: Tensor = _OPERATOR(inputs)
    return y


def transform_size(length: int) -> int:
    """Points of the transform for a signal of that length: 2^k, 3 2^k or 5 2^k, the odd ones from 16 on."""
    power = 1 << (length - 1).bit_length()
    odd = [n for n in (power * 5 // 8, power * 3 // 4) if n >= max(length, LEAST_ODD)]
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
    sums, history = native.accumulator_dtype(inputs.u), inputs.history

    def wide(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else native.dense(tensor, sums)

    def rows(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else native.dense_rows(tensor)

    past = None if history is None else native.dense_rows(history.to(sums))
    size = transform_size(inputs.u.shape[1] + (0 if past is None else past.shape[1]))
    gates = (rows(inputs.pre_gate), rows(inputs.post_gate))
    return [rows(inputs.u), wide(inputs.h), wide(inputs.skip), *gates, past, tables(size, sums)], size


def _gradients(inputs: Inputs, *_: Any) -> tuple[Tensor, ...]:
    """Buffers for the gradients, in the order of the inputs; empty for those that were not given."""
    u, sums = inputs.u, native.accumulator_dtype(inputs.u)
    dtypes = {name: sums if name in PARAMETERS else u.dtype for name in Inputs._fields}
    return tuple(empty_like(u, tensor, dtypes[name]) for name, tensor in differentiable(inputs).items())


def _forward(inputs: Inputs) -> Tensor:
    return isolated(_transformed, inputs)


def _transformed(inputs: Inputs) -> Tensor:
    prepared, size = _prepare(inputs)
    y = empty_like(inputs.u, inputs.u, inputs.u.dtype)
    native.library().fft_conv_forward(*map(native.view, prepared), size, native.view(y), torch.get_num_threads())
    return y


def _backward(inputs: Inputs, dy: Tensor) -> tuple[Tensor, ...]:
    prepared, size = _prepare(inputs)
    dy, gradients = native.dense_rows(dy), _gradients(inputs)
    given = differentiable(inputs).values()
    wanted = [None if t is None else g for t, g in zip(given, gradients, strict=True)]
    native.library().fft_conv_backward(
        *map(native.view, prepared), size, *map(native.view, (dy, *wanted)), torch.get_num_threads()
    )
    return gradients


_OPERATOR = Operator("fft_conv", _forward, lambda inputs: inputs.u.new_empty(inputs.u.shape))
_BACKWARD = Operator("fft_conv_backward", _backward, _gradients, results=6)
differentiate_by(_OPERATOR, _BACKWARD, Inputs, reference.fft_conv)
