"""HiPPO: matrices of online function approximation (Gu et al., 2020 and 2023), and their normal plus low-rank form.

``x' = A x + B u`` keeps the coefficients of the input's history in a basis of functions, orthogonal under a
measure. For most measures a matrix P of low rank makes ``A + P^T P = c I + S`` with S skew-symmetric: normal, hence
unitarily diagonalisable, ``A = V (Lambda - (V* P)(V* P)*) V*``. A itself must never be diagonalised: its
eigenvectors are exponentially ill-conditioned.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Complex128, Float64
from torch import Tensor

from seqconv_kernels.errors import refusal, unknown_name


def _steps(d_state: int) -> Tensor:
    return torch.arange(d_state, dtype=torch.float64)


def _legs(n: int) -> tuple[Tensor, Tensor]:
    """Scaled Legendre: A_nk = -sqrt((2n+1)(2k+1)) below the diagonal, -(n+1) on it."""
    r = (2 * _steps(n) + 1).sqrt()
    return -(torch.outer(r, r).tril(-1) + torch.diag(_steps(n) + 1)), r


MEASURES: Mapping[str, Callable[[int], tuple[Tensor, Tensor]]] = {"legs": _legs}


def _legs_correction(n: int) -> Tensor:
    return (_steps(n) + 0.5).sqrt()[None]


CORRECTIONS: Mapping[str, Callable[[int], Tensor]] = {"legs": _legs_correction}


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


def transition(measure: str, d_state: int) -> tuple[Float64[Tensor, "d_state d_state"], Float64[Tensor, " d_state"]]:
    """The matrices (A, B) of a measure.

    Raises:
        ValueError: unknown measure.
    """
    if measure not in MEASURES:
        raise unknown_name("hippo.transition", "measure", measure, MEASURES)
    return MEASURES[measure](d_state)


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
        raise refusal(
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
        raise refusal("hippo.nplr", f"d_state={d_state}", "an even number of at least 2", "keep conjugate pairs whole")
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
