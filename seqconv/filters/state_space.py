"""What the filters of S4 and S4D share: parameters of state spaces, their transforms and learning rates.

Per feature h: ``x' = A x + B u``, ``y = 2 Re(C x)`` with one of each conjugate pair of states kept. ``A`` has the
diagonal ``-f(A_real) - i g(A_imag)``; the time step is ``dt = t(inv_dt)``. A, B and dt train with a small learning
rate of their own and without weight decay: such a parameter carries
``parameter._optim = {"lr": 1e-3, "weight_decay": 0.0}``, the overrides of the optimiser's defaults for it, which
whoever builds parameter groups reads.
"""

import math
from abc import ABC
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Inexact
from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.precision import accumulation_dtype

from ..parameters import register_tensor, wide_default_dtype
from .base import WideFilter
from .ssm_init import DiagonalOptions, initial_ssm

FilterT = TypeVar("FilterT", bound="StateSpaceFilter")

SMALLEST = 1e-4
"""Smallest positive value that a transformed parameter starts from."""

TRANSFORMS: Mapping[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "none": (lambda p: p, lambda v: v),
    "exp": (torch.exp, torch.log),
    "relu": (lambda p: F.relu(p) + SMALLEST, lambda v: v),
    "sigmoid": (torch.sigmoid, torch.logit),
    "softplus": (F.softplus, lambda v: v + torch.log(-torch.expm1(-v))),
}
"""Positive functions of a parameter, each with the inverse that initialises it."""


class StateSpace(NamedTuple):
    """The continuous state spaces that the parameters stand for."""

    dt: Float[Tensor, "features #d_state"]
    A: Inexact[Tensor, "features d_state"]
    B: Inexact[Tensor, "features d_state"]
    C: Inexact[Tensor, "heads features d_state"]


class StateSpaceFilter(WideFilter, ABC):
    """Base of :class:`~seqconv.filters.s4d.S4DFilter` and :class:`~seqconv.filters.s4.S4Filter`.

    The channels are ordered (head, feature): row ``head * features + feature``.

    Args:
        features: independent inputs.
        heads: outputs per input, which share A, B and dt and have a C each.
        d_state: real size of the state; ``d_state / 2`` conjugate pairs are kept (``is_real``: d_state real poles).
        init: initial A and B, see :func:`~seqconv.filters.ssm_init.initial_ssm`.
        n_ssm: trained copies of (A, B), a divisor of ``features``; feature h uses copy ``h mod n_ssm``.
        rank: rank of the low-rank part; ``None`` for a diagonal A.
        deterministic: C that reads the first coordinate and evenly spaced log dt instead of random ones.
        dt_min, dt_max: range of the initial time steps, log-uniform.
        dt_tie: one time step per feature rather than one per pole.
        dt_transform, real_transform, imag_transform: keys of ``TRANSFORMS``.
        dt_fast: put a sinh in front of ``dt_transform``.
        is_real: real poles instead of conjugate pairs.
        bandlimit: silence poles faster than this fraction of the sampling frequency; 1 is Nyquist.
        rate: step between samples relative to that in training (2: every second sample).
        real_random ... B_clip: see :class:`~seqconv.filters.ssm_init.DiagonalOptions`.
        lr: learning rate of A, B, P and dt; by name (``{"A": 1e-4, "dt": 1e-3}``) where they differ, 0 to freeze;
            ``None`` for the optimiser's own.
        wd: weight decay of A, B, P and dt, likewise.

    Raises:
        ValueError: unknown names, or sizes that do not divide.
    """

    inv_dt: Tensor
    A_real: Tensor
    A_imag: Tensor
    B: Tensor
    C: Tensor
    P: Tensor

    def __init__(
        self,
        features: int,
        *,
        heads: int = 1,
        d_state: int = 64,
        init: str = "legs",
        n_ssm: int | None = None,
        rank: int | None = None,
        deterministic: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_tie: bool = True,
        dt_transform: str = "exp",
        dt_fast: bool = False,
        real_transform: str = "exp",
        imag_transform: str = "none",
        is_real: bool = False,
        bandlimit: float | None = None,
        rate: float = 1.0,
        real_random: bool = False,
        real_scale: float = 1.0,
        imag_random: bool = False,
        imag_scale: float = 1.0,
        B_init: str = "constant",
        B_scale: float = 1.0,
        P_scale: float = 1.0,
        normalize: bool = False,
        B_clip: float | None = 2.0,
        lr: float | dict[str, float] | None = 1e-3,
        wd: float | dict[str, float] | None = 0.0,
        max_length: int | None = None,
        recurrent: bool = True,
    ) -> None:
        super().__init__(features * heads, max_length=max_length, recurrent=recurrent)
        n_ssm = features if n_ssm is None else n_ssm
        _check(features, heads, n_ssm, dt_min, dt_max, rate, bandlimit, is_real)
        for option, name in zip(
            ("dt_transform", "real_transform", "imag_transform"),
            (dt_transform, real_transform, imag_transform),
            strict=True,
        ):
            if name not in TRANSFORMS:
                raise unknown_name(type(self).__name__, option, name, TRANSFORMS)
        self.features, self.heads, self.d_state, self.n_ssm = features, heads, d_state, n_ssm
        self.dt_transform, self.dt_fast, self.is_real = dt_transform, dt_fast, is_real
        self.real_transform, self.imag_transform = real_transform, imag_transform
        self.bandlimit, self.rate = bandlimit, rate
        self._lr, self._wd = lr, wd
        poles = 2 * d_state if is_real else d_state
        options = DiagonalOptions(
            real_random, real_scale, imag_random, imag_scale, B_init, B_scale, P_scale, normalize, B_clip
        )
        start = initial_ssm(init, poles, rank, n_ssm, options)
        self._register("inv_dt", "dt", self._initial_dt(dt_min, dt_max, 1 if dt_tie else poles // 2, deterministic))
        self._register("C", "C", _stored(self._initial_C(start.V, deterministic), is_real))
        self._register("B", "B", _stored(start.B, is_real))
        self._register("A_real", "A", _untransformed(-start.poles.real, real_transform))
        if not is_real:
            self._register("A_imag", "A", _untransformed(-start.poles.imag, imag_transform))
        if rank is not None:
            self._register("P", "P", _stored(start.P, is_real))

    def state_space(self, rate: float | None = None) -> StateSpace:
        """The continuous state spaces of all features, float32 at least, at a sampling rate (this filter's own)."""
        rate = self.rate if rate is None else rate
        wide = accumulation_dtype(self.C)
        inv_dt = self.inv_dt.to(wide)
        dt = TRANSFORMS[self.dt_transform][0](torch.sinh(inv_dt) if self.dt_fast else inv_dt) * rate
        A = -TRANSFORMS[self.real_transform][0](self.A_real.to(wide))
        if not self.is_real:
            A = torch.complex(A, -TRANSFORMS[self.imag_transform][0](self.A_imag.to(wide)))
        A, B, C = self._tile(A), self._tile(self.weights("B")), self.weights("C")
        if self.bandlimit is not None:
            C = C * (dt / rate * A.imag.abs() / (2 * math.pi) < self.bandlimit / 2)
        return StateSpace(dt, A, B, C)

    def _tile(self, weights: Tensor) -> Tensor:
        """Repeat the trained copies, the axis before the last, over the features: feature h uses copy h mod n_ssm."""
        copies = self.features // self.n_ssm
        return weights if copies == 1 else torch.cat([weights] * copies, dim=-2)

    def weights(self, name: str) -> Inexact[Tensor, "..."]:
        """``B``, ``C`` or ``P`` as a complex (``is_real``: real) tensor, float32 at least."""
        weights: Tensor = getattr(self, name)
        weights = weights.to(accumulation_dtype(weights))
        return weights if self.is_real else torch.view_as_complex(weights)

    def _register(self, name: str, group: str, value: Tensor) -> None:
        """Enter a parameter with the optimiser overrides of its group, or a buffer where its learning rate is 0."""
        value = value.to(wide_default_dtype()).clone(memory_format=torch.contiguous_format)
        lr, wd = self._override(self._lr, group), self._override(self._wd, group)
        register_tensor(self, name, value, lr=lr, weight_decay=wd)

    def _override(self, given: float | dict[str, float] | None, group: str) -> float | None:
        if isinstance(given, dict):
            return given.get(group)
        return None if group == "C" else given

    def _initial_dt(self, dt_min: float, dt_max: float, size: int, deterministic: bool) -> Tensor:
        low, high = math.log(dt_min), math.log(dt_max)
        if deterministic:
            log_dt = torch.linspace(low, high, self.features, dtype=torch.float64)[:, None].expand(-1, size)
        else:
            log_dt = low + (high - low) * torch.rand(self.features, size, dtype=torch.float64)
        value = log_dt if self.dt_transform == "exp" else _untransformed(log_dt.exp(), self.dt_transform)
        return torch.asinh(value) if self.dt_fast else value

    def _initial_C(self, V: Tensor, deterministic: bool) -> Tensor:
        if not deterministic:
            return torch.randn(self.heads, self.features, V.shape[-1], dtype=torch.complex128)
        return self._tile(V[:, 0]).expand(self.heads, -1, -1)


def _stored(weights: Tensor, is_real: bool) -> Tensor:
    """As parameters hold it: the real part, or real and imaginary parts on a last axis."""
    return weights.real if is_real else torch.view_as_real(weights.resolve_conj())


def _untransformed(value: Tensor, transform: str) -> Tensor:
    return TRANSFORMS[transform][1](value.clamp(min=SMALLEST))


def _check(
    features: int,
    heads: int,
    n_ssm: int,
    dt_min: float,
    dt_max: float,
    rate: float,
    bandlimit: float | None,
    is_real: bool,
) -> None:
    if features < 1 or heads < 1 or n_ssm < 1 or features % n_ssm:
        got = f"features={features}, heads={heads}, n_ssm={n_ssm}"
        raise argument_error("state space", got, "positive numbers, n_ssm a divisor of features", "change n_ssm")
    if not 0 < dt_min <= dt_max:
        raise argument_error(
            "state space", f"dt_min={dt_min}, dt_max={dt_max}", "0 < dt_min <= dt_max", "change the range"
        )
    if rate <= 0:
        raise argument_error("state space", f"rate={rate}", "a positive factor", "pass 1 for the rate of training")
    if bandlimit is not None and is_real:
        raise argument_error("state space", "a bandlimit for real poles", "complex poles", "drop bandlimit or is_real")
