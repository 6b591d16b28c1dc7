"""Depthwise convolution of feature maps with filters as large as they are, causal along both axes.

Equation: ``y[i, j, c] = sum_{0<=a<=i, 0<=b<=j} h[c, a, b] u[i-a, j-b, c] + skip[c] u[i, j, c]``.
"""

from jaxtyping import Float
from torch import Tensor

from .._core.checks import check_floating, check_shape
from .._core.errors import argument_error
from .._core.operator.inputs import given_tensors
from .spec import CONV, Inputs


def fft_conv2d(
    u: Float[Tensor, "batch height width channels"],
    h: Float[Tensor, "channels rows columns"],
    *,
    skip: Float[Tensor, " channels"] | None = None,
    implementation: str | None = None,
) -> Float[Tensor, "batch height width channels"]:
    """Convolve every channel of a feature map with its own filter; differentiable in every tensor.

    Args:
        u: feature maps.
        h: impulse responses, from lag (0, 0) on; taps beyond the feature map have no effect.
        skip: added to ``h[:, 0, 0]``.
        implementation: ``"rows"`` (one long convolution of the rows one after another), ``"reference"``, or ``None``
            for the fastest that serves.

    Returns:
        Tensor shaped and typed like ``u``; accumulated in float32 at least.

    Raises:
        ValueError: ranks, channels, devices or dtypes that do not match.
    """
    return CONV(Inputs(u, h, skip), _check, implementation)


def _check(operation: str, inputs: Inputs) -> None:
    u, h = inputs.u, inputs.h
    if u.dim() != 4 or h.dim() != 3 or h.shape[0] != u.shape[3] or 0 in h.shape[1:]:
        got = f"u of shape {tuple(u.shape)} and h of shape {tuple(h.shape)}"
        wanted = "u (batch, height, width, channels) and h (channels, rows, columns)"
        remedy = "move the channels of the feature maps last, and those of the filters first"
        raise argument_error(operation, got, wanted, remedy)
    check_shape(operation, "skip", inputs.skip, "channels", (u.shape[3],))
    check_floating(operation, given_tensors(inputs), u.device)
