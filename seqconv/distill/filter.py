"""Distilling impulse responses: the whole way from taps to a certified modal filter."""

import torch
from jaxtyping import Float
from torch import Tensor

from seqconv_kernels.errors import refusal

from .certificate import certify, frequency_maximum
from .task import ORDERS, Distilled, FilterTask, Method, Modes, Norm, filter_task, put


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
    _check_request(order, tolerance)
    task = filter_task(
        h, order or ORDERS[-1], method=method, norm=norm, fir_head=fir_head, refine_steps=refine_steps, dtype=dtype
    )
    if order is not None:
        modes, notes = task.fit(order)
        return task.finish(modes, None, notes)
    assert tolerance is not None
    return task.finish(_to_tolerance(task, tolerance), tolerance, ())


def _to_tolerance(task: FilterTask, tolerance: float) -> Modes:
    """Try the orders in turn on the channels not yet certified, skipping those that the lower bound rules out."""
    norm, sigma = frequency_maximum(task.taps), task.subspace.values
    modes = task.no_modes(ORDERS[-1] + 1)
    unmet = torch.ones(len(norm), dtype=torch.bool)
    for order in (0, *ORDERS):
        possible = torch.ones_like(unmet) if order >= sigma.shape[1] else sigma[:, order] <= tolerance * norm
        rows = (unmet & (possible | (order == ORDERS[-1]))).nonzero().flatten()
        if len(rows):
            part = task.rows(rows)
            found = part.fit(order)[0]
            put(modes, rows, found)
            unmet[rows] = ~certify(part.taps, part.modal(found), part.subspace.values, tolerance=tolerance).met
    return modes


def _check_request(order: int | None, tolerance: float | None) -> None:
    if (order is None) == (tolerance is None):
        got = f"order={order} and tolerance={tolerance}"
        raise refusal("distill_filter", got, "one of the two", "pass an order, or a tolerance to find orders by")
    if order is not None and order < 1:
        raise refusal("distill_filter", f"order={order}", "at least 1", "raise the order")
    if tolerance is not None and not 0 < tolerance < 1:
        raise refusal("distill_filter", f"tolerance={tolerance}", "a share between 0 and 1", "pass, say, 1e-3")
