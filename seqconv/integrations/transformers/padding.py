"""Padding of a batch of prompts, wherever it is in a row: no real token depends on it, and no state.

Left padding before a whole prompt needs zeros alone: states are zero there. Otherwise a state exists that is to go on
unchanged: in later chunks of prompts (a second turn of several rows, each of its own length) and after right padding.
Convolutions then see a row with padding first and real tokens after it, recurrences take steps of length zero.
transformers zeroes the inputs, but shortens the past of the convolution by the padding, and lets the state decay.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from .call import Call, conv_state

NO_STEP = -1e4
"""A time step before its softplus, which is zero after it in every dtype."""


def padding_mask(call: Call, total: int) -> Tensor | None:
    """The mask for inputs that begin with columns of the cache: (batch, 1, total)."""
    if call.mask is None:
        return None
    return F.pad(call.mask, (total - call.mask.shape[1], 0), value=1)[:, None]


def skipped(call: Call, length: int) -> Tensor | None:
    """True at padding, (batch, length), where a state is kept; else ``None``."""
    mask = None if call.cache is None else padding_mask(call, length)
    return None if mask is None else mask[:, 0] == 0


class PaddingFirst(NamedTuple):
    """Another order of the tokens of each row: padding, then real tokens, as they came.

    Attributes:
        places: of the tokens in the other order, (batch, 1, length).
    """

    places: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """(batch, channels, length) in the other order."""
        return x.gather(-1, self.places.expand(-1, x.shape[1], -1))

    def undo(self, y: Tensor) -> Tensor:
        """Inverse."""
        return y.gather(-1, self.places.argsort(dim=-1).expand(-1, y.shape[1], -1))


def padding_first(call: Call, mask: Tensor | None) -> PaddingFirst | None:
    """The order for a mask (batch, 1, length), where a state is kept."""
    if mask is None or call.cache is None:
        return None
    return PaddingFirst((mask != 0).int().argsort(dim=-1, stable=True))


def keep_last_inputs(call: Call, x: Tensor) -> None:
    """Let the cache keep the last real inputs of the convolution, in place: ``x`` has padding first and zeroed."""
    state = conv_state(call)
    if state is not None:
        kept = min(state.shape[-1], x.shape[-1])
        state[..., -kept:] = x[..., -kept:].to(state.dtype)
