"""Time steps of selective scans: width of their bottleneck, initial projections, biases and rates of decay.

Biases begin so that their softplus is spread over a range, rates as ``A = -(1 .. d_state)`` (S4D-Real).

Source: ``mamba_ssm/modules/mamba_simple.py`` of state-spaces/mamba.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

PROJECTIONS = ("random", "constant")
"""Initial projections to the time steps: uniform, or all weights the same."""

CHANNELS_PER_RANK = 16


def time_step_rank(d_model: int, dt_rank: int | Literal["auto"]) -> int:
    """Width of the bottleneck in front of the time step; ``"auto"`` is ⌈d_model / 16⌉."""
    return math.ceil(d_model / CHANNELS_PER_RANK) if dt_rank == "auto" else dt_rank


def check_time_steps(dt_min: float, dt_max: float, floor: float) -> None:
    """Raise unless ``0 < dt_min <= dt_max`` and ``floor > 0``.

    Raises:
        ValueError: a range that has no logarithm.
    """
    if not 0 < dt_min <= dt_max or floor <= 0:
        got = f"dt_min={dt_min}, dt_max={dt_max}, dt_init_floor={floor}"
        wanted = "0 < dt_min <= dt_max and a floor above 0"
        raise argument_error("initial time steps", got, wanted, "correct the time steps")


def check_time_step_projection(mixer: str, dt_init: str) -> None:
    """Raise unless the initial projection has a known name.

    Raises:
        ValueError: another; the nearest are named.
    """
    if dt_init not in PROJECTIONS:
        raise unknown_name(mixer, "dt_init", dt_init, PROJECTIONS)


@torch.no_grad()
def reset_time_step_projection(weight: Tensor, dt_init: str, dt_scale: float) -> None:
    """Fill the projection to the time steps: within ± ``dt_scale`` over the root of its rank, or with that number."""
    bound = dt_scale * weight.shape[-1] ** -0.5
    if dt_init == "constant":
        weight.fill_(bound)
    else:
        weight.uniform_(-bound, bound)


@torch.no_grad()
def reset_time_step_bias(bias: nn.Parameter, dt_min: float, dt_max: float, floor: float) -> None:
    """Set a bias so that its softplus is spread between ``dt_min`` and ``dt_max``, evenly in the logarithm.

    Args:
        bias: filled in place.
        floor: least time step.
    """
    dt = bias.uniform_(math.log(dt_min), math.log(dt_max)).exp_().clamp_(min=floor)
    dt.add_((-torch.expm1(-dt)).log())  # inverse of softplus


@torch.no_grad()
def reset_rates(A_log: nn.Parameter) -> None:
    """Set ``A = -exp(A_log)`` to -1, -2, … along the last axis.

    Args:
        A_log: (..., d_state), filled in place.
    """
    A_log.copy_(torch.arange(1.0, A_log.shape[-1] + 1, device=A_log.device).log().expand_as(A_log))
