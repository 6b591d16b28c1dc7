"""Norms under the names of the original: gated ones, and those that add a residual first.

Sources: ``mamba_ssm/ops/triton/{layernorm_gated,layer_norm}.py`` of state-spaces/mamba at e9594ce1.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error


def layernorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    is_rms_norm: bool = False,
) -> Tensor:
    """``norm(x) * silu(z)``, or ``norm(x * silu(z))``, over groups of the last axis.

    Args:
        x, z: (..., width).
        weight, bias: (width).
        eps: under the root.
        group_size: channels that are normed together; all if not given.
        norm_before_gate: the first of the two forms.
        is_rms_norm: divide by the root mean square, without subtracting the mean.
    """
    y = _wide(x)
    gate = None if z is None else F.silu(_wide(z))
    y = y * gate if gate is not None and not norm_before_gate else y
    groups = y.unflatten(-1, (-1, group_size or y.shape[-1]))
    y = _norm(groups, eps, is_rms_norm).flatten(-2) * weight
    y = y if bias is None else y + bias
    return (y * gate if gate is not None and norm_before_gate else y).to(x.dtype)


def rmsnorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
) -> Tensor:
    """:func:`layernorm_fn` with root mean squares."""
    return layernorm_fn(x, weight, bias, z, eps, group_size, norm_before_gate, is_rms_norm=True)


def layer_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
    return_dropout_mask: bool = False,
) -> Any:
    """``norm(dropout(rowscale x) + dropout(x1) + residual)``.

    Args:
        x, x1, residual: (..., width).
        weight, bias: (width).
        weight1, bias1: of a second output, the same norm with these.
        eps: under the root.
        dropout_p: of ``x`` and ``x1``.
        rowscale: (...), multiplies the rows of ``x``; not together with ``x1``.
        prenorm: also return the sum, in the dtype of the residual.
        residual_in_fp32: return it in float32 where no residual came.
        is_rms_norm: divide by the root mean square, without subtracting the mean.
        return_dropout_mask: also return what dropout kept of ``x`` and of ``x1``, ``None`` without dropout.

    Returns:
        The outputs, one or two, then the sum, then both masks, whichever were asked for; one alone is no tuple.

    Raises:
        ValueError: ``rowscale`` together with ``x1``.
    """
    if rowscale is not None and x1 is not None:
        raise argument_error("layer_norm_fn", "rowscale and x1", "one of them", "scale the rows first")
    total, mask = _dropout(_wide(x) if rowscale is None else _wide(x) * rowscale[..., None], dropout_p)
    mask1 = None
    if x1 is not None:
        second, mask1 = _dropout(_wide(x1), dropout_p)
        total = total + second
    total = total if residual is None else total + residual
    normed = _norm(total, eps, is_rms_norm)
    found: list[Tensor | None] = [_affine(normed, weight, bias).to(x.dtype)]
    if weight1 is not None:
        found.append(_affine(normed, weight1, bias1).to(x.dtype))
    if prenorm:
        found.append(total.to(_stream_dtype(x, residual, residual_in_fp32)))
    if return_dropout_mask:
        found += [mask, mask1]
    return found[0] if len(found) == 1 else tuple(found)


def rms_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    return_dropout_mask: bool = False,
) -> Any:
    """:func:`layer_norm_fn` with root mean squares."""
    return layer_norm_fn(
        x, weight, bias, residual, x1, weight1, bias1, eps, dropout_p, rowscale, prenorm, residual_in_fp32,
        is_rms_norm=True, return_dropout_mask=return_dropout_mask,
    )  # fmt: skip


def layer_norm_linear_fn(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor | None,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    residual: Tensor | None = None,
    eps: float = 1e-6,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
) -> Any:
    """:func:`layer_norm_fn`, then a projection."""
    y, total = layer_norm_fn(
        x, norm_weight, norm_bias, residual, eps=eps, prenorm=True, residual_in_fp32=residual_in_fp32,
        is_rms_norm=is_rms_norm,
    )  # fmt: skip
    out = F.linear(y.to(linear_weight.dtype), linear_weight, linear_bias)
    return (out, total) if prenorm else out


class RMSNorm(nn.Module):
    """Root-mean-square norm that adds a residual first.

    Args:
        hidden_size: channels.
        eps: under the root.
        dropout_p: of the input, in training.
    """

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        dropout_p: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps, self.dropout_p = eps, dropout_p
        self.weight = nn.Parameter(torch.empty(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Ones."""
        nn.init.ones_(self.weight)

    def forward(
        self, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, residual_in_fp32: bool = False
    ) -> Any:
        """As :func:`rms_norm_fn`."""
        dropout = self.dropout_p if self.training else 0.0
        options: Any = {"eps": self.eps, "dropout_p": dropout, "prenorm": prenorm}
        return rms_norm_fn(x, self.weight, None, residual, residual_in_fp32=residual_in_fp32, **options)


class _Gated(nn.Module):
    """A norm with a gate."""

    is_rms_norm: bool
    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        group_size: int | None = None,
        norm_before_gate: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps, self.group_size, self.norm_before_gate = eps, group_size, norm_before_gate
        self.weight = nn.Parameter(torch.empty(hidden_size, device=device, dtype=dtype))
        bias = None if self.is_rms_norm else nn.Parameter(torch.empty(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights of one, biases of zero."""
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """As :func:`layernorm_fn`."""
        options: Any = {"eps": self.eps, "group_size": self.group_size, "norm_before_gate": self.norm_before_gate}
        return layernorm_fn(x, self.weight, self.bias, z, is_rms_norm=self.is_rms_norm, **options)


class GatedLayerNorm(_Gated):
    """``LayerNorm`` of the original's ``layernorm_gated``."""

    is_rms_norm = False


class GatedRMSNorm(_Gated):
    """``RMSNorm`` of the original's ``layernorm_gated``."""

    is_rms_norm = True


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _norm(x: Tensor, eps: float, is_rms_norm: bool) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=eps) if is_rms_norm else F.layer_norm(x, x.shape[-1:], eps=eps)


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x * weight if bias is None else x * weight + bias


def _dropout(x: Tensor, p: float) -> tuple[Tensor, Tensor | None]:
    """``x`` after dropout, and what was kept."""
    if p == 0.0:
        return x, None
    kept = torch.rand(x.shape, device=x.device) > p
    return torch.where(kept, x / (1 - p), 0.0), kept


def _stream_dtype(x: Tensor, residual: Tensor | None, residual_in_fp32: bool) -> torch.dtype:
    """Of the sum that ``prenorm`` returns."""
    return residual.dtype if residual is not None else torch.float32 if residual_in_fp32 else x.dtype
