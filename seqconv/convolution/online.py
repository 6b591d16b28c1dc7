"""Exact online convolution: one interface to both ways of ordering the work.

Equation: ``y_t = sum_s h[s] u_{t-s}``, each output as soon as its input is there. By default the least work in total
(:mod:`~seqconv.convolution.fractal`), or bounded work per token (:mod:`~seqconv.convolution.smooth`).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from .fractal import BLOCK as FRACTAL_BLOCK
from .fractal import FractalState, fractal_prefill, fractal_step, init_fractal
from .smooth import BLOCK as SMOOTH_BLOCK
from .smooth import SmoothState, init_smooth, smooth_prefill, smooth_step
from .tiles import history

OnlineState = FractalState | SmoothState
"""The state of an online convolution. Passing it on uses it up: its memory is overwritten unless autograd needs it."""


def init_online(
    taps: Float[Tensor, "channels taps"],
    batch_size: int,
    *,
    heads: int = 1,
    smooth: bool = False,
    block: int | None = None,
    extensible: bool = False,
) -> OnlineState:
    """The state before the first input.

    Args:
        taps: impulse responses, lag 0 first; sums are in their dtype, float32 or float64.
        batch_size: rows.
        heads: how often the channels of ``taps`` repeat in the inputs, head after head.
        smooth: bounded work per token instead of the least work in total.
        block: tokens per block, a power of two; chosen for speed if not given.
        extensible: keep all inputs, so that :func:`extend_online` can add taps later.

    Raises:
        ValueError: no taps, or a block that is not a power of two.
    """
    if smooth:
        size = SMOOTH_BLOCK if block is None else block
        return init_smooth(taps, batch_size, heads=heads, block=size, extensible=extensible)
    size = FRACTAL_BLOCK if block is None else block
    return init_fractal(taps, batch_size, heads=heads, block=size, extensible=extensible)


def extend_online(state: OnlineState, taps: Float[Tensor, "channels taps"], *, extensible: bool = False) -> OnlineState:
    """The state of the same inputs under longer impulse responses, which begin with the taps of ``state``.

    Args:
        state: after fewer inputs than it has taps, made with ``extensible``.
        taps, extensible: as for :func:`init_online`.

    Raises:
        ValueError: a state that no longer holds all its inputs.
    """
    if state.earlier is None or known_inputs(state) >= state.taps.shape[1]:
        got = f"a state of {state.taps.shape[1]} taps after {known_inputs(state)} inputs"
        wanted = "extensible=True and fewer inputs than taps"
        raise argument_error("extend_online", got, wanted, "extend it before it drops inputs")
    inputs = torch.cat([state.earlier, history(state.past, state.position)], dim=1)
    heads = state.head.shape[1] // state.taps.shape[0]
    extended = init_online(
        taps,
        inputs.shape[0],
        heads=heads,
        smooth=isinstance(state, SmoothState),
        block=state.block,
        extensible=extensible,
    )
    return online_prefill(inputs, extended)[1] if inputs.shape[1] else extended


def known_inputs(state: OnlineState) -> int:
    """Inputs since the initial state, or since the last restart where earlier ones are not kept."""
    return state.position + (0 if state.earlier is None else state.earlier.shape[1])


def online_prefill(
    u: Float[Tensor, "batch length width"], state: OnlineState
) -> tuple[Float[Tensor, "batch length width"], OnlineState]:
    """Outputs for any number of inputs after those of ``state``, and the state after them."""
    return smooth_prefill(u, state) if isinstance(state, SmoothState) else fractal_prefill(u, state)


def online_step(
    u_t: Float[Tensor, "batch width"], state: OnlineState
) -> tuple[Float[Tensor, "batch width"], OnlineState]:
    """Output for one input, and the state after it."""
    return smooth_step(u_t, state) if isinstance(state, SmoothState) else fractal_step(u_t, state)
