"""Distilling impulse responses: the whole way from taps to a certified modal filter."""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from seqconv_kernels.errors import refusal, unknown_name

from ..filters.modal import ModalFilter
from . import blocks as block_fit
from .certificate import Certificate, certify, frequency_maximum
from .gradient import gradient_descent
from .hankel import Subspace, leading_subspace
from .poles import balanced, kung, prony, tall_window

Method = Literal["kung-varpro", "gradient", "balanced", "prony"]

Norm = Literal["hinf", "l2"]

ORDERS = (2, 4, 8, 16, 32, 64)
"""Orders that a tolerance is tried on."""

RANK = 1e-13
"""Singular values below this share of the largest count as zero."""


@dataclass(frozen=True)
class Distilled:
    """A distilled filter and what is proven about it."""

    filter: ModalFilter
    certificate: Certificate


class Modes(NamedTuple):
    """Poles and residues, one mode per conjugate pair."""

    poles: Complex[Tensor, "channels modes"]
    residues: Complex[Tensor, "channels modes"]


def distill_filter(
    h: Float[Tensor, "channels length"],
    order: int | None = None,
    tolerance: float | None = None,
    *,
    method: Method = "kung-varpro",
    norm: Norm = "hinf",
    fir_head: int = 1,
    refine_steps: int = 6,
    dtype: torch.dtype = torch.float32,
) -> Distilled:
    """Find a small recurrence with (nearly) the given impulse responses, and certify its error.

    Args:
        h: impulse responses, lag 0 first.
        order: real order of every channel's recurrence.
        tolerance: H-infinity error allowed, relative to the filter's own; each channel takes the smallest of
            :data:`ORDERS` that is proven to meet it. A channel that none meets keeps the largest, and its
            ``certificate.met`` is False.
        method: ``"kung-varpro"`` (shift invariance of the Hankel matrix, then least squares refined by variable
            projection), ``"balanced"``, ``"prony"``, or ``"gradient"`` (slow; for comparison).
        norm: error to keep small where the two differ: the half section of the Hankel matrix serves ``"hinf"``,
            and beside it a tall one, which weights early taps more, may serve ``"l2"`` better.
        fir_head: leading taps kept exactly; at least 1, the tap at lag 0.
        refine_steps: steps of the variable projection.
        dtype: of the parameters of the result; the fit is always in float64.

    Raises:
        ValueError: not two axes, fewer than 2 taps, taps that are not finite, neither or both of order and
            tolerance, an order below 1, a tolerance outside (0, 1), a head outside [1, length), unknown method.
    """
    _check_request(order, tolerance, method, norm)
    taps = _check_taps(h, fir_head)
    task = _Task(taps, fir_head, method, norm, refine_steps, dtype, _subspace(taps[:, fir_head:], order or ORDERS[-1]))
    if order is not None:
        modes, notes = task.fit(order)
        return task.finish(modes, None, notes)
    assert tolerance is not None
    return task.finish(_to_tolerance(task, tolerance), tolerance, ())


@dataclass(frozen=True)
class _Task:
    """What is distilled and how; :meth:`rows` narrows it to some channels."""

    taps: Float[Tensor, "channels length"]
    head: int
    method: Method
    norm: Norm
    steps: int
    dtype: torch.dtype
    subspace: Subspace

    def rows(self, index: Tensor) -> "_Task":
        subspace = Subspace(self.subspace.values[index], self.subspace.vectors[index])
        return replace(self, taps=self.taps[index], subspace=subspace)

    def fit(self, order: int) -> tuple[Modes, tuple[str, ...]]:
        """Modes of one order for every channel; channels of lower numerical rank are fitted at their rank."""
        g, values = self.taps[:, self.head :], self.subspace.values
        rank = (values > RANK * values[:, :1]).sum(1).clamp_max(order)
        modes = Modes(*torch.zeros(2, g.shape[0], order + 1, dtype=torch.complex128))
        for d in rank.unique().tolist():
            if d:
                rows = rank == d
                found = self.rows(rows)._fit_equal(d)
                _put(modes, rows, found)
        low = int((rank < order).sum())
        note = f"{low} of {len(rank)} channels have a numerical rank below {order} and were fitted at their rank"
        return modes, (note,) if low else ()

    def _fit_equal(self, order: int) -> Modes:
        g = self.taps[:, self.head :]
        if self.method == "gradient":
            return Modes(*gradient_descent(g, order))
        cutoff = max(block_fit.CUTOFF, 10 * torch.finfo(self.dtype).eps)
        if self.method != "kung-varpro":
            found = balanced(g, order) if self.method == "balanced" else prony(g, order)
            return Modes(*block_fit.to_modes(block_fit.from_poles(found), g, cutoff))
        best = block_fit.from_poles(kung(self.subspace.vectors, order))
        if self.norm == "l2" and (rows := 3 * order) <= g.shape[1] // 2:
            other = block_fit.from_poles(tall_window(g, order, rows))
            errors = [block_fit.solve(blocks, g).residual.norm(dim=1) for blocks in (best, other)]
            best = torch.where((errors[1] < errors[0])[:, None, None], other, best)
        return Modes(*block_fit.to_modes(block_fit.refine(best, g, self.steps), g, cutoff))

    def modal(self, modes: Modes) -> ModalFilter:
        used = (modes.residues != 0).any(0).nonzero()
        count = int(used.max()) + 1 if len(used) else 1
        return ModalFilter(modes.poles[:, :count], modes.residues[:, :count], self.taps[:, : self.head]).to(self.dtype)

    def finish(self, modes: Modes, tolerance: float | None, notes: tuple[str, ...]) -> Distilled:
        modal = self.modal(modes)
        certificate = certify(self.taps, modal, self.subspace.values, tolerance=tolerance, notes=notes)
        failed = int((~certificate.met).sum())
        if failed:
            note = f"{failed} of {len(self.taps)} channels cannot be distilled to {tolerance:g} by order {ORDERS[-1]}"
            certificate = replace(certificate, notes=(*notes, note))
        return Distilled(modal, certificate)


def _to_tolerance(task: _Task, tolerance: float) -> Modes:
    """Try the orders in turn on the channels not yet certified, skipping those that the lower bound rules out."""
    norm, sigma = frequency_maximum(task.taps), task.subspace.values
    modes = Modes(*torch.zeros(2, len(norm), ORDERS[-1] + 1, dtype=torch.complex128))
    unmet = torch.ones(len(norm), dtype=torch.bool)
    for order in (0, *ORDERS):
        possible = torch.ones_like(unmet) if order >= sigma.shape[1] else sigma[:, order] <= tolerance * norm
        rows = (unmet & (possible | (order == ORDERS[-1]))).nonzero().flatten()
        if len(rows):
            part = task.rows(rows)
            found = part.fit(order)[0]
            _put(modes, rows, found)
            unmet[rows] = ~certify(part.taps, part.modal(found), part.subspace.values, tolerance=tolerance).met
    return modes


def _subspace(g: Tensor, order: int) -> Subspace:
    scale = g.abs().amax(1, keepdim=True)
    found = leading_subspace(g / torch.where(scale > 0, scale, torch.ones_like(scale)), order + 1)
    return Subspace(found.values * scale, found.vectors)


def _put(modes: Modes, rows: Tensor, found: Modes) -> None:
    """Write the modes of some channels, padded with none."""
    for whole, part in zip(modes, found, strict=True):
        whole[rows] = torch.nn.functional.pad(part, (0, whole.shape[1] - part.shape[1]))


def _check_request(order: int | None, tolerance: float | None, method: str, norm: str) -> None:
    for kind, name, known in (("method", method, get_args(Method)), ("norm", norm, get_args(Norm))):
        if name not in known:
            raise unknown_name("distill_filter", kind, name, known)
    if (order is None) == (tolerance is None):
        got = f"order={order} and tolerance={tolerance}"
        raise refusal("distill_filter", got, "one of the two", "pass an order, or a tolerance to find orders by")
    if order is not None and order < 1:
        raise refusal("distill_filter", f"order={order}", "at least 1", "raise the order")
    if tolerance is not None and not 0 < tolerance < 1:
        raise refusal("distill_filter", f"tolerance={tolerance}", "a share between 0 and 1", "pass, say, 1e-3")


def _check_taps(h: Tensor, head: int) -> Float[Tensor, "channels length"]:
    taps = torch.as_tensor(h).detach().cpu().double()
    if taps.dim() != 2 or taps.shape[0] < 1 or taps.shape[1] < 2:
        got, wanted = f"h of shape {tuple(taps.shape)}", "(channels, length) with at least 2 taps"
        raise refusal("distill_filter", got, wanted, "pass impulse responses, lag 0 first")
    if not bool(taps.isfinite().all()):
        bad = (~taps.isfinite()).any(1).nonzero().flatten().tolist()
        got = f"taps that are not finite in channels {bad[:8]}"
        raise refusal("distill_filter", got, "finite taps", "repair the filter")
    if not 1 <= head < taps.shape[1]:
        wanted = f"between 1 and {taps.shape[1] - 1}"
        raise refusal("distill_filter", f"fir_head={head}", wanted, "keep fewer taps exactly than there are")
    return taps
