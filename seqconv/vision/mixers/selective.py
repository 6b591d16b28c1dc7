"""Selective scans over sequences of cells, with their projections: what multi-scale and atrous mixers are made of.

Equation, for each of G groups of cells with parameters of its own, all scanned in one call::

    [δ, B, C] = W_x u        Δ = softplus(W_Δ δ + b_Δ)
    h_s = exp(Δ_s A) h_{s-1} + Δ_s B_s u_s        y_s = C_s h_s + D u_s
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels import selective_scan
from seqconv_kernels._core.precision import accumulation_dtype

from ...layers.grouped_linear import GroupedLinear
from ...layers.time_step import reset_rates, reset_time_step_bias
from ...parameters import KeepFloat32, set_optimizer_options

TIME_STEPS = (0.001, 0.1, 1e-4)
"""Range of the initial time steps, and the least."""


class SelectiveScan(KeepFloat32, nn.Module):
    """See above.

    Args:
        channels: of inputs and outputs of each group.
        groups: G.
        d_state: state size per channel.
        dt_rank: width of the bottleneck in front of the time step.
    """

    def __init__(self, channels: int, *, groups: int = 1, d_state: int, dt_rank: int) -> None:
        super().__init__()
        self.sizes = [dt_rank, d_state, d_state]
        self.x_proj = GroupedLinear(groups, channels, sum(self.sizes))
        self.dt_proj = GroupedLinear(groups, dt_rank, channels)
        self.dt_bias = nn.Parameter(torch.empty(groups, channels))
        self.A_log = nn.Parameter(torch.empty(groups, channels, d_state))
        self.D = nn.Parameter(torch.empty(groups, channels))
        self.keep_float32("dt_bias", "A_log", "D")
        set_optimizer_options(self, "dt_bias", "A_log", "D", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A = -(1 .. d_state), D = 1, time steps log-uniform in their range."""
        reset_time_step_bias(self.dt_bias, *TIME_STEPS)
        reset_rates(self.A_log)
        self.D.fill_(1.0)

    def forward(self, u: Float[Tensor, "batch cells groups channels"]) -> Float[Tensor, "batch cells groups channels"]:
        """Scan every group from its first cell to its last."""
        low, B, C = self.x_proj(u).split(self.sizes, dim=-1)
        A = -self.A_log.to(accumulation_dtype(self.A_log)).exp()
        y = selective_scan(
            u.flatten(2), self.dt_proj(low).flatten(2), A.flatten(0, 1), B.contiguous(), C.contiguous(),
            self.D.flatten(), delta_bias=self.dt_bias.flatten(), delta_softplus=True,
        )  # fmt: skip
        assert isinstance(y, Tensor)
        scanned: Tensor = y.view(u.shape)
        return scanned
