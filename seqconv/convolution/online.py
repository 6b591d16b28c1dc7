"""Exact online convolution: one interface to both ways of ordering the work.

Equation: ``y_t = sum_s h[s] u_{t-s}``, each output as soon as its input is there. By default the least work in total
(:mod:`~seqconv.convolution.fractal`), or bounded work per token (:mod:`~seqconv.convolution.smooth`).
"""

from jaxtyping import Float
from torch import Tensor

from .fractal import FractalState, fractal_prefill, fractal_step, init_fractal
from .smooth import SmoothState, init_smooth, smooth_prefill, smooth_step

OnlineState = FractalState | SmoothState
"""The state of an online convolution. Passing it on uses it up: its memory is overwritten unless autograd needs it."""


def init_online(
    taps: Float[Tensor, "channels taps"],
    batch_size: int,
    *,
    heads: int = 1,
    smooth: bool = False,
    block: int | None = None,
) -> OnlineState:
    """The state before the first input.

    Args:
        taps: impulse responses, lag 0 first; sums are in their dtype, float32 or float64.
        batch_size: rows.
        heads: how often the channels of ``taps`` repeat in the inputs, head after head.
        smooth: bounded work per token instead of the least work in total.
        block: tokens per block, a power of two; chosen for speed if not given.

    Raises:
        ValueError: no taps, or a block that is not a power of two.
    """
    init = init_smooth if smooth else init_fractal
    return init(taps, batch_size, heads=heads) if block is None else init(taps, batch_size, heads=heads, block=block)


def online_prefill(
    u: Float[Tensor, "batch length width"], state: OnlineState
) -> tuple[Float[Tensor, "batch length width"], OnlineState]:
    """Outputs for any number of inputs behind those of ``state``, and the state after them."""
    return smooth_prefill(u, state) if isinstance(state, SmoothState) else fractal_prefill(u, state)


def online_step(
    u_t: Float[Tensor, "batch width"], state: OnlineState
) -> tuple[Float[Tensor, "batch width"], OnlineState]:
    """Output for one input, and the state after it."""
    return smooth_step(u_t, state) if isinstance(state, SmoothState) else fractal_step(u_t, state)
