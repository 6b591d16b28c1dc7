"""Initial time steps of selective scans: biases whose softplus is spread over a range."""

import math

import torch
from torch import nn

from seqconv_kernels._core.errors import argument_error


def check_time_steps(dt_min: float, dt_max: float, floor: float) -> None:
    """Raise unless ``0 < dt_min <= dt_max`` and ``floor > 0``.

    Raises:
        ValueError: a range that has no logarithm.
    """
    if not 0 < dt_min <= dt_max or floor <= 0:
        got = f"dt_min={dt_min}, dt_max={dt_max}, dt_init_floor={floor}"
        wanted = "0 < dt_min <= dt_max and a floor above 0"
        raise argument_error("initial time steps", got, wanted, "correct the time steps")


@torch.no_grad()
def reset_time_step_bias(bias: nn.Parameter, dt_min: float, dt_max: float, floor: float) -> None:
    """Set a bias so that its softplus is spread between ``dt_min`` and ``dt_max``, evenly in the logarithm.

    Args:
        bias: filled in place.
        floor: least time step.
    """
    dt = bias.uniform_(math.log(dt_min), math.log(dt_max)).exp_().clamp_(min=floor)
    dt.add_((-torch.expm1(-dt)).log())  # inverse of softplus
