"""HiPPO: matrices of online function approximation (Gu et al., 2020 and 2023), and their normal plus low-rank form.

``x' = A x + B u`` keeps the coefficients of the input's history in a basis of functions, orthogonal under a
measure. For most measures a matrix P of low rank makes ``A + P^T P = c I + S`` with S skew-symmetric: normal, hence
unitarily diagonalisable, ``A = V (Lambda - (V* P)(V* P)*) V*``. A itself must never be diagonalised: its
eigenvectors are exponentially ill-conditioned.
"""

import math
from collections.abc import Callable, Mapping
from inspect import signature
from typing import NamedTuple

import torch
from jaxtyping import Complex128, Float64
from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name


def _steps(d_state: int) -> Tensor:
    return torch.arange(d_state, dtype=torch.float64)


def _legs(n: int) -> tuple[Tensor, Tensor]:
    """Scaled Legendre: A_nk = -sqrt((2n+1)(2k+1)) below the diagonal, -(n+1) on it."""
    r = (2 * _steps(n) + 1).sqrt()
    return -(torch.outer(r, r).tril(-1) + torch.diag(_steps(n) + 1)), r


def _legsd(n: int) -> tuple[Tensor, Tensor]:
    """The normal part of ``legs``, with half its B."""
    A, B = _legs(n)
    P = _legs_correction(n)
    return A + P.mT @ P, B / 2


def _legt(n: int) -> tuple[Tensor, Tensor]:
    """Translated Legendre on a window of length 2: -sqrt((2n+1)(2k+1)) / 2, signs alternating above the diagonal."""
    r = (2 * _steps(n) + 1).sqrt()
    return -torch.outer(r, r) * _alternating_above(n) / 2, r / 2


def _lmu(n: int) -> tuple[Tensor, Tensor]:
    """Legendre memory unit (Voelker et al., 2019): ``legt`` in another normalisation, on a window of length 1."""
    r, signs = 2 * _steps(n) + 1, (-1.0) ** _steps(n)
    return -r[:, None] * torch.outer(signs, signs).tril() - r[:, None] * torch.ones(n, n).double().triu(1), signs * r


def _alternating_above(n: int) -> Tensor:
    signs = (-1.0) ** _steps(n)
    return torch.ones(n, n, dtype=torch.float64).tril() + torch.outer(signs, signs).triu(1)


def _lagt(n: int, beta: float = 1.0) -> tuple[Tensor, Tensor]:
    """Translated Laguerre."""
    return torch.eye(n).double() / 2 - torch.ones(n, n).double().tril(), beta * torch.ones(n).double()


def _tlagt(n: int, beta: float = 1.0) -> tuple[Tensor, Tensor]:
    """Tilted Laguerre; ``beta`` = 1 is no tilt."""
    return (1 - beta) / 2 * torch.eye(n).double() - torch.ones(n, n).double().tril(), beta * torch.ones(n).double()


def _glagt(n: int, alpha: float = 0.0, beta: float = 0.01) -> tuple[Tensor, Tensor]:
    """Generalised Laguerre, normalised."""
    k = _steps(n)
    scale = torch.exp((torch.lgamma(k + alpha + 1) - torch.lgamma(k + 1)) / 2)
    A = -(1 + beta) / 2 * torch.eye(n).double() - torch.ones(n, n).double().tril(-1)
    binomial = torch.exp(torch.lgamma(k + alpha + 1) - torch.lgamma(k + 1) - math.lgamma(alpha + 1))
    weight = math.exp(-math.lgamma(1 - alpha) / 2) * beta ** ((1 - alpha) / 2)
    return A * scale / scale[:, None], weight * binomial / scale


def _fourier_parts(n: int) -> tuple[Tensor, Tensor]:
    """Rotations at the integer multiples of pi, and the values of the basis at the end of the window."""
    b = torch.zeros(n, dtype=torch.float64)
    b[::2], b[0] = math.sqrt(2), 1
    speeds = torch.zeros(n - 1, dtype=torch.float64)
    speeds[::2] = math.pi * _steps(n // 2)
    return torch.diag(speeds, -1) - torch.diag(speeds, 1), b


def _fourier(n: int) -> tuple[Tensor, Tensor]:
    """Fourier basis on a sliding window of length 2."""
    rotation, b = _fourier_parts(n)
    return rotation - torch.outer(b, b), b


def _fourier2(n: int) -> tuple[Tensor, Tensor]:
    """Fourier basis on a sliding window of length 1."""
    rotation, b = _fourier_parts(n)
    return 2 * (rotation - torch.outer(b, b)), 2 * b


def _fourier_decay(n: int) -> tuple[Tensor, Tensor]:
    """Fourier basis on a window that decays instead of ending."""
    rotation, b = _fourier_parts(n)
    return rotation - torch.outer(b, b) / 2, b / 2


def _fourier_diag(n: int) -> tuple[Tensor, Tensor]:
    """Damped rotations without coupling."""
    rotation, b = _fourier_parts(n)
    return 2 * rotation - torch.eye(n).double() / 2, b


MEASURES: Mapping[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "legs": _legs,
    "legsd": _legsd,
    "legt": _legt,
    "lmu": _lmu,
    "lagt": _lagt,
    "tlagt": _tlagt,
    "glagt": _glagt,
    "fourier": _fourier,
    "fout": _fourier,
    "fourier2": _fourier2,
    "fourier_decay": _fourier_decay,
    "fourier_diag": _fourier_diag,
}


def _legs_correction(n: int) -> Tensor:
    return (_steps(n) + 0.5).sqrt()[None]


def _legt_correction(n: int) -> Tensor:
    P = (_steps(n) + 0.5).sqrt()
    odd = _steps(n) % 2 == 1
    return torch.stack([P * odd, P * ~odd])


def _fourier_correction(scale: float) -> Callable[[int], Tensor]:
    return lambda n: scale * _fourier_parts(n)[1][None]


def _no_correction(n: int) -> Tensor:
    return torch.zeros(1, n, dtype=torch.float64)


CORRECTIONS: Mapping[str, Callable[[int], Tensor]] = {
    "legs": _legs_correction,
    "legsd": _no_correction,
    "legt": _legt_correction,
    "lagt": lambda n: torch.full((1, n), math.sqrt(0.5), dtype=torch.float64),
    "fourier": _fourier_correction(1.0),
    "fout": _fourier_correction(1.0),
    "fourier2": _fourier_correction(math.sqrt(2)),
    "fourier_decay": _fourier_correction(math.sqrt(0.5)),
    "fourier_diag": _no_correction,
}
"""P of the measures that are normal plus low rank; ``lmu``, ``tlagt`` and ``glagt`` are not in their normalisation."""


class NPLR(NamedTuple):
    """``A = 2 Re(V diag(poles) V*) - P_dense^T P_dense``; one of each conjugate pair of poles is kept.

    Attributes:
        poles: eigenvalues with negative imaginary part, most negative first.
        P: ``V* P_dense^T``.
        B: ``V* B``, imaginary part clipped.
        V: the eigenvectors kept, orthonormal columns.
    """

    poles: Complex128[Tensor, " pairs"]
    P: Complex128[Tensor, "rank pairs"]
    B: Complex128[Tensor, " pairs"]
    V: Complex128[Tensor, "d_state pairs"]


def transition(
    measure: str, d_state: int, **options: float
) -> tuple[Float64[Tensor, "d_state d_state"], Float64[Tensor, " d_state"]]:
    """The matrices (A, B) of a measure.

    Args:
        measure: one of ``MEASURES``.
        d_state: size.
        **options: ``beta`` of the Laguerre measures, ``alpha`` of ``glagt``.

    Raises:
        ValueError: unknown measure or option.
    """
    if measure not in MEASURES:
        raise unknown_name("hippo.transition", "measure", measure, MEASURES)
    known = list(signature(MEASURES[measure]).parameters)[1:]
    for option in options:
        if option not in known:
            raise unknown_name(f"hippo.transition({measure!r})", "option", option, known)
    return MEASURES[measure](d_state, **options)


def rank_correction(measure: str, d_state: int, rank: int | None = None) -> Float64[Tensor, "rank d_state"]:
    """P of a measure, with rows of zeros up to ``rank`` (its own rank by default).

    Raises:
        ValueError: the measure has no such form, or ``rank`` is below its own.
    """
    if measure not in CORRECTIONS:
        raise unknown_name("hippo.rank_correction", "measure", measure, CORRECTIONS)
    P = CORRECTIONS[measure](d_state)
    rank = len(P) if rank is None else rank
    if rank < len(P):
        raise argument_error(
            "hippo.rank_correction", f"rank={rank} for {measure!r}", f"at least {len(P)}", f"pass rank={len(P)}"
        )
    return torch.cat([P, P.new_zeros(rank - len(P), d_state)])


def nplr(measure: str, d_state: int, rank: int | None = None, *, B_clip: float | None = 2.0) -> NPLR:
    """Normal plus low-rank form of a measure, in float64.

    Args:
        measure: one of ``CORRECTIONS``.
        d_state: even size of the state.
        rank: rank of the correction; its own by default.
        B_clip: bound on the imaginary part of B; ``None`` for no bound.

    Raises:
        ValueError: unknown measure, rank below the measure's own, odd ``d_state``.
    """
    if d_state < 2 or d_state % 2:
        raise argument_error(
            "hippo.nplr", f"d_state={d_state}", "an even number of at least 2", "keep conjugate pairs whole"
        )
    A, B = transition(measure, d_state)
    P = rank_correction(measure, d_state, rank)
    normal = A + P.mT @ P
    skew = normal - normal.mT
    imaginary, V = torch.linalg.eigh(-0.5j * skew)
    pairs = d_state // 2
    V = V[:, :pairs].clone()
    if abs(imaginary[pairs - 1]) < 1e-4:
        V[:, -1] = 0
        V[0, -1], V[1, -1] = 2**-0.5, 2**-0.5 * 1j
    poles = torch.complex(normal.diagonal().mean().expand(pairs), imaginary[:pairs])
    B_pairs = V.mH @ B.to(V.dtype)
    if B_clip is not None:
        B_pairs = torch.complex(B_pairs.real, B_pairs.imag.clamp(-B_clip, B_clip))
    return NPLR(poles, (V.mH @ P.mT.to(V.dtype)).mT, B_pairs, V)
