"""Shift filter of H3: a state space whose state is the last N inputs.

With the shift matrix for A, ``x_t = A x_{t-1} + B u_t`` and ``y_t = C x_t`` give N taps, the correlation of B and C::

    h[t] = sum_j B_j C_{j+t},   t < N

B is e_1 at the beginning, so that h is C.

Source: Fu et al. 2022, "Hungry Hungry Hippos" (arXiv 2212.14052), and src/models/sequence/ssm/ss_kernel_shift.py of
HazyResearch/safari (commit 02220c69).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype

from ...parameters import register_tensor, wide_default_dtype
from ..base import Recurrence, WideFilter


class ShiftFilter(WideFilter):
    """Impulse responses of ``d_state`` taps.

    Args:
        channels: number of impulse responses.
        d_state: inputs that the state holds.
        lr: learning rate of B, which does not decay; C is trained as the weights are.

    Raises:
        ValueError: ``d_state < 1``.
    """

    B: Tensor
    C: nn.Parameter

    def __init__(self, channels: int, *, d_state: int = 64, lr: float | None = None) -> None:
        if d_state < 1:
            raise argument_error("ShiftFilter", f"d_state={d_state}", "at least one input", "raise d_state")
        super().__init__(channels, max_length=d_state)
        size, dtype = (channels, d_state), wide_default_dtype()
        register_tensor(self, "B", torch.empty(size, dtype=dtype), lr=lr, weight_decay=0.0)
        self.C = nn.Parameter(torch.empty(size, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """B is the first unit vector; C is drawn uniformly, as the taps of a depthwise Conv1d are."""
        bound = self.C.shape[1] ** -0.5
        self.B.zero_()
        self.B[:, 0].fill_(1)
        nn.init.uniform_(self.C, -bound, bound)

    def _taps(self, length: int) -> Float[Tensor, "channels length"]:
        d_state = self.C.shape[1]
        B, C = (torch.fft.rfft(p.to(accumulation_dtype(p)), n=2 * d_state) for p in (self.B, self.C))
        h = torch.fft.irfft(B.conj() * C, n=2 * d_state)[:, : min(length, d_state)]
        return F.pad(h, (0, length - h.shape[1]))

    def _recurrence(self) -> Recurrence | None:
        """None in the form of a recurrence: the state is a window of inputs."""
        return None
