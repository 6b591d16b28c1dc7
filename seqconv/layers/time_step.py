"""Initial time steps of selective scans, and the parameters that generic training code must leave alone."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error


def time_step_bias(size: int, dt_min: float, dt_max: float, floor: float) -> Float[Tensor, " size"]:
    """Biases whose softplus is spread between ``dt_min`` and ``dt_max``, evenly in the logarithm, ``floor`` at least.

    Raises:
        ValueError: not ``0 < dt_min <= dt_max``, or ``floor <= 0``.
    """
    if not 0 < dt_min <= dt_max or floor <= 0:
        got = f"dt_min={dt_min}, dt_max={dt_max}, dt_init_floor={floor}"
        raise argument_error(
            "time_step_bias", got, "0 < dt_min <= dt_max and a floor above 0", "correct the time steps"
        )
    logarithms = math.log(dt_min) + torch.rand(size) * (math.log(dt_max) - math.log(dt_min))
    dt = logarithms.exp().clamp(min=floor)
    return dt + (-torch.expm1(-dt)).log()


def no_weight_decay(*parameters: nn.Parameter) -> None:
    """Mark parameters that are no weights: no weight decay, and no reinitialisation by a model around them."""
    for parameter in parameters:
        parameter._optim = {"weight_decay": 0.0}  # type: ignore[attr-defined]
        parameter._no_reinit = True  # type: ignore[attr-defined]
