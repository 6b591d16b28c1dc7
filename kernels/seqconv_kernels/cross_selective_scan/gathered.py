"""The cross scan as one selective scan, of inputs that are gathered along the orders: for every device.

The directions are groups of channels of one call; a gather puts their inputs in the order of the scan, another one
their outputs back at their places. Costs ``directions`` copies of the input and of the output.
"""

from torch import Tensor

from .._core.constants import once_per_tensor
from .._core.directions import directions_along, scan, spread, unscan
from .._core.precision import accumulation_dtype
from ..selective_scan import selective_scan
from .spec import Inputs

_along = once_per_tensor(directions_along)
"""The orders of an image serve every layer and step."""


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
