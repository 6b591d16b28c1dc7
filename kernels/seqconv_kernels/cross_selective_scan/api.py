"""Selective scans of one input in several orders, summed: the scan of images in VMamba (Liu et al., 2024).

Equation, for each of K directions with parameters and an order ``o_k`` of the places of its own, per channel d and
state n, with ``dt = softplus(delta + delta_bias)`` (or without the softplus) and ``p = o_k[s]``::

    h[s, d, n] = exp(dt[p, k, d] A[k, d, n]) h[s-1, d, n] + dt[p, k, d] B[p, k, n] u[p, d]
    y_k[p, d]  = sum_n C[p, k, n] h[s, d, n] + D[k, d] u[p, d]
    y[p, d]    = sum_k y_k[p, d]

Inputs and outputs stay at their places: a direction and its reverse, or two curves of an image, read the same memory.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._core.checks import check_floating, check_same_dtype, check_shape, readable, widest_under_autocast
from .._core.constants import once_per_tensor
from .._core.errors import argument_error
from .._core.operator.inputs import given_tensors
from .spec import SCAN, Inputs


def cross_selective_scan(
    u: Float[Tensor, "batch length channels"],
    delta: Float[Tensor, "batch length directions channels"],
    A: Float[Tensor, "directions channels d_state"],
    B: Float[Tensor, "batch length directions d_state"],
    C: Float[Tensor, "batch length directions d_state"],
    D: Float[Tensor, "directions channels"] | None = None,
    *,
    orders: Int[Tensor, "*rows directions length"],
    delta_bias: Float[Tensor, "directions channels"] | None = None,
    delta_softplus: bool = False,
    implementation: str | None = None,
) -> Float[Tensor, "batch length channels"]:
    """Scan in all directions and add up the outputs; differentiable in every floating tensor.

    Args:
        u: input.
        delta: time step, before bias and softplus, of every place and direction.
        A: decay rates, usually negative.
        B: input weights, shared by all channels of a direction.
        C: output weights, like ``B``.
        D: weight of the input in the output.
        orders: the place of the input that each step of each direction reads: permutations, of int64, for the whole
            batch, or with an axis ``rows`` in front for every member of the batch.
        delta_bias: added to ``delta``.
        delta_softplus: pass ``delta`` through a softplus.
        implementation: ``"cpu"`` (reads and writes in the orders), ``"gathered"`` (one selective scan of gathered
            inputs by any of its implementations), ``"reference"``, or ``None`` for the fastest that serves.

    Returns:
        y shaped and typed like ``u``; sums, those over the directions too, are in float32 at least.

    Raises:
        ValueError: shapes, dtypes or devices that do not match; orders that are no permutations (on the CPU; elsewhere
            they are not looked at). Values raise nothing.
    """
    wide, delta, B, C = widest_under_autocast(u, delta, B, C)
    orders = orders[None] if orders.dim() == 2 else orders
    y = SCAN(Inputs(wide, delta, A, B, C, D, delta_bias, orders, delta_softplus), _check, implementation)
    return y if y.dtype == u.dtype else y.to(u.dtype)


def _check(operation: str, inputs: Inputs) -> None:
    u, A = inputs.u, inputs.A
    if u.dim() != 3 or u.shape[1] == 0:
        got = f"u of shape {tuple(u.shape)}"
        raise argument_error(operation, got, "(batch, length >= 1, channels)", "add the axes")
    batch, length, channels = u.shape
    if A.dim() != 3 or A.shape[1] != channels or 0 in (A.shape[0], A.shape[2]):
        got, wanted = f"A of shape {tuple(A.shape)}", f"(directions, {channels}, d_state)"
        raise argument_error(operation, got, wanted, "stack the rates of the directions")
    directions, _, d_state = A.shape
    leading, sizes = "batch, length, directions", (batch, length, directions)
    check_shape(operation, "delta", inputs.delta, f"{leading}, channels", (*sizes, channels))
    for name, weights in (("B", inputs.B), ("C", inputs.C)):
        check_shape(operation, name, weights, f"{leading}, d_state", (*sizes, d_state))
    for name, parameter in (("D", inputs.D), ("delta_bias", inputs.delta_bias)):
        check_shape(operation, name, parameter, "directions, channels", (directions, channels))
    _check_orders(operation, inputs.orders, batch, directions, length)
    floating = given_tensors(inputs)
    del floating["orders"]
    check_floating(operation, floating, u.device)
    check_same_dtype(operation, {"u": u, "delta": inputs.delta, "B": inputs.B, "C": inputs.C})
    if inputs.orders.device != u.device:
        got, wanted = f"orders on {inputs.orders.device}", f"the device of u, {u.device}"
        raise argument_error(operation, got, wanted, "move them with .to()")


def _check_orders(operation: str, orders: Tensor, batch: int, directions: int, length: int) -> None:
    if orders.dim() != 3 or orders.shape[0] not in (1, batch) or tuple(orders.shape[1:]) != (directions, length):
        got = f"orders of shape {tuple(orders.shape)}"
        wanted = f"({directions}, {length}), or that for each of {batch} members of the batch"
        raise argument_error(operation, got, wanted, "stack one order of all places for each direction")
    if orders.dtype != torch.int64:
        raise argument_error(operation, f"orders of dtype {orders.dtype}", "int64", "convert them with .long()")
    if readable(orders) and not _are_permutations(orders):
        got, wanted = "an order that misses a place", f"permutations of 0 .. {length - 1}"
        raise argument_error(operation, got, wanted, "visit every place once in each direction")


@once_per_tensor
def _are_permutations(orders: Tensor) -> bool:
    least, most = orders.aminmax()
    if least < 0 or most >= orders.shape[2]:
        return False
    return bool(torch.zeros_like(orders, dtype=torch.bool).scatter_(2, orders, True).all())
