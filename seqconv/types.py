"""The legend of shapes, on one page.

Shapes are annotated as ``Float[Tensor, "batch length d_model"]``; tests check them at run time.

=============  ==========================================================================
batch          sequences computed side by side
length         time steps; axis 1 of every activation
d_model        width of the residual stream
channels       sequences convolved independently (depthwise)
taps           lags of an impulse response, lag 0 first
heads          heads of a linear-attention or attention mixer
head_dim       width of one head; ``d_k`` of keys and queries, ``d_v`` of values
d_state        size of the recurrent state per channel or head; ``pairs`` = conjugate pairs kept
groups         groups of heads that share B and C (or keys and values)
order          order of a Hyena operator: number of gates
levels         levels of a dilated convolution stack
segments       packed sequences; ``cu_seqlens`` has segments + 1 entries, from 0 to the total length
=============  ==========================================================================

A mask is ``Bool[Tensor, "batch length"]``, True at real tokens, one contiguous run per row
(padding on the left, on the right, or both).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

StateKind = Literal["constant", "window", "growing", "none"]
"""How a mixer's state scales: fixed size; bounded by a window; grows with the context; no state at all."""


@dataclass(frozen=True)
class LayerContext:
    """Where a mixer is in a stack, for initialisations that depend on the depth.

    Attributes:
        index: number of its layer, from 0.
        depth: layers of the stack.
        residuals: what each layer adds to the residual stream: 1 for a mixer alone, 2 with an MLP.
    """

    index: int
    depth: int
    residuals: int = 1


def most_growing(kinds: Iterable[StateKind]) -> StateKind:
    """The kind that grows most with the context, ``"constant"`` if there is none."""
    order: list[StateKind] = ["constant", "window", "growing"]
    return max(kinds, key=order.index, default="constant")
