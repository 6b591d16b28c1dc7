"""Depthwise convolution of maps with filters as large as they are, which hears one quadrant.

Equation: ``y[i, j, c] = sum_{0<=a<=i, 0<=b<=j} h[c, a, b] u[i-a, j-b, c] + skip[c] u[i, j, c]``.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from .._core.checks import check_floating, check_shape
from .._core.dispatch import Call, Implementation, Op, lazy, serves_all
from .._core.errors import argument_error


def _rows() -> Any:
    from .rows import fft_conv2d

    return fft_conv2d


@lazy
def _refuse_rows() -> Callable[[Call], str | None]:
    from .rows import refuse

    return refuse


def _reference() -> Any:
    from .reference import fft_conv2d

    return fft_conv2d


OP = Op("fft_conv2d", Implementation("rows", _rows, _refuse_rows), Implementation("reference", _reference, serves_all))


def fft_conv2d(
    u: Float[Tensor, "batch height width channels"],
    h: Float[Tensor, "channels rows columns"],
    *,
    skip: Float[Tensor, " channels"] | None = None,
    implementation: str | None = None,
) -> Float[Tensor, "batch height width channels"]:
    """Convolve every channel of a map with its own filter; differentiable in every tensor.

    Args:
        u: maps.
        h: impulse responses, from lag (0, 0) on; taps beyond the map are not heard.
        skip: added to ``h[:, 0, 0]``.
        implementation: ``"rows"`` (one long convolution of the rows behind each other), ``"reference"``, or ``None``
            for the fastest that serves.

    Returns:
        Tensor shaped and typed like ``u``; accumulated in float32 at least.

    Raises:
        ValueError: ranks, channels, devices or dtypes that do not match.
    """
    if u.dim() != 4 or h.dim() != 3 or h.shape[0] != u.shape[3] or 0 in h.shape[1:]:
        got = f"u of shape {tuple(u.shape)} and h of shape {tuple(h.shape)}"
        wanted = "u (batch, height, width, channels) and h (channels, rows, columns)"
        raise argument_error(
            "fft_conv2d", got, wanted, "move the channels of the maps last, and those of the filters first"
        )
    tensors = {"u": u, "h": h, "skip": skip}
    check_shape("fft_conv2d", "skip", skip, "channels", (u.shape[3],))
    check_floating("fft_conv2d", tensors, u.device)
    run = OP.choose(implementation, Call(tensors))
    return run(u, h[:, : u.shape[1], : u.shape[2]], skip)  # type: ignore[no-any-return]
