"""S5: one state space of many inputs and outputs per layer, diagonal, run by a scan.

Equation, with P states (half of them stored where they come in conjugate pairs) and a step per state::

    h' = Λ h + B u,  y = Re(C h) + D ⊙ u
    zoh:       a = exp(Λ Δ),                    B̄ = (a - 1)/Λ B
    bilinear:  a = (1 + Λ Δ/2)/(1 - Λ Δ/2),     B̄ = Δ/(1 - Λ Δ/2) B

and the layer of :mod:`~seqconv.mixers.state_space.dense_ssm` around it.

Source: Smith et al. 2022 (arXiv 2208.04933; Long Range Arena 87.4 on average, 98.5 on Path-X, abstract) and
``s5/{ssm,ssm_init,layers}.py`` of lindermanlab/S5 at 3c18fdb6.
"""

import math
from collections.abc import Callable
from typing import Unpack

import torch
from torch import Tensor, nn

from seqconv_kernels._core.complex import as_complex
from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.precision import accumulation_dtype

from ...filters.state_space.hippo import nplr
from ...parameters import set_optimizer_options
from ...registry import register
from .dense_ssm import DenseSSMLayer, DenseSSMOptions, System

LARGEST_REAL_PART = -1e-4
"""Of the eigenvalues with ``clip_eigs``."""
SSM_LR = 1e-3
"""Largest learning rate of eigenvalues, steps and B."""
GROUPS = {"A": ("A_real", "A_imag"), "dt": ("log_dt",), "B": ("B",)}
"""Parameters that may learn at rates of their own."""
TRUNCATED_STD = 0.87962566103423978
"""Deviation of a standard normal that is cut at ±2."""


def _zoh(poles: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    return torch.exp(poles * dt), torch.expm1(poles * dt) / poles


def _bilinear(poles: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    inverse = 1.0 / (1.0 - poles * dt / 2.0)
    return inverse * (1.0 + poles * dt / 2.0), inverse * dt


DISCRETIZATIONS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {"zoh": _zoh, "bilinear": _bilinear}
"""Factors of the states and of B."""
C_INITS = ("trunc_standard_normal", "lecun_normal", "complex_normal")


@register(
    "s5",
    examples=(
        {"num_blocks": 2, "disc": "bilinear", "gate": "full_glu", "C_init": "complex_normal"},
        {"conj_sym": False, "gate": "half_glu2", "clip_eigs": True, "C_init": "lecun_normal"},
        {"d_state": 6, "bidirectional": True, "gate": "gelu", "rate": 2.0},
    ),
)
class S5(DenseSSMLayer):
    """State space of many inputs and outputs (S5).

    Args:
        d_model: width of inputs and outputs.
        d_state: states of the layer, a multiple of 2 ``num_blocks``; the first from ``d_model`` on if not given.
        num_blocks: blocks of HiPPO-LegS on the diagonal of the initial state matrix.
        disc: ``"zoh"`` or ``"bilinear"``.
        conj_sym: keep one state of each conjugate pair.
        clip_eigs: keep the real parts of the eigenvalues below 0.
        C_init: initial output matrix: ``"trunc_standard_normal"``, ``"lecun_normal"`` (both in the basis of HiPPO) or
            ``"complex_normal"``.
        dt_min, dt_max: initial steps are spread between them, evenly in their logarithm.
        rate: multiplies the steps: 2 for data at half the sampling rate of that trained on.
        gate: what follows, one of :data:`~seqconv.mixers.state_space.dense_ssm.GATES`.
        lr: learning rate of A, dt and B; by name (``{"A": 1e-3, "dt": 1e-3}``) where they differ, and the model's own
            for those that it leaves out.
        wd: weight decay of A, dt and B, likewise.
        bidirectional ... tie_dropout: see :class:`~seqconv.mixers.state_space.dense_ssm.DenseSSMOptions`.

    Raises:
        ValueError: unknown names, sizes that do not divide, steps out of range.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int | None = None,
        num_blocks: int = 1,
        disc: str = "zoh",
        conj_sym: bool = True,
        clip_eigs: bool = False,
        C_init: str = "trunc_standard_normal",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        rate: float = 1.0,
        gate: str = "half_glu1",
        lr: float | dict[str, float] | None = SSM_LR,
        wd: float | dict[str, float] | None = 0.0,
        **options: Unpack[DenseSSMOptions],
    ) -> None:
        if d_state is None:
            d_state = -(-d_model // max(2 * num_blocks, 1)) * 2 * num_blocks
        _check(d_state, num_blocks, disc, C_init, dt_min, dt_max, rate)
        super().__init__(d_model, d_state // 2 if conj_sym else d_state, gate, **options)
        self.num_blocks, self.disc, self.conj_sym, self.clip_eigs = num_blocks, disc, conj_sym, clip_eigs
        self.C_init, self.dt_range, self.rate = C_init, (dt_min, dt_max), rate
        P, C_size = self.d_state, (d_model, self.d_state, 2)
        self.A_real, self.A_imag = nn.Parameter(torch.empty(P)), nn.Parameter(torch.empty(P))
        self.log_dt = nn.Parameter(torch.empty(P))
        self.B = nn.Parameter(torch.empty(P, d_model, 2))
        self.C = nn.Parameter(torch.empty(C_size))
        self.C_backward = None if self.causal else nn.Parameter(torch.empty(C_size))
        self.keep_float32("A_real", "A_imag", "log_dt", "B")
        for group, names in GROUPS.items():
            own_lr, own_wd = (given.get(group) if isinstance(given, dict) else given for given in (lr, wd))
            set_optimizer_options(self, *names, lr=own_lr, weight_decay=own_wd)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """HiPPO-LegS in blocks, in float64 on the CPU: eigenvectors need its digits. D ~ N(0, 1)."""
        if self.A_real.is_meta:
            return
        with torch.device("cpu"):
            poles, V = _blocks(self.d_state // self.num_blocks, self.num_blocks, self.conj_sym)
            self.A_real.copy_(poles.real)
            self.A_imag.copy_(poles.imag)
            low, high = (math.log(dt) for dt in self.dt_range)
            self.log_dt.copy_(torch.empty(self.d_state).uniform_(low, high))
            full = V.shape[0]
            B = _truncated_normal(full, self.d_model, fan_in=full)
            self.B.copy_(torch.view_as_real(V.mH @ B.to(V.dtype)))
            for C in (self.C,) if self.C_backward is None else (self.C, self.C_backward):
                C.copy_(self._initial_C(V))
            self.D.copy_(torch.randn(self.d_model))

    def _initial_C(self, V: Tensor) -> Tensor:
        if self.C_init == "complex_normal":
            return torch.randn(self.d_model, self.d_state, 2) * math.sqrt(0.5)
        full = V.shape[0]
        fan_in = full if self.C_init == "trunc_standard_normal" else full * self.d_model
        C = _truncated_normal(self.d_model, full, 2, fan_in=fan_in)
        return torch.view_as_real(as_complex(C) @ V)

    def _change_rate(self, rate: float) -> None:
        """Discretise at steps ``rate`` times as long."""
        self.rate *= rate

    def system(self) -> System:
        """Discretised at the layer's steps; conjugate pairs count twice."""
        wide = accumulation_dtype(self.A_real, self.C)
        real = self.A_real.to(wide)
        real = real.clamp(max=LARGEST_REAL_PART) if self.clip_eigs else real
        poles = torch.complex(real, self.A_imag.to(wide))
        a, scale = DISCRETIZATIONS[self.disc](poles, self.rate * self.log_dt.to(wide).exp())
        weight = 2.0 if self.conj_sym else 1.0
        C, back = (None if C is None else weight * as_complex(C.to(wide)) for C in (self.C, self.C_backward))
        assert C is not None
        return System(a, scale[:, None] * as_complex(self.B.to(wide)), C, back)


def _blocks(size: int, blocks: int, conj_sym: bool) -> tuple[Tensor, Tensor]:
    """Stored eigenvalues of HiPPO-LegS's normal part, repeated, and the block-diagonal matrix of their eigenvectors."""
    legs = nplr("legs", 2 * size if conj_sym else size)
    poles, V = legs.poles, legs.V
    if not conj_sym:
        poles, V = torch.cat([poles, poles.conj()]), torch.cat([V, V.conj()], dim=1)
    return poles.repeat(blocks), torch.block_diag(*[V] * blocks)


def _truncated_normal(*size: int, fan_in: int) -> Tensor:
    """Normal values cut at two deviations, of variance 1/fan_in (LeCun's)."""
    std = fan_in**-0.5 / TRUNCATED_STD
    return nn.init.trunc_normal_(torch.empty(size, dtype=torch.float64), std=std, a=-2.0 * std, b=2.0 * std)


def _check(d_state: int, blocks: int, disc: str, C_init: str, dt_min: float, dt_max: float, rate: float) -> None:
    if blocks < 1 or d_state < 1 or d_state % (2 * blocks):
        got = f"d_state={d_state}, num_blocks={blocks}"
        raise argument_error("s5 mixer", got, "d_state a multiple of 2 num_blocks", "change d_state or num_blocks")
    if disc not in DISCRETIZATIONS:
        raise unknown_name("s5 mixer", "disc", disc, DISCRETIZATIONS)
    if C_init not in C_INITS:
        raise unknown_name("s5 mixer", "C_init", C_init, C_INITS)
    if not 0 < dt_min <= dt_max or rate <= 0:
        got = f"dt_min={dt_min}, dt_max={dt_max}, rate={rate}"
        raise argument_error("s5 mixer", got, "0 < dt_min <= dt_max and a rate above 0", "correct the steps")
