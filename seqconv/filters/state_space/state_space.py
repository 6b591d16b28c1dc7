"""What the filters of S4 and S4D share: parameters of state spaces, their transforms and learning rates.

Per feature h: ``x' = A x + B u``, ``y = 2 Re(C x)`` with one of each conjugate pair of states kept. ``A`` has the
diagonal ``-f(A_real) - i g(A_imag)``; the time step is ``dt = t(inv_dt)``. A, B and dt train with a small learning
rate of their own and without weight decay: such a parameter carries
``parameter._optim = {"lr": 1e-3, "weight_decay": 0.0}``, the overrides of the optimiser's defaults for it, which
:func:`~seqconv.parameters.parameter_groups` reads.
"""

import math
from abc import ABC
from collections.abc import Callable, Mapping
from typing import Annotated, NamedTuple, TypedDict, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float, Inexact
from torch import Tensor

from seqconv_kernels._core.complex import as_complex
from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.precision import accumulation_dtype

from ...options import Default, with_defaults
from ...parameters import register_tensor, wide_default_dtype
from ..base import WideFilter
from .ssm_init import DiagonalOptions, initial_ssm

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
    """The continuous state spaces that the parameters define."""

    dt: Float[Tensor, "features #d_state"]
    A: Inexact[Tensor, "features d_state"]
    B: Inexact[Tensor, "features d_state"]
    C: Inexact[Tensor, "heads features d_state"]


class _SystemOptions(TypedDict, total=False):
    d_state: Annotated[int, Default(64)]
    init: Annotated[str, Default("legs")]
    n_ssm: Annotated[int | None, Default(None)]
    deterministic: Annotated[bool, Default(False)]
    dt_min: Annotated[float, Default(0.001)]
    dt_max: Annotated[float, Default(0.1)]
    dt_tie: Annotated[bool, Default(True)]
    dt_transform: Annotated[str, Default("exp")]
    dt_fast: Annotated[bool, Default(False)]
    real_transform: Annotated[str, Default("exp")]
    imag_transform: Annotated[str, Default("none")]
    bandlimit: Annotated[float | None, Default(None)]
    rate: Annotated[float, Default(1.0)]
    lr: Annotated[float | dict[str, float] | None, Default(1e-3)]
    wd: Annotated[float | dict[str, float] | None, Default(0.0)]


class StateSpaceOptions(_SystemOptions, DiagonalOptions, total=False):
    """Options of every filter that is a state space.

    Attributes:
        d_state: real size of the state; ``d_state / 2`` conjugate pairs are kept (``is_real``: d_state real poles).
        init: initial A and B, see :func:`~seqconv.filters.state_space.ssm_init.initial_ssm`.
        n_ssm: trained copies of (A, B), a divisor of ``features``; feature h uses copy ``h mod n_ssm``.
        deterministic: C that reads the first coordinate and evenly spaced log dt instead of random ones.
        dt_min, dt_max: range of the initial time steps, log-uniform.
        dt_tie: one time step per feature rather than one per pole.
        dt_transform, real_transform, imag_transform: keys of ``TRANSFORMS``.
        dt_fast: put a sinh in front of ``dt_transform``.
        bandlimit: silence poles faster than this fraction of the sampling frequency; 1 is Nyquist.
        rate: step between samples relative to that in training (2: every second sample).
        lr: learning rate of A, B, P and dt; by name (``{"A": 1e-4, "dt": 1e-3}``) where they differ, 0 to freeze;
            ``None`` for the optimiser's own.
        wd: weight decay of A, B, P and dt, likewise.
        real_random ... B_clip: see :class:`~seqconv.filters.state_space.ssm_init.DiagonalOptions`.
    """


class StateSpaceFilter(WideFilter, ABC):
    """Base of :class:`~.s4d.S4DFilter` and :class:`~.s4.S4Filter`.

    The channels are ordered (head, feature): row ``head * features + feature``. A concrete class ends its constructor
    with :meth:`reset_parameters`.

    Args:
        features: independent inputs.
        heads: outputs per input, which share A, B and dt and have a C each.
        rank: rank of the low-rank part; ``None`` for a diagonal A.
        is_real: real poles instead of conjugate pairs.
        P_scale: factor of a random low-rank part.
        **options: see :class:`StateSpaceOptions`.

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
        rank: int | None = None,
        is_real: bool = False,
        P_scale: float = 1.0,
        max_length: int | None = None,
        recurrent: bool = True,
        **options: Unpack[StateSpaceOptions],
    ) -> None:
        super().__init__(features * heads, max_length=max_length, recurrent=recurrent)
        o = with_defaults(StateSpaceOptions, options, type(self).__name__)
        n_ssm = features if o["n_ssm"] is None else o["n_ssm"]
        _check(features, heads, n_ssm, is_real, o)
        self.features, self.heads, self.n_ssm, self.rank, self.is_real = features, heads, n_ssm, rank, is_real
        self.d_state, self.rate, self.bandlimit = o["d_state"], o["rate"], o["bandlimit"]
        self.dt_transform, self.dt_fast = o["dt_transform"], o["dt_fast"]
        self.real_transform, self.imag_transform = o["real_transform"], o["imag_transform"]
        self._options, self._P_scale = o, P_scale
        pairs = self.d_state if is_real else self.d_state // 2
        last = () if is_real else (2,)
        self._register("inv_dt", "dt", features, 1 if o["dt_tie"] else pairs)
        self._register("C", "C", heads, features, pairs, *last)
        self._register("B", "B", n_ssm, pairs, *last)
        self._register("A_real", "A", n_ssm, pairs)
        if not is_real:
            self._register("A_imag", "A", n_ssm, pairs)
        if rank is not None:
            self._register("P", "P", rank, n_ssm, pairs, *last)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initial A, B, P, C and time steps, in float64 on the CPU: eigenvectors of HiPPO need its digits.

        Raises:
            ValueError: an unknown initialisation, or sizes that it cannot have.
        """
        if self.C.is_meta:
            return
        poles = 2 * self.d_state if self.is_real else self.d_state
        with torch.device("cpu"):
            o = self._options
            start = initial_ssm(o["init"], poles, self.rank, self.n_ssm, o, P_scale=self._P_scale)
            self.inv_dt.copy_(self._initial_dt())
            self.C.copy_(self._stored(self._initial_C(start.V)))
            self.B.copy_(self._stored(start.B))
            self.A_real.copy_(_untransformed(-start.poles.real, self.real_transform))
            if not self.is_real:
                self.A_imag.copy_(_untransformed(-start.poles.imag, self.imag_transform))
            if self.rank is not None:
                self.P.copy_(self._stored(start.P))

    def change_rate(self, rate: float) -> None:
        self.rate *= rate

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
        return weights if self.is_real else as_complex(weights)

    def _register(self, name: str, group: str, *size: int) -> None:
        """Register a parameter with the optimiser options of its group, or a buffer where its learning rate is 0."""
        lr, wd = (self._override(self._options[option], group) for option in ("lr", "wd"))
        register_tensor(self, name, torch.empty(size, dtype=wide_default_dtype()), lr=lr, weight_decay=wd)

    def _override(self, given: float | dict[str, float] | None, group: str) -> float | None:
        if isinstance(given, dict):
            return given.get(group)
        return None if group == "C" else given

    def _initial_dt(self) -> Tensor:
        o, size = self._options, self.inv_dt.shape[1]
        low, high = math.log(o["dt_min"]), math.log(o["dt_max"])
        if o["deterministic"]:
            log_dt = torch.linspace(low, high, self.features, dtype=torch.float64)[:, None].expand(-1, size)
        else:
            log_dt = low + (high - low) * torch.rand(self.features, size, dtype=torch.float64)
        value = log_dt if self.dt_transform == "exp" else _untransformed(log_dt.exp(), self.dt_transform)
        return torch.asinh(value) if self.dt_fast else value

    def _initial_C(self, V: Tensor) -> Tensor:
        if not self._options["deterministic"]:
            return torch.randn(self.heads, self.features, V.shape[-1], dtype=torch.complex128)
        return self._tile(V[:, 0]).expand(self.heads, -1, -1)

    def _stored(self, weights: Tensor) -> Tensor:
        """As parameters hold it: the real part, or real and imaginary parts on a last axis."""
        return weights.real if self.is_real else torch.view_as_real(weights.resolve_conj())


def _untransformed(value: Tensor, transform: str) -> Tensor:
    return TRANSFORMS[transform][1](value.clamp(min=SMALLEST))


def _check(features: int, heads: int, n_ssm: int, is_real: bool, o: StateSpaceOptions) -> None:
    if features < 1 or heads < 1 or n_ssm < 1 or features % n_ssm:
        got = f"features={features}, heads={heads}, n_ssm={n_ssm}"
        raise argument_error("state space", got, "positive numbers, n_ssm a divisor of features", "change n_ssm")
    if o["d_state"] < 1 or (o["d_state"] % 2 and not is_real):
        got = f"d_state={o['d_state']}"
        raise argument_error("state space", got, "an even number of at least 2", "keep conjugate pairs whole")
    if not 0 < o["dt_min"] <= o["dt_max"]:
        got = f"dt_min={o['dt_min']}, dt_max={o['dt_max']}"
        raise argument_error("state space", got, "0 < dt_min <= dt_max", "change the range")
    if o["rate"] <= 0:
        got = f"rate={o['rate']}"
        raise argument_error("state space", got, "a positive factor", "pass 1 for the rate of training")
    if o["bandlimit"] is not None and is_real:
        raise argument_error("state space", "a bandlimit for real poles", "complex poles", "drop bandlimit or is_real")
    transforms = {"dt": o["dt_transform"], "real": o["real_transform"], "imag": o["imag_transform"]}
    for name, transform in transforms.items():
        if transform not in TRANSFORMS:
            raise unknown_name("state space", f"{name}_transform", transform, TRANSFORMS)
