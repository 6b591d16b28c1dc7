"""Filters that are functions of time: the tap of lag s is the value at the position ``p(s) = 1 - 2 r s / (l_max - 1)``.

Position 1 is the newest input, -1 the oldest of ``l_max``. ``r`` is the step between samples relative to that in
training: with ``r = 2`` every second sample is there, the taps are those of every second lag, and each counts twice, so
that a slowly changing signal gives the same outputs. ``l_max`` belongs to the filter: longer sequences see a window of
as many lags.

:class:`ContinuousFilter` takes the values from a kernel network (:mod:`~seqconv.filters.implicit.networks`), perhaps
under a Gaussian mask, whose width is learned::

    k(p) = N(p) exp(-(p - m)² / (2 (σ² + ε))),   0 where the mask is below ``threshold``

:class:`PointFilter` interpolates between learned points p_i with weights w_i and radii r_i::

    φ_i(p) = max(0, 1 - |p - p_i| / r_i),   k(p) = sum_i w_i φ_i(p) / (number of i with φ_i(p) > 0)

Sources: Romero et al. 2021, "CKConv" (arXiv 2102.02611) and "FlexConv" (arXiv 2110.08059); Kim and Park 2023, "SMPConv"
(arXiv 2304.02330). Read in ckconv/nn/ckconv.py of dwromero/ckconv (commit d44c6441), of rjbruin/flexconv (0f355d15), in
ckconv/nn/flexconv.py of david-knigge/ccnn (a543e388) and smp/ckconv/nn/ck/smpkernel.py of sangnekim/SMPConv (de4e59a7).
The first aligns the oldest position with the grid of training at another rate, not the newest, and blurs the kernel
where the signal is sampled more finely.
"""

import math
from abc import ABC, abstractmethod
from typing import Annotated, TypedDict, Unpack, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.operator.composed import Composed, fitted

from ...options import Default, with_defaults
from ...parameters import register_tensor, set_optimizer_options, wide_default_dtype
from ..base import Recurrence, WideFilter
from .networks import create_network


class PositionFilter(WideFilter, ABC):
    """Base of the filters of positions.

    Args:
        channels: number of impulse responses.
        l_max: lags between the positions 1 and -1, both counted, at the rate of training.

    Raises:
        ValueError: ``l_max < 2``.
    """

    def __init__(self, channels: int, *, l_max: int) -> None:
        name = type(self).__name__
        if l_max < 2 or channels < 1:
            got = f"l_max={l_max}, channels={channels}"
            raise argument_error(name, got, "at least two taps, and one channel", "raise l_max")
        super().__init__(channels, max_length=l_max)
        self.l_max, self.rate = l_max, 1.0

    @abstractmethod
    def kernel_at(self, p: Float[Tensor, " taps"]) -> Float[Tensor, "channels taps"]:
        """The impulse responses at any positions in [-1, 1]."""

    def change_rate(self, rate: float) -> None:
        self.rate *= rate
        self.max_length = 1 + math.floor((self.l_max - 1) / self.rate + 1e-9)

    def at_lags(self, lags: Float[Tensor, " taps"]) -> Float[Tensor, "channels taps"]:
        """The impulse responses at any lags, in steps of training; zero before lag 0 and from lag ``l_max`` on."""
        inside = (lags >= 0) & (lags <= self.l_max - 1)
        return torch.where(inside, self.kernel_at(1 - lags * (2 / (self.l_max - 1))), 0.0)

    def _taps(self, length: int) -> Float[Tensor, "channels length"]:
        like = next(self.parameters(), torch.empty(0))  # quantised networks have none
        if like.is_meta and _is_hooked(self):  # an offloaded network, whose hooks move positions to its parameters
            like = torch.empty(0, dtype=like.dtype)
        kept = min(length, self.max_length or length)
        lags = torch.arange(kept, device=like.device, dtype=like.dtype) * self.rate
        k = self.rate * self.kernel_at(1 - lags * (2 / (self.l_max - 1)))
        return fitted(k, length)  # type: ignore[no-any-return]

    def _recurrence(self) -> Recurrence | None:
        """There is none; :mod:`seqconv.distill` finds one that comes close."""
        return None


def _is_hooked(module: nn.Module) -> bool:
    """Whether something acts before the calls of a module or of its children, as what brings offloaded parameters."""
    return any("forward" in m.__dict__ or m._forward_pre_hooks for m in module.modules())


class KernelNetworkOptions(TypedDict, total=False):
    """Options of the kernel network.

    Attributes:
        network: ``"sine"``, ``"magnet"``, ``"relu"``, ``"leaky_relu"``, ``"silu"`` or ``"fourier"``.
        hidden: width.
        layers: linear layers; products of a ``"magnet"``.
        omega_0: frequency of the sines, see :mod:`~seqconv.filters.implicit.networks`.
        weight_norm: normalised weights.
    """

    network: Annotated[str, Default("sine")]
    hidden: Annotated[int, Default(32)]
    layers: Annotated[int, Default(3)]
    omega_0: Annotated[float, Default(30.0)]
    weight_norm: Annotated[bool, Default(False)]


class MaskOptions(TypedDict, total=False):
    """Options of the Gaussian mask.

    Attributes:
        mask_width: initial σ; ``None``: no mask. MAGNet's functions start within 1.667 σ of the newest position.
        learn_mean: train the mean m, which starts at the newest position.
        threshold: taps where the mask is below it are zero; 0 keeps all.
        crop_exactly: leave out the first tap below the threshold, too.
        mask_eps: ε.
        centred: the mask starts in the middle, and as many taps are left out at both ends: for a window around the
            token.
    """

    mask_width: Annotated[float | None, Default(None)]
    learn_mean: Annotated[bool, Default(False)]
    threshold: Annotated[float, Default(0.1)]
    crop_exactly: Annotated[bool, Default(False)]
    mask_eps: Annotated[float, Default(1e-8)]
    centred: Annotated[bool, Default(False)]


class ContinuousFilterOptions(KernelNetworkOptions, MaskOptions, total=False):
    """Options of a :class:`ContinuousFilter` that a mixer hands on."""


class ContinuousFilter(PositionFilter):
    """Impulse responses from a kernel network.

    Args:
        channels: number of impulse responses.
        l_max: see :class:`PositionFilter`.
        fan_in: impulse responses that are summed into one output. The last layer starts smaller by √(fan_in · l_max),
        so
            that outputs keep the variance of the inputs (Chang et al. 2020); ``None``: as the network has it.
        **options: see :class:`KernelNetworkOptions` and :class:`MaskOptions`.

    Raises:
        ValueError: an unknown network, sizes below 1, a width or a threshold out of range.
    """

    mask_width: nn.Parameter | None
    mask_mean: Tensor | None

    def __init__(
        self, channels: int, *, l_max: int, fan_in: int | None = None, **options: Unpack[ContinuousFilterOptions]
    ) -> None:
        o = with_defaults(ContinuousFilterOptions, options, "ContinuousFilter")
        super().__init__(channels, l_max=l_max)
        width = o["mask_width"]
        if not 0 <= o["threshold"] < 1 or (width is not None and width <= 0):
            got = f"threshold={o['threshold']}, mask_width={width}"
            wanted = "a threshold in [0, 1) and a positive width"
            raise argument_error("ContinuousFilter", got, wanted, "correct the numbers")
        self.options, dtype = o, wide_default_dtype()
        spread = 1.0 if width is None else 1.667 * width
        scale = 1.0 if fan_in is None else (fan_in * l_max) ** -0.5
        self.network = create_network(
            o["network"],
            channels,
            hidden=o["hidden"],
            layers=o["layers"],
            omega_0=o["omega_0"],
            weight_norm=o["weight_norm"],
            spread=spread,
            scale=scale,
            dtype=dtype,
        )
        self.mask_width = None if width is None else nn.Parameter(torch.empty(1, dtype=dtype))
        if width is None:
            self.mask_mean = None
        else:
            set_optimizer_options(self, "mask_width", weight_decay=0.0)
            rate = None if o["learn_mean"] else 0.0
            register_tensor(self, "mask_mean", torch.empty(1, dtype=dtype), lr=rate, weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the mask."""
        if self.mask_width is not None and self.mask_mean is not None:
            self.mask_width.fill_(cast(float, self.options["mask_width"]))
            self.mask_mean.fill_(0 if self.options["centred"] else 1)

    def kernel_at(self, p: Float[Tensor, " taps"]) -> Float[Tensor, "channels taps"]:
        k = cast(Tensor, self.network(p)).T
        if self.mask_width is None or self.mask_mean is None:
            return k
        distance = p - self.mask_mean
        mask = torch.exp(-0.5 * distance.square() / (self.mask_width.square() + self.options["mask_eps"]))
        if self.options["centred"]:
            return torch.where(p.abs() < self._reach(), k * mask, 0.0)
        return torch.where(p > self._oldest(), k * mask, 0.0)

    @torch.no_grad()
    def _reach(self) -> Tensor:
        """The distance from the middle at and beyond which a centred mask is below the threshold on both sides."""
        assert self.mask_width is not None
        assert self.mask_mean is not None
        if self.options["threshold"] == 0:
            return torch.full_like(self.mask_width, math.inf)
        reach = self.mask_mean.abs() + self.mask_width.abs() * math.sqrt(-2 * math.log(self.options["threshold"]))
        return torch.where(reach < 1, reach, math.inf)

    @torch.no_grad()
    def _oldest(self) -> Tensor:
        """The position at and before which the mask is below the threshold; before all positions if it is nowhere."""
        assert self.mask_width is not None
        assert self.mask_mean is not None
        if self.options["threshold"] == 0:
            return torch.full_like(self.mask_width, -math.inf)
        root = self.mask_mean - self.mask_width.abs() * math.sqrt(-2 * math.log(self.options["threshold"]))
        margin = 0.0 if self.options["crop_exactly"] else 2 * self.rate / (self.l_max - 1)
        return torch.where(root.abs() < 1, root - margin, -math.inf)


class PointFilterOptions(TypedDict, total=False):
    """Options of a :class:`PointFilter` that a mixer hands on.

    Attributes:
        points: learned points of every output.
        radius: initial radius, in positions: at least the distance of two taps, ``2 / (l_max - 1)``, reaches one.
            ``None``: that distance.
        spread: standard deviation of the initial points before the newest position, in halves of a position.
        radius_lr: learning rate of the radii; ``None``: the model's own.
    """

    points: Annotated[int, Default(36)]
    radius: Annotated[float | None, Default(None)]
    spread: Annotated[float, Default(0.1)]
    radius_lr: Annotated[float | None, Default(None)]


class PointFilter(PositionFilter):
    """Impulse responses through learned points, which the inputs of one output share.

    Args:
        outputs, inputs: the channels are ordered (output, input).
        l_max: see :class:`PositionFilter`.
        **options: see :class:`PointFilterOptions`.

    Raises:
        ValueError: sizes below 1.
    """

    radius: nn.Parameter

    def __init__(self, outputs: int, inputs: int, *, l_max: int, **options: Unpack[PointFilterOptions]) -> None:
        o = with_defaults(PointFilterOptions, options, "PointFilter")
        if o["points"] < 1 or (o["radius"] is not None and o["radius"] <= 0):
            got = f"points={o['points']}, radius={o['radius']}"
            raise argument_error("PointFilter", got, "at least one point, and a positive radius", "correct the numbers")
        super().__init__(outputs * inputs, l_max=l_max)
        self.options, dtype = o, wide_default_dtype()
        self.position = nn.Parameter(torch.empty(outputs, o["points"], dtype=dtype))
        register_tensor(self, "radius", torch.empty(outputs, o["points"], dtype=dtype), lr=o["radius_lr"])
        self.weight = nn.Parameter(torch.empty(outputs, inputs, o["points"], dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Points on one side of a truncated normal distribution that ends at position 1, weights ~ N(0, 0.02²)."""
        nn.init.trunc_normal_(self.position, std=self.options["spread"], a=-1.0, b=0.0).mul_(2).add_(1)
        radius = self.options["radius"]
        self.radius.fill_(2 / (self.l_max - 1) if radius is None else radius)
        nn.init.trunc_normal_(self.weight, std=0.02)

    @torch.no_grad()
    def clip_radii(self, smallest: float = 1e-4, largest: float = 1.0) -> None:
        """Keep the radii in range; the original calls it after every step of its optimiser."""
        self.radius.clamp_(smallest, largest)

    def kernel_at(self, p: Float[Tensor, " taps"]) -> Float[Tensor, "channels taps"]:
        return _INTERPOLATE(p, self.position, self.radius, self.weight)  # type: ignore[no-any-return]


def _interpolate(p: Tensor, position: Tensor, radius: Tensor, weight: Tensor) -> Tensor:
    """Values at ``p`` between points (outputs, points) of weights (outputs, inputs, points)."""
    phi = F.relu(1 - (position[..., None] - p).abs() / radius[..., None])
    count = (phi != 0).sum(dim=1, keepdim=True).to(phi.dtype)
    return (weight @ (phi / (count + 1e-6))).flatten(0, 1)


def _empty_kernel(p: Tensor, position: Tensor, radius: Tensor, weight: Tensor) -> Tensor:
    return weight.new_empty(weight.shape[0] * weight.shape[1], p.shape[0])


_INTERPOLATE = Composed("interpolate_points", _interpolate, _empty_kernel)
