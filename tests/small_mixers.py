"""The smallest mixers with a state, for tests of what is around a mixer."""

import torch
from torch import nn

from seqconv.mixer import Mixer
from seqconv.state import State, state_class


@state_class
class SumState(State):
    total: torch.Tensor


class CumulativeSum(Mixer):
    """``y_t = w ⊙ sum_{s<=t} x_s``: the smallest mixer with a state."""

    name = "cumulative_sum"
    state_kind = "constant"

    def __init__(self, d_model, *, causal=True):
        super().__init__(d_model, causal=causal)
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, d_model))

    def _forward(self, x, mask):
        return self.weight * (x.cumsum(1) if self.causal else x.sum(1, keepdim=True).expand_as(x))

    def _init_state(self, batch_size, max_length, device, dtype):
        return SumState(torch.zeros(batch_size, self.d_model, device=device, dtype=dtype))

    def _prefill(self, x, state, mask):
        total = state.total[:, None] + x.cumsum(1)
        return self.weight * total, SumState(total[:, -1])

    def _step(self, x_t, state):
        return self.weight * (state.total + x_t), SumState(state.total + x_t)


class GatedSum(CumulativeSum):
    """The same for a mixer that holds its residual."""

    residual_inside = True


class SharedValueSum(CumulativeSum):
    """``y_t = sum_{s<=t} (v_s + f_s)`` with values ``v = w ⊙ x`` and ``f`` the values of the first such layer."""

    shares_values = True

    def _values(self, x, shared):
        values = self.weight * x
        return values + shared.setdefault("value", values)

    def _forward(self, x, mask, *, shared):
        return self._values(x, shared).cumsum(1)

    def _prefill(self, x, state, mask, *, shared):
        total = state.total[:, None] + self._values(x, shared).cumsum(1)
        return total, SumState(total[:, -1])

    def _step(self, x_t, state, *, shared):
        total = state.total + self._values(x_t, shared)
        return total, SumState(total)
