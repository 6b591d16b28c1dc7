"""The cross scan as one selective scan, of inputs that are gathered along the orders: for every device.

The directions are groups of channels of one call; a gather puts their inputs in the order of the scan, another one
their outputs back at their places. Costs ``directions`` copies of the input and of the output.
"""

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from .._core.directions import Directions, directions_along, scan, spread, unscan
from .._core.native import PLAIN
from .._core.operator.operators import is_observed
from .._core.precision import accumulation_dtype
from ..selective_scan import selective_scan
from .spec import Inputs

_KNOWN = WeakIdKeyDictionary()
"""Indices by the orders that they were made from: those of an image serve every layer and step."""


def cross_selective_scan(inputs: Inputs) -> Tensor:
    """One scan of the channels of all directions."""
    u, A, D, bias = inputs.u, inputs.A, inputs.D, inputs.delta_bias
    along = _along(inputs.orders)
    delta, B, C = (scan(x, along) for x in (inputs.delta, inputs.B, inputs.C))
    y = selective_scan(
        spread(u, along).flatten(2), delta.flatten(2), A.flatten(0, 1), B, C, None if D is None else D.flatten(),
        delta_bias=None if bias is None else bias.flatten(), delta_softplus=inputs.delta_softplus,
    )  # fmt: skip
    assert isinstance(y, Tensor)
    y_at_places = unscan(y.unflatten(-1, (along.num, -1)), along)
    total: Tensor = y_at_places.sum(2, dtype=accumulation_dtype(u)).to(u.dtype)
    return total


def _along(orders: Tensor) -> Directions:
    if is_observed() or type(orders) not in PLAIN or orders.is_inference():
        return directions_along(orders)
    along: Directions | None
    version, along = _KNOWN.get(orders, (None, None))
    if version != orders._version:
        with torch.inference_mode(False):  # what is kept may be saved for a backward pass later
            along = directions_along(orders)
        _KNOWN[orders] = orders._version, along
    assert along is not None
    return along
