"""Normalisations of the residual stream, by name: ``layer``, ``layer_scalar``, ``rms``, ``scale``, ``batch``,
``prep_batch``, ``instance``, ``group``, ``none``.

With mean μ and variance σ² over the axes that a norm takes its statistics from, ``y = (x - μ)/√(σ² + ε) · w + b``:

================  =======================  ===================================================================
name              statistics over          parameters
================  =======================  ===================================================================
``layer``         channels                 weight and bias per channel
``layer_scalar``  channels                 one scale and one shift, ``y = s (x - μ + m)/σ`` (S4, TransposedLN)
``rms``           channels, no mean        weight per channel
``scale``         channels, no mean        one scale (MEGA, ScaleNorm)
``batch``         batch and length         weight and bias per channel; running statistics in evaluation
``prep_batch``    as layer, then as batch  of both, and one scale of what is not normalised (SLAB)
``instance``      length, per channel      none by default
``group``         length and channels      weight and bias per channel
================  =======================  ===================================================================

The last two depend on the whole sequence and are therefore not causal. Statistics leave padding out.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.precision import accumulation_dtype

from ..parameters import ShardedInGroups


class Norm(ShardedInGroups, ABC):
    """Base of all norms.

    Attributes:
        per_token: whether an output depends on its own token alone (``batch``: in evaluation).
    """

    per_token: ClassVar[bool] = True

    def reset_parameters(self) -> None:
        """Set weights and scales to one, biases and shifts to zero."""
        for name, parameter in self.named_parameters(recurse=False):
            nn.init.constant_(parameter, 0.0 if name in ("bias", "shift") else 1.0)

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "*tokens d_model"], mask: Bool[Tensor, "*tokens"] | None = None
    ) -> Float[Tensor, "*tokens d_model"]:
        """Normalise; ``mask`` is True at real tokens. Outputs at padding mean nothing."""


class LayerNorm(Norm):
    """Mean and variance over the channels of each token."""

    def __init__(self, d_model: int, *, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(d_model)) if affine else None
        self.bias = nn.Parameter(torch.empty(d_model)) if affine else None
        self.reset_parameters()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


class LayerScalarNorm(Norm):
    """Layer norm with one scale and one shift for all channels; ``eps`` is 0 in the original."""

    def __init__(self, d_model: int, *, eps: float = 0.0) -> None:
        super().__init__()
        self.eps = eps
        self.shift, self.scale = nn.Parameter(torch.empty(1)), nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        wide = x.to(accumulation_dtype(x))
        variance, mean = torch.var_mean(wide, dim=-1, correction=0, keepdim=True)
        return (self.scale * (wide - mean + self.shift) * (variance + self.eps).rsqrt()).to(x.dtype)


class RMSNorm(Norm):
    """Root mean square over the channels of each token, a weight per channel.

    Args:
        eps_outside: divide by ``√(σ²) + ε`` instead of ``√(σ² + ε)`` (StripedHyena).
        unit_offset: multiply by one plus the weight, which starts at zero and is added in float32 (Gemma).
        bias: whether a bias per channel is added (an option of xLSTM-7B).
    """

    def __init__(
        self,
        d_model: int,
        *,
        eps: float = 1e-5,
        affine: bool = True,
        eps_outside: bool = False,
        unit_offset: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.eps, self.eps_outside, self.unit_offset = eps, eps_outside, unit_offset
        self.weight = nn.Parameter(torch.empty(d_model)) if affine else None
        self.bias = nn.Parameter(torch.empty(d_model)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A factor of one."""
        if self.weight is not None:
            nn.init.constant_(self.weight, 0.0 if self.unit_offset else 1.0)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self._scaled(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _scaled(self, x: Tensor) -> Tensor:
        if self.unit_offset and self.weight is not None:
            wide = x.to(accumulation_dtype(x))
            return (F.rms_norm(wide, x.shape[-1:], 1.0 + self.weight.to(wide.dtype), self.eps)).to(x.dtype)
        # One dtype for both: under autocast x is narrower than the weight, which the fused norm does not take.
        weight = None if self.weight is None else self.weight.to(x.dtype)
        if self.eps_outside:
            wide = x.to(accumulation_dtype(x))
            root: Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True) / math.sqrt(x.shape[-1])
            y = (wide / (root + self.eps)).to(x.dtype)
            return y if weight is None else weight * y
        return F.rms_norm(x, x.shape[-1:], weight, self.eps)


class ScaleNorm(Norm):
    """Root mean square over the channels of each token, one scale."""

    def __init__(self, d_model: int, *, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(1)) if affine else None
        self.reset_parameters()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        wide = x.to(accumulation_dtype(x))
        y = wide * (wide.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return (y if self.weight is None else self.weight * y).to(x.dtype)


class BatchNorm(Norm):
    """Statistics over batch and length.

    Args:
        masked: leave padding out of the statistics in training; ``False`` counts it as tokens (S4).
    """

    def __init__(
        self, d_model: int, *, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True, masked: bool = True
    ) -> None:
        super().__init__()
        self.masked = masked
        self.tokens = nn.BatchNorm1d(d_model, eps=eps, momentum=momentum, affine=affine)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None or not self.masked or not self.training:
            y: Tensor = self.tokens(x.reshape(-1, x.shape[-1])).reshape(x.shape)
            return y
        real = self.tokens(x[mask]).to(x.dtype)
        return torch.zeros_like(x).masked_scatter(mask[..., None], real)


class PRepBatchNorm(Norm):
    """From layer norm to batch norm in the course of training: ``λ layer(x) + (1 - λ) (batch(x) + α x)``.

    λ falls from 1 to 0 in ``steps`` calls in training, after ``warmup_steps`` with the layer norm alone, in which
    statistics stay as they are; in evaluation it is 0, and the norm one scale and shift per channel.

    Source: Guo et al. 2024 (arXiv 2405.11582, PRepBN), ``prepbn.py`` of xinghaochen/SLAB at d9598695.

    Args:
        steps: calls in training until λ is 0.
        warmup_steps: calls in training before λ falls.
        layer_eps: ε of the layer norm; as ``eps``, that of the batch norm, if not given.
        masked: as in :class:`BatchNorm`.
    """

    remaining: Tensor
    total: Tensor
    warmup_remaining: Tensor

    def __init__(
        self,
        d_model: int,
        *,
        eps: float = 1e-5,
        steps: int = 300_000,
        warmup_steps: int = 0,
        layer_eps: float | None = None,
        masked: bool = True,
    ) -> None:
        super().__init__()
        self.steps, self.warmup_steps = steps, warmup_steps
        self.layer = LayerNorm(d_model, eps=eps if layer_eps is None else layer_eps)
        self.batch = BatchNorm(d_model, eps=eps, masked=masked)
        self.alpha = nn.Parameter(torch.empty(1))
        for name in ("remaining", "total", "warmup_remaining"):
            self.register_buffer(name, torch.empty((), dtype=torch.int64))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """α of 1, and all of the training ahead."""
        nn.init.ones_(self.alpha)
        self.remaining.fill_(self.steps)
        self.total.fill_(self.steps)
        self.warmup_remaining.fill_(self.warmup_steps)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        tokens, warming = self.batch.tokens, self.warmup_remaining > 0
        kept = {name: b.clone() for name, b in tokens.named_buffers()} if self.training and self.warmup_steps else {}
        batch: Tensor = self.batch(x, mask) + self.alpha.to(x.dtype) * x
        if not self.training:
            return batch
        for name, statistic in kept.items():
            setattr(tokens, name, torch.where(warming, statistic, getattr(tokens, name)))
        share = torch.where(warming, 1.0, self.remaining / self.total.clamp(min=1))
        # New tensors: the backward pass of compiled graphs computes the share again, from the old ones.
        self.remaining = self.remaining - (~warming & (self.remaining > 0)).to(torch.int64)
        self.warmup_remaining = self.warmup_remaining - warming.to(torch.int64)
        mixed: Tensor = share.to(x.dtype) * self.layer(x) + (1.0 - share).to(x.dtype) * batch
        return mixed


class GroupNorm(Norm):
    """Statistics over the length and the channels of each group; ``groups=None`` makes every channel a group."""

    per_token = False

    def __init__(self, d_model: int, *, groups: int | None = 1, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.groups, self.eps = d_model if groups is None else groups, eps
        if self.groups < 1 or d_model % self.groups:
            raise argument_error(
                "GroupNorm", f"groups={groups}", f"a divisor of d_model={d_model}", "change the groups"
            )
        self.weight = nn.Parameter(torch.empty(d_model)) if affine else None
        self.bias = nn.Parameter(torch.empty(d_model)) if affine else None
        self.reset_parameters()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, length, d_model = x.shape
        grouped = x.to(accumulation_dtype(x)).view(batch, length, self.groups, d_model // self.groups)
        real = torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask
        weight = real[:, :, None, None] / (real.sum(1).clamp(min=1) * grouped.shape[-1])[:, None, None, None]
        weight = weight.to(grouped.dtype)
        mean = (weight * grouped).sum((1, 3), keepdim=True)
        variance = (weight * (grouped - mean).square()).sum((1, 3), keepdim=True)
        y = ((grouped - mean) * (variance + self.eps).rsqrt()).view(x.shape).to(x.dtype)
        y = y if self.weight is None else y * self.weight
        return y if self.bias is None else y + self.bias


class NoNorm(Norm):
    """``y = x``."""

    def __init__(self, d_model: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x


NORMS: Mapping[str, Callable[..., Norm]] = {
    "layer": LayerNorm,
    "layer_scalar": LayerScalarNorm,
    "rms": RMSNorm,
    "scale": ScaleNorm,
    "batch": BatchNorm,
    "prep_batch": PRepBatchNorm,
    "instance": partial(GroupNorm, groups=None, affine=False),
    "group": GroupNorm,
    "none": NoNorm,
}


def create_norm(name: str, d_model: int, **options: Any) -> Norm:
    """Build a norm by name.

    Raises:
        ValueError: unknown name or option; the nearest are named.
    """
    if name not in NORMS:
        raise unknown_name("create_norm", "norm", name, NORMS)
    known = set(signature(NORMS[name]).parameters) - {"d_model"}
    for option in options:
        if option not in known:
            raise unknown_name(f"create_norm({name!r})", "option", option, known)
    return NORMS[name](d_model, **options)
