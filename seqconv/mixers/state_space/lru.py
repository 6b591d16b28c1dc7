"""LRU: the linear recurrent unit, a complex diagonal recurrence whose eigenvalues are given by magnitude and phase.

Equation, with P complex states::

    a = exp(-exp(ν) + i exp(θ))        h_t = a ⊙ h_{t-1} + exp(γ) ⊙ B u_t        y = Re(C h) + D ⊙ u

``γ`` is trained apart; it starts as ``log √(1 - |a|²)``, which keeps the variance of the states. The layer of
:mod:`~seqconv.mixers.state_space.dense_ssm` is around it.

Source: Orvieto et al. 2023 (arXiv 2303.06349; on par with deep state spaces on Long Range Arena, abstract) and
``lru/model.py`` of NicolasZucchet/minimal-LRU at bbd71b11. The paper has no bidirectional form; that of S5 is used.
"""

from typing import Unpack

import torch
from torch import nn

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype

from ...parameters import set_optimizer_options
from ...registry import register
from .dense_ssm import DenseSSMLayer, DenseSSMOptions, System

SMALLEST_DRAW = 1e-6
"""Uniform draws are at least this: a magnitude or a phase of 0 has no logarithm."""


@register("lru", examples=({"gate": "none"}, {"r_min": 0.9, "r_max": 0.999, "gate": "gelu"}, {"bidirectional": True}))
class LRU(DenseSSMLayer):
    """Linear recurrent unit.

    Args:
        d_model: width of inputs and outputs.
        d_state: complex states; as many as channels if not given.
        r_min, r_max: the squares of the initial magnitudes are uniform between the squares of these.
        max_phase: initial phases are uniform between 0 and this.
        gate: what follows, one of :data:`~seqconv.mixers.state_space.dense_ssm.GATES`.
        bidirectional ... tie_dropout: see :class:`~seqconv.mixers.state_space.dense_ssm.DenseSSMOptions`.

    Raises:
        ValueError: an unknown gate, a range of magnitudes or phases that is empty or beyond the unit circle.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int | None = None,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 6.28,
        gate: str = "full_glu",
        **options: Unpack[DenseSSMOptions],
    ) -> None:
        d_state = d_model if d_state is None else d_state
        super().__init__(d_model, d_state, gate, **options)
        if d_state < 1 or not 0 <= r_min < r_max <= 1 or max_phase <= 0:
            got = f"d_state={d_state}, r_min={r_min}, r_max={r_max}, max_phase={max_phase}"
            wanted = "a state, 0 <= r_min < r_max <= 1 and a phase above 0"
            raise argument_error("lru mixer", got, wanted, "correct the ranges")
        self.r_min, self.r_max, self.max_phase = r_min, r_max, max_phase
        self.nu_log, self.theta_log, self.gamma_log = (nn.Parameter(torch.empty(d_state)) for _ in range(3))
        self.B_re, self.B_im = (nn.Parameter(torch.empty(d_state, d_model)) for _ in range(2))
        self.C_re, self.C_im = (nn.Parameter(torch.empty(d_model, d_state)) for _ in range(2))
        self.C_backward_re: nn.Parameter | None = None
        self.C_backward_im: nn.Parameter | None = None
        if not self.causal:
            self.C_backward_re, self.C_backward_im = (nn.Parameter(torch.empty(d_model, d_state)) for _ in range(2))
        recurrent = ("nu_log", "theta_log", "gamma_log")
        self.keep_float32(*recurrent)
        set_optimizer_options(self, *recurrent, "B_re", "B_im", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Eigenvalues in their ring, B of variance 1/(2 D) per part, C of 1/P per part, D ~ N(0, 1)."""
        draw = self.nu_log.uniform_().clamp_(min=SMALLEST_DRAW)
        draw.mul_(self.r_max**2 - self.r_min**2).add_(self.r_min**2)
        self.gamma_log.copy_(0.5 * torch.log1p(-draw))
        draw.log_().mul_(-0.5).log_()
        self.theta_log.uniform_().clamp_(min=SMALLEST_DRAW).mul_(self.max_phase).log_()
        for part in (self.B_re, self.B_im):
            part.normal_(std=(2 * self.d_model) ** -0.5)
        for output in (self.C_re, self.C_im, self.C_backward_re, self.C_backward_im):
            if output is not None:
                output.normal_(std=self.d_state**-0.5)
        self.D.normal_()

    def system(self) -> System:
        """From magnitudes and phases."""
        wide = accumulation_dtype(self.nu_log, self.B_re)
        a = torch.exp(torch.complex(-self.nu_log.to(wide).exp(), self.theta_log.to(wide).exp()))
        gamma = self.gamma_log.to(wide).exp()[:, None]
        B = torch.complex(gamma * self.B_re.to(wide), gamma * self.B_im.to(wide))
        back = None
        if self.C_backward_re is not None and self.C_backward_im is not None:
            back = torch.complex(self.C_backward_re.to(wide), self.C_backward_im.to(wide))
        return System(a, B, torch.complex(self.C_re.to(wide), self.C_im.to(wide)), back)
