"""The norms of fla as functions: in groups, after a residual, times a gate, before a projection.

    total = x + residual        y = norm(total) weight + bias        y activation(g)        W y + b

Sources: ``fla/modules/{l2norm,layernorm,fused_norm_gate}.py`` of fla-org/flash-linear-attention at bc3b101d.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layout import EPS, unit_length

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"swish": F.silu, "silu": F.silu, "sigmoid": torch.sigmoid}


def l2norm(x: Tensor, eps: float = EPS, output_dtype: torch.dtype | None = None) -> Tensor:
    """``x / sqrt(sum x^2 + eps)`` over the last axis, typed like ``x`` if no dtype is given."""
    return unit_length(x, eps).to(output_dtype or x.dtype)


class Norm(NamedTuple):
    """One norm.

    Attributes:
        weight, bias: (width), or neither.
        eps: under the root.
        is_rms_norm: divide by the root mean square, without subtracting the mean.
        num_groups: of channels that are normed together.
    """

    weight: Tensor | None
    bias: Tensor | None
    eps: float
    is_rms_norm: bool = False
    num_groups: int = 1

    def __call__(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        prenorm: bool = False,
        residual_in_fp32: bool = False,
        gate: Tensor | None = None,
    ) -> Any:
        """(..., width) in and out, times the gate; ``prenorm`` also returns the sum in the dtype of the residual."""
        wide = torch.promote_types(x.dtype, torch.float32)
        total = x.to(wide) if residual is None else x.to(wide) + residual
        groups = total.unflatten(-1, (self.num_groups, -1))
        norm = F.rms_norm if self.is_rms_norm else F.layer_norm
        y = norm(groups, groups.shape[-1:], eps=self.eps).flatten(-2)
        y = y if self.weight is None else y * self.weight
        y = y if self.bias is None else y + self.bias
        y = (y if gate is None else y * gate).to(x.dtype)
        if not prenorm:
            return y
        stream = residual.dtype if residual is not None else torch.float32 if residual_in_fp32 else x.dtype
        return y, total.to(stream)


def layer_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
) -> Any:
    """The norm of ``x + residual``, see :class:`Norm`."""
    return Norm(weight, bias, eps, is_rms_norm)(x, residual, prenorm, residual_in_fp32)


rms_norm = partial(layer_norm, is_rms_norm=True)


def group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
    num_groups: int = 1,
) -> Any:
    """:func:`layer_norm` in groups of channels."""
    return Norm(weight, bias, eps, is_rms_norm, num_groups)(x, residual, prenorm, residual_in_fp32)


def layer_norm_linear(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
    num_groups: int = 1,
) -> Any:
    """:func:`group_norm`, then a projection."""
    norm = Norm(norm_weight, norm_bias, eps, is_rms_norm, num_groups)
    return _projected(norm(x, residual, True, residual_in_fp32), linear_weight, linear_bias, prenorm)


group_norm_linear = layer_norm_linear
rms_norm_linear = partial(layer_norm_linear, is_rms_norm=True)


def layer_norm_gated(
    x: Tensor,
    g: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: str = "swish",
    residual: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    eps: float = 1e-6,
    *,
    is_rms_norm: bool = False,
) -> Any:
    """``norm(x + residual) activation(g)``; ``g`` may have its channels in other axes."""
    return Norm(weight, bias, eps, is_rms_norm)(x, residual, prenorm, residual_in_fp32, _gate(x, g, activation))


rms_norm_gated = partial(layer_norm_gated, is_rms_norm=True)


def layer_norm_swish_gate_linear(
    x: Tensor,
    g: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    residual: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    eps: float = 1e-6,
    *,
    is_rms_norm: bool = False,
) -> Any:
    """:func:`layer_norm_gated`, then a projection."""
    norm = Norm(norm_weight, norm_bias, eps, is_rms_norm)
    pair = norm(x, residual, True, residual_in_fp32, _gate(x, g, "swish"))
    return _projected(pair, linear_weight, linear_bias, prenorm)


rms_norm_swish_gate_linear = partial(layer_norm_swish_gate_linear, is_rms_norm=True)


def _gate(x: Tensor, g: Tensor, activation: str) -> Tensor:
    wide = torch.promote_types(g.dtype, torch.float32)
    return ACTIVATIONS[activation](g.to(wide)).reshape(x.shape)


def _projected(pair: tuple[Tensor, Tensor], weight: Tensor, bias: Tensor | None, prenorm: bool) -> Any:
    y, total = pair
    out = F.linear(y.to(weight.dtype), weight, bias)
    return (out, total) if prenorm else out
