"""The work on one filter: which channels, which method, and the steps from taps to modes."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from ..filters.state_space.modal import ModalFilter
from .certificates.certificate import Certificate, certify
from .certificates.hankel import Subspace, leading_subspace
from .checks import check_fit, checked_taps
from .fitting.closed_form import POLES
from .fitting.gradient import gradient_descent
from .fitting.minimax import level_poles, peak
from .fitting.modes import Modes, keep_smaller, put, to_modes
from .fitting.parallel import in_blocks
from .fitting.poles import balanced, kung, tall_window
from .fitting.second_order import from_poles
from .fitting.varpro import errors, refine

Method = Literal["best", "kung-varpro", "gradient", "balanced", "era", "aaa", "prony"]

Norm = Literal["hinf", "l2"]

ORDERS = (2, 4, 8, 16, 32, 64)
"""Orders that a tolerance or a budget is tried on."""

STEPS: dict[Norm, int] = {"hinf": 6, "l2": 20}
"""Steps of the variable projection."""

BLOCK = 1 << 17
"""Numbers in the bases of channels that are taken together."""

TOO_FAR = 2.3
"""Multiple of the Hankel bound above which poles are equalised too."""

RESOLVED = 4
"""Multiples of the rounding of the stored parameters below which no error is equalised."""

ONE_GO: tuple[Method, ...] = ("balanced", "era", "aaa")
"""Methods without refinement that ``"best"`` chooses from too; of filters of few taps the first alone, since the others
need twice as many as the order."""

SHARED = 16
"""Orders up to this one are fitted in the same subspace."""

RANK = 1e-13
"""Singular values below this share of the largest count as zero."""


@dataclass(frozen=True)
class Distilled:
    """A distilled filter and what is proven about it."""

    filter: ModalFilter
    certificate: Certificate


@dataclass(frozen=True)
class FilterTask:
    """What is distilled and how; :meth:`rows` narrows it to some channels."""

    taps: Float[Tensor, "channels length"]
    head: int
    method: Method
    norm: Norm
    steps: int
    dtype: torch.dtype
    subspace: Subspace
    weight: Float[Tensor, "channels bins"] | None
    beyond: Float[Tensor, " channels"]
    window_only: bool = False

    def rows(self, index: Tensor) -> "FilterTask":
        """The same task for some of the channels."""
        subspace = Subspace(self.subspace.values[index], self.subspace.vectors[index])
        weight = None if self.weight is None else self.weight[index]
        return replace(self, taps=self.taps[index], subspace=subspace, weight=weight, beyond=self.beyond[index])

    def no_modes(self, width: int = 1) -> Modes:
        """No recurrence at all, in the shape of ``width`` modes per channel."""
        return Modes(*torch.zeros(2, len(self.taps), width, dtype=torch.complex128))

    def fit(self, order: int, lower: Modes | None = None) -> tuple[Modes, tuple[str, ...]]:
        """Modes of one order for every channel; channels of lower numerical rank are fitted at their rank.

        Args:
            lower: what this found for the next lower of :data:`ORDERS`, where that is known; else ``"best"`` fits the
                lower orders again.
        """
        if self.method != "best":
            return self._fit_method(order)
        modes, notes = self._with("kung-varpro")._fit_method(order)
        # A weight or squared errors ask for something else than the H-infinity error that bounds compare.
        if order and self.norm == "hinf" and self.weight is None:
            self._choose(modes, order, lower)
        return modes, notes

    def bounds(self, modes: Modes) -> Float[Tensor, " channels"]:
        """Proven H-infinity error of these modes as stored: that which a tolerance is compared with."""
        certificate = self.certify(modes, None)
        bound = certificate.window_bound if self.window_only else certificate.hinf_bound
        return bound.nan_to_num(torch.inf)  # residues beyond the range of the dtype

    def lower_bounds(self, order: int) -> Float[Tensor, " channels"]:
        """H-infinity error that no recurrence of that order can stay below."""
        sigma = self.subspace.values
        return sigma[:, order] if order < sigma.shape[1] else torch.zeros_like(sigma[:, 0])

    def _with(self, method: Method, norm: Norm | None = None) -> "FilterTask":
        steps = self.steps if norm is None else STEPS[norm]
        return replace(self, method=method, norm=norm or self.norm, steps=steps)

    def _choose(self, modes: Modes, order: int, lower: Modes | None) -> None:
        """Put per channel what has the smallest bound, of all ways to fit and of :data:`ORDERS` up to this one.

        The next lower order is fitted, to all channels, where its lower bound leaves the possibility that it is better
        for one: exactly as if that order had been asked for. For some filters (combs, whose singular values coincide)
        fits depend on roundings, which fits to some of the channels alone would not repeat.
        """
        least, lowest = self.bounds(modes), self.lower_bounds(order)
        rows = (least > lowest).nonzero().flatten()
        for method in ONE_GO if 2 * order <= self.taps.shape[1] - self.head else ONE_GO[:1]:
            self._improve(modes, least, rows, self._with(method), order)
        poor = (least > TOO_FAR * lowest).nonzero().flatten()
        self._improve(modes, least, poor, self._with("kung-varpro", "l2"), order)
        if lower is not None:
            keep_smaller(modes, least, torch.arange(len(least)), lower, self.bounds(lower))
        elif order > ORDERS[0]:
            before = max(d for d in ORDERS if d < order)
            if bool((least > self.lower_bounds(before)).any()):
                task = self if order <= SHARED else replace(self, subspace=_subspace(self.taps[:, self.head :], before))
                found = task.fit(before)[0]
                keep_smaller(modes, least, torch.arange(len(least)), found, self.bounds(found))

    def _improve(self, modes: Modes, least: Tensor, rows: Tensor, other: "FilterTask", order: int) -> None:
        """Take what another task finds for some rows where its bound is smaller, in place."""
        if len(rows):
            part = other.rows(rows)
            found = part._fit_method(order)[0]
            keep_smaller(modes, least, rows, found, part.bounds(found))

    def _fit_method(self, order: int) -> tuple[Modes, tuple[str, ...]]:
        values = self.subspace.values
        rank = (values > RANK * values[:, :1]).sum(1).clamp_max(order)
        modes = self.no_modes(order + 1)
        for d in rank.unique().tolist():
            if d:
                rows = rank == d
                found = self.rows(rows)._fit_equal(d)
                put(modes, rows, found)
        low = int((rank < order).sum())
        note = f"{low} of {len(rank)} channels have a numerical rank below {order} and were fitted at their rank"
        return modes, (note,) if low else ()

    def _fit_equal(self, order: int) -> Modes:
        """Modes of one order within everybody's rank, for as many channels at a time as the cache holds."""
        length = order * self.taps.shape[1]
        parts = in_blocks(lambda few: self.rows(few)._fit_scaled(order), len(self.taps), length, numbers=BLOCK)
        width = max(part.poles.shape[1] for part in parts)
        modes, start = self.no_modes(width), 0
        for part in parts:
            put(modes, torch.arange(start, start + len(part.poles)), part)
            start += len(part.poles)
        return modes

    def _fit_scaled(self, order: int) -> Modes:
        """The same at a scale where squares neither vanish nor overflow."""
        g = self.taps[:, self.head :]
        scale = g.abs().amax(1, keepdim=True)
        poles, residues = self._fit_block(g / scale, self.subspace.values / scale, order)
        return Modes(poles, residues * scale)

    def _fit_block(self, g: Float[Tensor, "channels length"], sigma: Float[Tensor, "channels k"], order: int) -> Modes:
        if self.method == "gradient":
            return Modes(*gradient_descent(g, order))
        if self.method != "kung-varpro":
            return self._solve(from_poles(POLES[self.method](g, order)), g)
        best = from_poles(kung(self.subspace.vectors, order))
        if self.norm == "l2":
            least = errors(best, g)
            for rows in (r for r in (3 * order // 2, 3 * order, 8 * order) if order < r <= g.shape[1] // 2):
                other = from_poles(tall_window(g, order, rows))
                error = errors(other, g)
                best = torch.where((error < least)[:, None, None], other, best)
                least = torch.minimum(error, least)
        best = refine(best, g, self.steps)
        if self.norm == "l2" or self.weight is not None or order >= sigma.shape[1]:
            return self._solve(best, g)
        resolved = RESOLVED * torch.finfo(self.dtype).eps * sigma[:, 0]
        return self._level(best, g, order, torch.maximum(sigma[:, order], resolved))

    def _level(
        self, blocks: Float[Tensor, "channels blocks 2"], g: Float[Tensor, "channels length"], order: int, bound: Tensor
    ) -> Modes:
        """Modes whose error is equalised where it lies too far above the bound, from two starts if need be."""
        modes = self.no_modes(2 * blocks.shape[1])
        put(modes, torch.arange(len(g)), self._solve(blocks, g, bound))
        for start in ("here", "balanced"):
            far = (peak(g - modes.response(g.shape[1])) > TOO_FAR * bound).nonzero().flatten()
            if not len(far):
                break
            there = blocks[far] if start == "here" else from_poles(balanced(g[far], order))
            other = self._solve(level_poles(there, g[far]), g[far], bound[far])
            peaks = [peak(g[far] - m.response(g.shape[1])) for m in (modes.rows(far), other)]
            lower = peaks[1] < peaks[0]
            put(modes, far[lower], other.rows(lower))
        return modes

    def _solve(self, blocks: Tensor, g: Tensor, bound: Tensor | None = None) -> Modes:
        return Modes(*to_modes(blocks, g, dtype=self.dtype, weight=self.weight, bound=bound))

    def modal(self, modes: Modes) -> ModalFilter:
        """The filter with these modes after the exact head."""
        used = (modes.residues != 0).any(0).nonzero()
        count = int(used.max()) + 1 if len(used) else 1
        return ModalFilter(modes.poles[:, :count], modes.residues[:, :count], self.taps[:, : self.head]).to(self.dtype)

    def certify(self, modes: Modes, tolerance: float | None, notes: tuple[str, ...] = ()) -> Certificate:
        """The certificate of these modes."""
        values, modal = self.subspace.values, self.modal(modes)
        return certify(
            self.taps, modal, values,
            tolerance=tolerance, beyond=self.beyond, window_only=self.window_only, notes=notes,
        )  # fmt: skip

    def finish(self, modes: Modes, tolerance: float | None, notes: tuple[str, ...]) -> Distilled:
        """The filter and its certificate.

        Raises:
            ValueError: parameters beyond the range of the dtype.
        """
        modal = self.modal(modes)
        infinite = ~(modal.residues.isfinite().all(2).all(1) & modal.head.isfinite().all(1))
        if bool(infinite.any()):
            largest, rows = float(self.taps[infinite].abs().max()), infinite.nonzero().flatten().tolist()
            got = f"taps of size {largest:.1e}, whose residues overflow {self.dtype}, in channels {rows[:8]}"
            remedy = "pass dtype=torch.float64, or scale the filter down"
            raise argument_error("distill_filter", got, "parameters within the range of the dtype", remedy)
        certificate = self.certify(modes, tolerance, notes)
        failed = int((~certificate.met).sum())
        if failed:
            note = f"{failed} of {len(self.taps)} channels cannot be distilled to {tolerance:g} by order {ORDERS[-1]}"
            certificate = replace(certificate, notes=(*notes, note))
        return Distilled(modal, certificate)


def filter_task(
    h: Float[Tensor, "channels length"],
    largest: int,
    *,
    method: Method = "best",
    norm: Norm = "hinf",
    fir_head: int | None = None,
    refine_steps: int | None = None,
    dtype: torch.dtype = torch.float32,
    weight: Float[Tensor, "channels bins"] | None = None,
    beyond: Float[Tensor, " channels"] | None = None,
    window_only: bool = False,
) -> FilterTask:
    """Check what was asked for and decompose the Hankel matrices up to order ``largest``; arguments and errors as
    :func:`~seqconv.distill.distill_filter`.
    """
    for kind, name, known in (("method", method, get_args(Method)), ("norm", norm, get_args(Norm))):
        if name not in known:
            raise unknown_name("distill_filter", kind, name, known)
    head = 1 if fir_head is None else fir_head
    taps = checked_taps(h, head)
    check_fit(taps, dtype, weight, beyond, refine_steps)
    subspace = _subspace(taps[:, head:], largest)
    steps = STEPS[norm] if refine_steps is None else refine_steps
    missing = taps.new_zeros(len(taps)) if beyond is None else beyond.detach().cpu().double()
    return FilterTask(taps, head, method, norm, steps, dtype, subspace, weight, missing, window_only)


def _subspace(g: Tensor, order: int) -> Subspace:
    scale = g.abs().amax(1, keepdim=True)
    found = leading_subspace(g / torch.where(scale > 0, scale, torch.ones_like(scale)), max(order, SHARED) + 1)
    return Subspace(found.values[:, : order + 1] * scale, found.vectors)
