"""Rational transfer function: a state space given by the polynomials of its transfer function.

With ``a(z) = 1 + a_1 z^-1 + ... + a_N z^-N`` and ``b(z) = b_1 z^-1 + ... + b_N z^-N`` the first ``l_max`` taps are the
inverse discrete Fourier transform, over M = l_max points (one more if odd), of ``b / a + h_0`` at the M-th roots of
unity. That is the impulse response of a companion matrix A, folded onto M taps::

    h[t] = c A^(t-1) e_1,  t >= 1,     c = b (I - A^M)^-1,     h[0] = h_0 + c A^(M-1) e_1

so that no state is needed in training. The recurrence holds the state and the input of every step, because h[0] is no
sample of the same exponentials. Longer responses go on as the recurrence does.

Source: Parnichkun et al. 2024, "State-Free Inference of State-Space Models: The Transfer Function Approach" (arXiv
2405.06147); mad/model/layers/featurization/rtf.py of athms/mad-lab (commit 0f49a452), which solves for c with the
transpose of the matrix that it needs, and leaves the folded tail out of h[0] in its steps.
"""

from typing import Annotated, TypedDict, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.operator.composed import leading
from seqconv_kernels._core.operator.sizes import known
from seqconv_kernels._core.precision import accumulation_dtype

from ...options import Default, with_defaults
from ...parameters import set_optimizer_options, wide_default_dtype
from ..base import WideFilter
from ..explicit.dense import DenseSSM, binary_powers, dense_response

INITS = ("zeros", "xavier", "montel")


class RTFFilterOptions(TypedDict, total=False):
    """Options of an :class:`RTFFilter` that a mixer hands on.

    Attributes:
        d_state: degree N of the polynomials; below ``l_max``.
        denominators: sets of a, each for as many channels that lie next to one another; ``None``: one per channel.
        init: ``"zeros"``, ``"xavier"``, U(±1/√N), or ``"montel"``, U(±1/N), which is stable.
    """

    d_state: Annotated[int, Default(64)]
    denominators: Annotated[int | None, Default(None)]
    init: Annotated[str, Default("zeros")]


class RTFFilter(WideFilter):
    """Impulse responses of rational transfer functions.

    Args:
        channels: number of impulse responses.
        l_max: taps over which the transfer function is sampled.
        **options: see :class:`RTFFilterOptions`.

    Raises:
        ValueError: an unknown initialisation, sizes that do not fit.
    """

    def __init__(self, channels: int, *, l_max: int, **options: Unpack[RTFFilterOptions]) -> None:
        o = with_defaults(RTFFilterOptions, options, "RTFFilter")
        d_state, sets = o["d_state"], channels if o["denominators"] is None else o["denominators"]
        if o["init"] not in INITS:
            raise unknown_name("RTFFilter", "init", o["init"], INITS)
        if d_state < 1 or sets < 1 or channels % sets or l_max <= d_state:
            got = f"d_state={d_state}, denominators={sets}, l_max={l_max} for {channels} channels"
            wanted = "1 <= d_state < l_max, and denominators that divide the channels"
            raise argument_error("RTFFilter", got, wanted, "correct the sizes")
        super().__init__(channels, recurrent=True)
        self.l_max, self.init, dtype = l_max, o["init"], wide_default_dtype()
        self.a = nn.Parameter(torch.empty(sets, d_state, dtype=dtype))
        self.b = nn.Parameter(torch.empty(channels, d_state, dtype=dtype))
        self.h_0 = nn.Parameter(torch.empty(channels, dtype=dtype))
        set_optimizer_options(self, "h_0", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Fill the polynomials in, and draw h_0 from N(0, 1)."""
        d_state = self.a.shape[1]
        bound = {"zeros": 0.0, "xavier": d_state**-0.5, "montel": 1 / d_state}[self.init]
        for polynomial in (self.a, self.b):
            polynomial.uniform_(-bound, bound) if bound else polynomial.zero_()
        self.h_0.normal_()

    @property
    def _points(self) -> int:
        """Points M of the transform."""
        return self.l_max + self.l_max % 2

    def _taps(self, length: int) -> Float[Tensor, "channels length"]:
        if known(length <= self.l_max):
            return leading(self._folded(), length)  # type: ignore[no-any-return]
        A, B, C = self._system()
        return dense_response(A, B, C[None], length)[0]

    def _folded(self) -> Float[Tensor, "channels points"]:
        """``b / a + h_0`` at the roots of unity, transformed back."""
        dtype, points = accumulation_dtype(self.a), self._points
        a, b = (F.pad(p.to(dtype), (1, 0)) for p in (self.a, self.b))
        a = torch.cat([torch.ones_like(a[:, :1]), a[:, 1:]], dim=1)
        ratio = torch.fft.rfft(b, n=points) / self._spread(torch.fft.rfft(a, n=points))
        taps: Tensor = torch.fft.irfft(ratio + self.h_0.to(dtype)[:, None], n=points)
        return taps

    def _recurrence(self) -> DenseSSM:
        return DenseSSM(*self._system())

    def _system(self) -> tuple[Tensor, Tensor, Tensor]:
        """A, B and C of the state ``[x_{t-1}, u_t]``, so that the tap of lag 0 is free."""
        dtype = accumulation_dtype(self.a)
        a = self._spread(self.a.to(dtype))
        channels, d_state = a.shape
        one = torch.eye(d_state, dtype=dtype, device=a.device)
        companion = torch.cat([-a[:, None], one[:-1].expand(channels, -1, -1)], dim=1)
        folded = one - _power(binary_powers(companion, self._points), self._points)
        c = torch.linalg.solve(folded.mT, self.b.to(dtype))
        A = F.pad(torch.cat([companion, one[:, :1].expand(channels, -1, -1)], dim=2), (0, 0, 0, 1))
        B = F.pad(torch.ones_like(c[:, :1]), (d_state, 0))
        return A, B, torch.cat([c, self._folded()[:, :1]], dim=1)

    def _spread(self, of_sets: Tensor) -> Tensor:
        """Repeat the rows of the denominators for their channels."""
        return of_sets.repeat_interleave(self.channels // of_sets.shape[0], dim=0)


def _power(powers: list[Tensor], exponent: int) -> Tensor:
    """The matrix power from the binary powers."""
    total = torch.eye(powers[0].shape[-1], dtype=powers[0].dtype, device=powers[0].device).expand_as(powers[0])
    for digit, power in enumerate(powers):
        if exponent >> digit & 1:
            total = total @ power
    return total
