"""Distilling impulse responses: the whole way from taps to a certified modal filter."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from .certificates.certificate import frequency_maximum
from .fitting.gradient_mode import with_gradients
from .fitting.modes import put
from .task import ORDERS, Distilled, FilterTask, Method, Norm, filter_task

HEADS = (64, 256)
"""Exact heads that are tried where a tolerance is missed without one."""


@with_gradients
def distill_filter(
    h: Float[Tensor, "channels length"],
    order: int | None = None,
    tolerance: float | None = None,
    *,
    method: Method = "best",
    norm: Norm = "hinf",
    fir_head: int | None = None,
    refine_steps: int | None = None,
    dtype: torch.dtype = torch.float32,
    weight: Float[Tensor, "channels bins"] | None = None,
    beyond: Float[Tensor, " channels"] | None = None,
    within: int | None = None,
) -> Distilled:
    """Find a small recurrence with (nearly) the given impulse responses, and certify its error.

    Args:
        h: impulse responses, lag 0 first.
        order: real order of every channel's recurrence.
        tolerance: H-infinity error allowed, relative to the filter's own; each channel takes the smallest of
            :data:`ORDERS` that is proven to meet it, after the shortest of :data:`HEADS` with which the most channels
            can. A channel that misses it keeps the largest order, and its ``certificate.met`` is False.
        method: ``"kung-varpro"`` (shift invariance of the Hankel matrix, then least squares refined by variable
            projection), ``"balanced"``, ``"era"``, ``"aaa"``, ``"prony"``, ``"gradient"`` (for comparison; the last one
            is slow), or ``"best"``: per channel whichever of the first four, and of the first for ``norm="l2"``, has
            the smallest proven bound, and a lower order where that is no worse.
        norm: error to keep small where the two differ: the half section of the Hankel matrix serves ``"hinf"``,
            and next to it tall ones, which weight early taps more, may serve ``"l2"`` better.
        fir_head: leading taps kept exactly; at least 1, the tap at lag 0. By default 1, and longer ones are tried
            only for a tolerance that is missed.
        refine_steps: steps of the variable projection, which lower the l2 error; by default 6, and 20 for ``"l2"``.
        dtype: of the parameters of the result; the fit is always in float64.
        weight: power spectrum at frequencies from 0 to half the sampling rate, ``length + 1`` of them, that the
            squared error is weighted with when the residues are solved; usually that of the input.
        beyond: bound of the sum of the absolute taps after those in ``h``, which the certificate then includes; 0 for a
            filter that ends with ``h``.
        within: longest context of interest: only the first ``within`` taps are fitted, orders are chosen and a
            tolerance is met by ``window_bound``; only the other bounds hold for longer contexts.

    Raises:
        ValueError: not two axes, fewer than 2 taps, taps that are not finite, neither or both of order and
            tolerance, an order below 1, a tolerance outside (0, 1), a head outside [1, length), unknown method, a
            context within which there are fewer than 2 taps, parameters beyond the range of ``dtype``.
    """
    _check_request(order, tolerance)
    if within is not None:
        h, beyond = _first_taps(h, beyond, within)
    task_after = partial(
        filter_task,
        h,
        order or ORDERS[-1],
        method=method,
        norm=norm,
        refine_steps=refine_steps,
        dtype=dtype,
        weight=weight,
        beyond=beyond,
        window_only=within is not None,
    )
    task = task_after(fir_head=fir_head)
    if order is not None:
        modes, notes = task.fit(order)
        return task.finish(modes, None, notes)
    assert tolerance is not None
    first = _to_tolerance(task, tolerance)
    if fir_head is not None:
        return first
    return _after_longer_heads(task_after, first, tolerance, h.shape[1])


def _after_longer_heads(
    task_after: Callable[..., FilterTask], best: Distilled, tolerance: float, length: int
) -> Distilled:
    """With the shortest head after which the most channels meet the tolerance."""
    for head in (taps for taps in HEADS if 2 * taps < length):
        met = int(best.certificate.met.sum())
        if met == len(best.certificate.met):
            break
        task = task_after(fir_head=head)
        if int(_possible(task, ORDERS[-1], tolerance).sum()) > met:
            note = f"{head} exact taps, since shorter heads miss the tolerance in more channels"
            found = _to_tolerance(task, tolerance, (note,))
            best = found if int(found.certificate.met.sum()) > met else best
    return best


def _to_tolerance(task: FilterTask, tolerance: float, notes: tuple[str, ...] = ()) -> Distilled:
    """Try the orders in turn on the channels not yet certified, skipping those that the lower bound rules out."""
    modes = task.no_modes(ORDERS[-1] + 1)
    unmet = torch.ones(len(task.taps), dtype=torch.bool)
    for order in (0, *ORDERS):
        rows = (unmet & (_possible(task, order, tolerance) | (order == ORDERS[-1]))).nonzero().flatten()
        if len(rows):
            part = task.rows(rows)
            found = part.fit(order, modes.rows(rows))[0]
            put(modes, rows, found)
            unmet[rows] = ~part.certify(found, tolerance).met
    return task.finish(modes, tolerance, notes)


def _possible(task: FilterTask, order: int, tolerance: float) -> Bool[Tensor, " channels"]:
    """The channels that the lower bound does not keep from the tolerance at that order."""
    sigma = task.subspace.values
    if order >= sigma.shape[1]:
        return torch.ones(len(sigma), dtype=torch.bool)
    return sigma[:, order] <= tolerance * frequency_maximum(task.taps)


def _first_taps(h: Tensor, beyond: Tensor | None, within: int) -> tuple[Tensor, Tensor]:
    """The taps within a context, and the bound of all others."""
    if within < 2 or h.dim() != 2:
        got = f"within={within} and h of shape {tuple(h.shape)}"
        raise argument_error("distill_filter", got, "at least 2 taps of (channels, length)", "raise within")
    left_out = h[:, within:].detach().double().abs().sum(1).cpu()
    return h[:, :within], left_out if beyond is None else left_out + beyond.cpu()


def _check_request(order: int | None, tolerance: float | None) -> None:
    if (order is None) == (tolerance is None):
        got = f"order={order} and tolerance={tolerance}"
        raise argument_error("distill_filter", got, "one of the two", "pass an order, or a tolerance to find orders by")
    if order is not None and order < 1:
        raise argument_error("distill_filter", f"order={order}", "at least 1", "raise the order")
    if tolerance is not None and not 0 < tolerance < 1:
        raise argument_error("distill_filter", f"tolerance={tolerance}", "a share between 0 and 1", "pass, say, 1e-3")
