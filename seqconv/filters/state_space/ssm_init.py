"""Initial values of the state spaces of S4 and S4D: poles, low-rank part, input weights, by name.

Diagonal ones (S4D: Gu et al., 2022), for pair n of ``d_state / 2``: ``lin`` -1/2 + i pi n; ``inv``
-1/2 + i (N / pi)(N / (2n+1) - 1); ``inv2``, ``quad``, ``random`` likewise; ``real`` -(n+1); ``diag-legs`` the normal
part of HiPPO-LegS. The others are the HiPPO measures in normal plus low-rank form. ``hippo``, ``diag`` and ``all``
spread several over the copies.
"""

import math
from typing import Annotated, NamedTuple, TypedDict

import torch
from jaxtyping import Complex128
from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...options import Default
from .hippo import CORRECTIONS, nplr

COMBINATIONS = {
    "hippo": ("legs", "fourier"),
    "diag": ("diag-inv", "diag-lin"),
    "all": ("legs", "fourier", "diag-inv", "diag-lin"),
}
_ALIASES = {
    "linear": "lin",
    "inverse": "inv",
    "inverse2": "inv2",
    "quadratic": "quad",
    "rand": "random",
    "hippo": "legs",
}
DIAGONAL = ("lin", "inv", "inv2", "quad", "random", "real", "legs")
B_INITS = ("constant", "random", "alternating", "unit-cw", "unit-ccw", "legs", "hippo")


class SSMInit(NamedTuple):
    """Initial state spaces; ``A = V (diag(poles) - P P*) V*``, one of each conjugate pair kept, imaginary part <= 0."""

    poles: Complex128[Tensor, "n_ssm pairs"]
    P: Complex128[Tensor, "rank n_ssm pairs"]
    B: Complex128[Tensor, "n_ssm pairs"]
    V: Complex128[Tensor, "n_ssm d_state pairs"]


class DiagonalOptions(TypedDict, total=False):
    """Options of the diagonal initialisations.

    Attributes:
        real_random: draw real parts from U(-1, 0) (``real``: U(-N/2, 0)) instead of -1/2.
        real_scale, imag_scale: factors of the real and imaginary parts.
        imag_random: draw the indices n from U(0, N/2) instead of counting.
        B_init: ``constant`` 1, ``random`` normal, ``alternating`` signs, ``unit-cw``/``unit-ccw`` on the unit circle.
        B_scale: factor of B.
        normalize: scale B so that a random C gives a response of unit variance to a constant.
        B_clip: bound on the imaginary part of the B of HiPPO measures.
    """

    real_random: Annotated[bool, Default(False)]
    real_scale: Annotated[float, Default(1.0)]
    imag_random: Annotated[bool, Default(False)]
    imag_scale: Annotated[float, Default(1.0)]
    B_init: Annotated[str, Default("constant")]
    B_scale: Annotated[float, Default(1.0)]
    normalize: Annotated[bool, Default(False)]
    B_clip: Annotated[float | None, Default(2.0)]


def initial_ssm(
    init: str, d_state: int, rank: int | None, n_ssm: int, options: DiagonalOptions, *, P_scale: float = 1.0
) -> SSMInit:
    """``n_ssm`` state spaces of a named initialisation or combination.

    Args:
        init: a measure of :mod:`~.hippo`, a diagonal one (``lin`` or ``diag-lin``; ``dplr-lin`` adds a
            random low-rank part), or one of ``COMBINATIONS``.
        d_state: real size of the state, even.
        rank: rank of the low-rank part; ``None`` for none asked.
        n_ssm: copies.
        options: all of :class:`DiagonalOptions`.
        P_scale: factor of a random low-rank part.

    Raises:
        ValueError: unknown name; ``n_ssm`` not a multiple of the combined ones; odd ``d_state``.
    """
    names = COMBINATIONS.get(init, (init,))
    if n_ssm < 1 or n_ssm % len(names):
        wanted = f"a multiple of {len(names)}, the number of initialisations in {init!r}"
        raise argument_error("initial_ssm", f"n_ssm={n_ssm}", wanted, "change n_ssm or d_model")
    if d_state < 2 or d_state % 2:
        raise argument_error(
            "initial_ssm", f"d_state={d_state}", "an even number of at least 2", "keep conjugate pairs whole"
        )
    parts = [_single(name, d_state, rank, n_ssm // len(names), options, P_scale) for name in names]
    poles, P, B, V = zip(*parts, strict=True)
    return SSMInit(torch.cat(poles), torch.cat(P, dim=1), torch.cat(B), torch.cat(V))


def _single(
    name: str, d_state: int, rank: int | None, copies: int, options: DiagonalOptions, P_scale: float
) -> SSMInit:
    family, _, kind = name.rpartition("-")
    kind = _ALIASES.get(kind, kind)
    if family in ("diag", "dplr") and kind in DIAGONAL:
        scale = P_scale if family == "dplr" else None
        return _diagonal(kind, d_state, 1 if rank is None else rank, copies, options, scale)
    if family == "" and kind in CORRECTIONS:
        form = nplr(kind, d_state, rank, B_clip=options["B_clip"])
        return SSMInit(
            form.poles.repeat(copies, 1), form.P[:, None].repeat(1, copies, 1), form.B.repeat(copies, 1),
            form.V.repeat(copies, 1, 1),
        )  # fmt: skip
    if family == "" and kind in DIAGONAL:
        return _diagonal(kind, d_state, 1 if rank is None else rank, copies, options, None)
    known = {*CORRECTIONS, *DIAGONAL, *(f"diag-{k}" for k in DIAGONAL), *COMBINATIONS}
    raise unknown_name("initial_ssm", "init", name, known)


def _diagonal(
    kind: str, d_state: int, rank: int, copies: int, options: DiagonalOptions, P_scale: float | None
) -> SSMInit:
    """A diagonal initialisation; a low-rank part of zeros where ``P_scale`` is ``None``."""
    pairs = d_state // 2
    real, imaginary = _parts(kind, d_state, copies, options)
    poles = torch.complex(-options["real_scale"] * real, -options["imag_scale"] * imaginary)
    form = nplr("legs", d_state) if kind == "legs" or options["B_init"] in ("legs", "hippo") else None
    B = (_input_weights(options["B_init"], d_state, copies) if form is None else form.B.repeat(copies, 1)) * options[
        "B_scale"
    ]
    if options["normalize"]:
        B = B / (2 * (B / poles).abs().square().sum(-1, keepdim=True)).sqrt()
    if form is not None and options["B_init"] in ("legs", "hippo"):
        P = torch.cat([form.P, form.P.new_zeros(max(0, rank - 1), pairs)])[:, None].repeat(1, copies, 1)
    else:
        P = torch.randn(rank, copies, pairs, dtype=torch.complex128) * (1.0 if P_scale is None else P_scale)
    eye = torch.eye(d_state, dtype=torch.complex128)[:, :pairs].repeat(copies, 1, 1)
    return SSMInit(poles, torch.zeros_like(P) if P_scale is None else P, B, eye)


def _parts(kind: str, d_state: int, copies: int, options: DiagonalOptions) -> tuple[Tensor, Tensor]:
    """Minus the real and minus the imaginary parts of the poles, both (copies, pairs), before scaling."""
    pairs = d_state // 2
    uniform = torch.rand(copies, pairs, dtype=torch.float64)
    n = torch.arange(pairs, dtype=torch.float64).expand(copies, pairs)
    n = pairs * torch.rand(copies, pairs, dtype=torch.float64) if options["imag_random"] else n
    if kind == "real":
        count = torch.arange(1, pairs + 1, dtype=torch.float64).expand(copies, pairs)
        return (pairs * uniform if options["real_random"] else count), torch.zeros_like(uniform)
    real = uniform if options["real_random"] else torch.full_like(uniform, 0.5)
    imaginary = {
        "random": lambda: torch.randn(copies, pairs, dtype=torch.float64).exp(),
        "lin": lambda: math.pi * n,
        "inv": lambda: d_state / math.pi * (d_state / (1 + 2 * n) - 1),
        "inv2": lambda: d_state / math.pi * (d_state / (1 + n) - 1),
        "quad": lambda: (1 + 2 * n) ** 2 / math.pi,
        "legs": lambda: -nplr("legs", d_state).poles.imag.expand(copies, pairs),
    }[kind]()
    return real, imaginary


def _input_weights(kind: str, d_state: int, copies: int) -> Tensor:
    pairs = d_state // 2
    if kind not in B_INITS:
        raise unknown_name("initial_ssm", "B_init", kind, B_INITS)
    if kind == "random":
        return torch.randn(copies, pairs, dtype=torch.complex128)
    n = torch.arange(pairs, dtype=torch.float64)
    turn = {"constant": 0 * n, "alternating": math.pi * n}
    turn |= {"unit-cw": -2 * math.pi * n / d_state, "unit-ccw": 2 * math.pi * n / d_state}
    return torch.polar(torch.ones_like(n), turn[kind]).repeat(copies, 1)
