"""Exact online convolution from cached inputs.

Equation: ``y_t = sum_s h[s] u_{t-s}``; the state keeps the inputs that taps can still reach.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from seqconv_kernels import fft_conv

from ..state import State, state_class


@state_class
class OnlineState(State):
    """Inputs so far, and the impulse response they are convolved with.

    Attributes:
        taps: impulse response.
        past: the last ``taps - 1`` inputs at most, oldest first.
    """

    taps: Float[Tensor, "channels taps"]
    past: Float[Tensor, "batch past channels"]

    batch_free: ClassVar[frozenset[str]] = frozenset({"taps"})
    growing: ClassVar[frozenset[str]] = frozenset({"taps", "past"})


def init_online(
    taps: Float[Tensor, "channels taps"], batch_size: int, *, heads: int = 1, smooth: bool = False
) -> OnlineState:
    """The state before the first input."""
    taps = taps.repeat(heads, 1)
    return OnlineState(taps, taps.new_zeros(batch_size, 0, taps.shape[0]))


def online_prefill(
    u: Float[Tensor, "batch length channels"], state: OnlineState
) -> tuple[Float[Tensor, "batch length channels"], OnlineState]:
    """Outputs for any number of inputs behind those of ``state``."""
    y = fft_conv(u, state.taps, history=state.past)
    heard = torch.cat([state.past, u.to(state.past.dtype)], dim=1)
    reach = state.taps.shape[1] - 1
    return y, OnlineState(state.taps, heard[:, max(0, heard.shape[1] - reach) :])


def online_step(
    u_t: Float[Tensor, "batch channels"], state: OnlineState
) -> tuple[Float[Tensor, "batch channels"], OnlineState]:
    """Output for one input."""
    heard = torch.cat([state.past, u_t[:, None].to(state.past.dtype)], dim=1)
    y = torch.einsum("blc,cl->bc", heard, state.taps[:, : heard.shape[1]].flip(1))
    reach = state.taps.shape[1] - 1
    return y.to(u_t.dtype), OnlineState(state.taps, heard[:, max(0, heard.shape[1] - reach) :])
