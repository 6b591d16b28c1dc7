"""Two causal mixers, one for each direction: ``y = forward(x) + flip(backward(flip(x)))``.

For mixers whose original has no bidirectional form of its own. Not registered under a name:
``create_mixer(name, d_model, bidirectional=True)`` builds it.
"""

import torch
from torch import Tensor

from ..mixer import Mixer
from ..state import State
from ..types import StateKind


class Bidirectional(Mixer):
    """Sum of a mixer over the sequence and another one over the reversed sequence.

    Args:
        past: causal mixer over the past and the present.
        future: causal mixer of the same width over the future and the present.
    """

    name = "bidirectional"

    def __init__(self, past: Mixer, future: Mixer) -> None:
        super().__init__(past.d_model, causal=False)
        self.past, self.future = past, future

    @property
    def state_kind(self) -> StateKind:
        """There is no state: every output depends on the whole sequence."""
        return "none"

    def _change_rate(self, rate: float) -> None:
        for mixer in (self.past, self.future):
            mixer._change_rate(rate)
            mixer.forget_state_sizes()

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        flipped = None if mask is None else mask.flip(1)
        y: Tensor = self.past(x, mask=mask) + self.future(x.flip(1), mask=flipped).flip(1)
        return y

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        raise NotImplementedError

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        raise NotImplementedError

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        raise NotImplementedError
