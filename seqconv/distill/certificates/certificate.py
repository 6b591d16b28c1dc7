"""What is proven about a distilled filter, per channel.

With ``e = h - h_d`` on the window ``t < T`` and E its spectrum, every input u within the window satisfies
``max|y - y_d| <= l1 max|u|``, ``||y - y_d||_2 <= hinf ||u||_2`` and ``max|y - y_d| <= l2 ||u||_2``. Beyond the
window the original is zero and the recurrence adds at most ``tail`` to l1, and so to the H-infinity error.
All errors are those of the parameters as stored, and hold up to the rounding of float64. Computing with a state in
the dtype of the parameters adds at most ``rounding max|u|`` to an output, to first order in its precision; no other
bound includes that.
Whatever the method, no recurrence of order d after the same head has an H-infinity error below
``sigma_{d+1}`` of the Hankel section (Adamjan, Arov and Krein 1971).
"""

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...filters.state_space.diagonal import DiagonalSSM
from ...filters.state_space.modal import ModalFilter
from ..fitting.parallel import in_blocks

OVERSAMPLING = 8
"""Points of the frequency grid per tap, at least."""

BLOCK = 1 << 18
"""Numbers in the spectra of channels that are taken together."""


@dataclass(frozen=True)
class Certificate:
    """Errors of a distillation and the bounds that no distillation can beat; one entry per channel.

    Attributes:
        order: real order of the recurrence (a conjugate pair counts two).
        singular_values: leading Hankel singular values of the filter after its head.
        lower_bound: sigma_{order+1}: no recurrence of that order has a smaller H-infinity error.
        l1, l2: norms of the error on the window.
        hinf: largest error of the frequency response that was measured on the grid.
        hinf_bound: proven upper bound of the H-infinity error at any length, the tail included.
        window_bound: the same for inputs and outputs within the window alone, without a tail.
        rounding: what the rounding of a decoding state adds to ``max|y - y_d|`` at most, per ``max|u|``.
        tail: bound on the l1 norm of what the recurrence adds beyond the window.
        norm_l2, norm_hinf: norms of the filter itself, the latter on the grid.
        minimum_order: smallest order that any method could meet the tolerance with; -1 where it lies beyond
            the singular values that were computed, or no tolerance was asked for.
        met: whether ``hinf_bound`` (``window_bound``, if the tolerance is for the window) is at most
            ``tolerance * norm_hinf``; True where no tolerance was asked for.
        tolerance: relative H-infinity error that was asked for.
        notes: what was decided on the way, in words.
    """

    order: Int[Tensor, " channels"]
    singular_values: Float[Tensor, "channels k"]
    lower_bound: Float[Tensor, " channels"]
    l1: Float[Tensor, " channels"]
    l2: Float[Tensor, " channels"]
    hinf: Float[Tensor, " channels"]
    hinf_bound: Float[Tensor, " channels"]
    window_bound: Float[Tensor, " channels"]
    rounding: Float[Tensor, " channels"]
    tail: Float[Tensor, " channels"]
    norm_l2: Float[Tensor, " channels"]
    norm_hinf: Float[Tensor, " channels"]
    minimum_order: Int[Tensor, " channels"]
    met: Bool[Tensor, " channels"]
    tolerance: float | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = (
            f"{'channel':>7} {'order':>5} {'needed':>6} {'sigma':>9} {'hinf':>9} {'bound':>9} {'l2':>9} {'tail':>9} met"
        )
        lines = [head]
        for c in range(len(self.order)):
            scale, energy = self.norm_hinf[c].clamp_min(1e-300), self.norm_l2[c].clamp_min(1e-300)
            shares = (self.lower_bound[c] / scale, self.hinf[c] / scale, self.hinf_bound[c] / scale)
            numbers = " ".join(f"{float(x):9.2e}" for x in (*shares, self.l2[c] / energy, self.tail[c] / scale))
            needed = int(self.minimum_order[c])
            lines.append(
                f"{c:7d} {int(self.order[c]):5d} {needed if needed >= 0 else '-':>6} {numbers} {bool(self.met[c])}"
            )
        return "\n".join([*lines, "errors relative to the filter's own norm", *self.notes])

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name, to be saved with a checkpoint."""
        return {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}


def certify(
    h: Float[Tensor, "channels length"],
    modal: ModalFilter,
    singular_values: Float[Tensor, "channels k"],
    *,
    tolerance: float | None = None,
    beyond: Float[Tensor, " channels"] | None = None,
    window_only: bool = False,
    notes: tuple[str, ...] = (),
) -> Certificate:
    """Measure a modal filter, with its parameters as they are stored, against the filter it replaces.

    Args:
        h: the filter, float64.
        modal: its distillation.
        singular_values: of ``h`` after the head of ``modal``, largest first.
        beyond: bound of the sum of the filter's absolute taps after those in ``h``; zero if not given.
        window_only: the tolerance is for inputs and outputs within the window.

    Raises:
        ValueError: channels that do not match.
    """
    if modal.channels != h.shape[0]:
        raise argument_error(
            "certify", f"{modal.channels} channels", f"{h.shape[0]}", "pass the filter that was distilled"
        )
    ssm = modal.in_float64()
    error = h - ssm.impulse_response(h.shape[1])
    hinf, norm_hinf, factor = frequency_maximum(error), frequency_maximum(h), _grid_factor(h.shape[1])
    magnitude = ssm.poles.abs()
    reach = 0 if ssm.head is None else ssm.head.shape[1]
    remaining = magnitude ** max(0, h.shape[1] - reach) / (1 - magnitude)
    tail = (ssm.residues.abs() * remaining).sum(1)
    order = (torch.where(ssm.poles.imag != 0, 2, 1) * (ssm.residues != 0)).sum(1)
    padded = torch.nn.functional.pad(singular_values, (0, 1))
    lower = padded.gather(1, order[:, None].clamp_max(padded.shape[1] - 1))[:, 0]
    missing = torch.zeros_like(tail) if beyond is None else beyond
    bound, least_norm = factor * hinf + tail + missing, (norm_hinf - missing).clamp_min(0)
    needed = torch.full_like(order, -1)
    if tolerance is not None:
        small = singular_values <= tolerance * norm_hinf[:, None]
        needed = torch.where(small.any(1), small.int().argmax(1), needed)
        if singular_values.shape[1] == (h.shape[1] - reach + 1) // 2:  # all of them: after the last comes zero
            needed = torch.where(small.any(1), needed, singular_values.shape[1])
    met = torch.ones_like(order, dtype=torch.bool)
    if tolerance is not None:
        met = factor * hinf <= tolerance * norm_hinf if window_only else bound <= tolerance * least_norm
    rounding = _rounding(ssm, torch.finfo(modal.residues.dtype).eps)
    l1, l2 = error.abs().sum(1), error.norm(dim=1)
    return Certificate(
        order, singular_values, lower, l1, l2, hinf, bound, factor * hinf, rounding, tail,
        h.norm(dim=1), norm_hinf, needed, met, tolerance, notes,
    )  # fmt: skip


def _rounding(ssm: DiagonalSSM, eps: float) -> Float[Tensor, " channels"]:
    """Bound of what rounding every operation of ``x += offset x + u, y = head . u + Re sum residue x`` adds to y.

    For ``|u| <= 1``:

    ``|x| <= 1 / (1 - |pole|) = m``. A step rounds a complex product (3 eps |offset| m), the sum with u and that with x
    (2 eps m together with the product): an error that decays like the state, so m steps of it add up. The output
    rounds products and a sum of as many terms as there are modes and taps of the head.
    """
    terms = ssm.offsets.shape[1] + 3 + (0 if ssm.head is None else ssm.head.shape[1])
    longest = 1 / (1 - (1 + ssm.offsets).abs())
    step = eps * (3 * ssm.offsets.abs() + 3) * longest
    modes = (ssm.residues.abs() * (step * longest + eps * terms * longest)).sum(1)
    return modes if ssm.head is None else modes + eps * terms * ssm.head.abs().sum(1)


def _grid_size(length: int) -> int:
    return int(1 << (OVERSAMPLING * length - 1).bit_length())


def _grid_factor(length: int) -> float:
    """By how much |E| can exceed its maximum over the N points of the grid.

    ``|E|^2`` is a trigonometric polynomial of degree n = T - 1 between 0 and its maximum M, so by Riesz' lemma it
    falls off from there no faster than ``M cos^2(n x / 2)``, and a point of the grid lies within ``x = pi / N``.
    """
    return 1 / math.cos(math.pi * (length - 1) / (2 * _grid_size(length)))


def frequency_maximum(h: Float[Tensor, "channels length"]) -> Float[Tensor, " channels"]:
    """Largest magnitude of the frequency response on the grid."""
    size = _grid_size(h.shape[1])
    return torch.cat(in_blocks(lambda few: _maximum(h[few], size), len(h), size, numbers=BLOCK))


def _maximum(h: Float[Tensor, "channels length"], size: int) -> Float[Tensor, " channels"]:
    magnitude: Tensor = torch.fft.rfft(h, n=size).abs()
    return magnitude.amax(1)
