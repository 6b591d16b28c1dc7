"""The norms of fla as layers, with their parameters.

Sources: ``fla/modules/{l2norm,layernorm,fused_norm_gate}.py`` of fla-org/flash-linear-attention at bc3b101d.
"""

from typing import Any

import torch
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ..layout import EPS
from . import norms
from .norms import ACTIVATIONS, Norm, l2norm

Device = torch.device | str | None


class L2Norm(nn.Module):
    """:func:`.norms.l2norm` as a layer."""

    def __init__(self, eps: float = EPS, output_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.eps, self.output_dtype = eps, output_dtype

    def forward(self, x: Tensor) -> Tensor:
        """(..., width)."""
        return l2norm(x, self.eps, self.output_dtype)


class _Affine(nn.Module):
    """A norm of ``hidden_size`` channels with a weight, a bias, both or neither."""

    is_rms_norm = False
    num_groups = 1
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        hidden_size: int,
        elementwise_affine: bool = True,
        bias: bool = False,
        eps: float = 1e-5,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.hidden_size, self.elementwise_affine, self.eps = hidden_size, elementwise_affine, eps
        for name, given in (("weight", elementwise_affine), ("bias", elementwise_affine and bias)):
            values = nn.Parameter(torch.empty(hidden_size, device=device, dtype=dtype)) if given else None
            self.register_parameter(name, values)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A weight of one, a bias of zero."""
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def norm(self) -> Norm:
        """What it computes."""
        return Norm(self.weight, self.bias, self.eps, self.is_rms_norm, self.num_groups)


class LayerNorm(_Affine):
    """``norm(x + residual)``."""

    def forward(
        self, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, residual_in_fp32: bool = False
    ) -> Any:
        """(..., width) in and out; ``prenorm`` also returns the sum."""
        return self.norm()(x, residual, prenorm, residual_in_fp32)


class RMSNorm(LayerNorm):
    """:class:`LayerNorm` with root mean squares."""

    is_rms_norm = True


class LayerNormLinear(_Affine):
    """``W norm(x + residual) + b`` with a projection that the caller gives."""

    def forward(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        residual: Tensor | None = None,
        prenorm: bool = False,
        residual_in_fp32: bool = False,
    ) -> Any:
        """(..., width) in, (..., rows of ``weight``) out."""
        more = self.eps, prenorm, residual_in_fp32, self.is_rms_norm, self.num_groups
        return norms.layer_norm_linear(x, self.weight, self.bias, weight, bias, residual, *more)


class RMSNormLinear(LayerNormLinear):
    """:class:`LayerNormLinear` with root mean squares."""

    is_rms_norm = True


class _Grouped(_Affine):
    """Channels in groups that are normed apart."""

    def __init__(
        self,
        num_groups: int,
        hidden_size: int,
        elementwise_affine: bool = True,
        bias: bool = False,
        eps: float = 1e-5,
        is_rms_norm: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if hidden_size % num_groups:
            got = f"hidden_size={hidden_size} and num_groups={num_groups}"
            raise argument_error(type(self).__name__, got, "a multiple of num_groups", "change either")
        super().__init__(hidden_size, elementwise_affine, bias, eps, device, dtype)
        self.num_groups, self.is_rms_norm = num_groups, is_rms_norm


class GroupNorm(_Grouped, LayerNorm):
    """:class:`LayerNorm` in groups."""


class GroupNormLinear(_Grouped, LayerNormLinear):
    """:class:`LayerNormLinear` in groups."""


class FusedLayerNormGated(_Affine):
    """``norm(x + residual) activation(g)``.

    Args:
        hidden_size: channels.
        elementwise_affine, bias: whether there are a weight and a bias.
        activation: ``"swish"``, ``"silu"`` or ``"sigmoid"``.
        eps: under the root.
        device, dtype: of the parameters.
    """

    def __init__(
        self,
        hidden_size: int,
        elementwise_affine: bool = True,
        bias: bool = False,
        activation: str = "swish",
        eps: float = 1e-5,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if activation not in ACTIVATIONS:
            got = f"activation={activation!r}"
            raise argument_error(type(self).__name__, got, f"one of {', '.join(ACTIVATIONS)}", "take one of them")
        super().__init__(hidden_size, elementwise_affine, bias, eps, device, dtype)
        self.activation = activation

    def forward(
        self,
        x: Tensor,
        g: Tensor,
        residual: Tensor | None = None,
        prenorm: bool = False,
        residual_in_fp32: bool = False,
    ) -> Any:
        """(..., width) in and out; ``prenorm`` also returns the sum."""
        return norms.layer_norm_gated(
            x, g, self.weight, self.bias, self.activation, residual, prenorm, residual_in_fp32, self.eps,
            is_rms_norm=self.is_rms_norm,
        )  # fmt: skip


class FusedRMSNormGated(FusedLayerNormGated):
    """:class:`FusedLayerNormGated` with root mean squares, without a bias."""

    is_rms_norm = True

    def __init__(
        self,
        hidden_size: int,
        elementwise_affine: bool = True,
        eps: float = 1e-5,
        activation: str = "swish",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(hidden_size, elementwise_affine, False, activation, eps, device, dtype)


class FusedLayerNormSwishGate(FusedLayerNormGated):
    """:class:`FusedLayerNormGated` with SiLU."""

    def __init__(
        self,
        hidden_size: int,
        elementwise_affine: bool = True,
        bias: bool = False,
        eps: float = 1e-5,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(hidden_size, elementwise_affine, bias, "swish", eps, device, dtype)


class FusedRMSNormSwishGate(FusedRMSNormGated):
    """:class:`FusedRMSNormGated` with SiLU."""

    def __init__(
        self,
        hidden_size: int,
        elementwise_affine: bool = True,
        eps: float = 1e-5,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(hidden_size, elementwise_affine, eps, "swish", device, dtype)


class FusedLayerNormSwishGateLinear(_Affine):
    """``W (norm(x + residual) silu(g)) + b`` with a projection that the caller gives."""

    def __init__(
        self,
        hidden_size: int,
        elementwise_affine: bool = True,
        eps: float = 1e-5,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(hidden_size, elementwise_affine, False, eps, device, dtype)

    def forward(
        self,
        x: Tensor,
        g: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        prenorm: bool = False,
        residual_in_fp32: bool = False,
    ) -> Any:
        """(..., width) in, (..., rows of ``weight``) out."""
        return norms.layer_norm_swish_gate_linear(
            x, g, self.weight, self.bias, weight, bias, residual, prenorm, residual_in_fp32, self.eps,
            is_rms_norm=self.is_rms_norm,
        )  # fmt: skip


class FusedRMSNormSwishGateLinear(FusedLayerNormSwishGateLinear):
    """:class:`FusedLayerNormSwishGateLinear` with root mean squares."""

    is_rms_norm = True
