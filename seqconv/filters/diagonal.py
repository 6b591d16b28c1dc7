"""Diagonal state spaces: the recurrence of S4D, of MEGA's moving average and of every distilled filter.

``x_t = poles * x_{t-1} + u_t`` and ``y_t = Re(sum_n residues_n x_{t,n}) + sum_{s<F} head[s] u_{t-s}``, so
``h[t] = Re(sum_n residues_n poles_n^t) + head[t]``. One pole stands for a conjugate pair when its residue
carries the factor 2.
"""

from typing import ClassVar

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from seqconv_kernels import fft_conv

from ..state import State, state_class
from .base import Recurrence


@state_class
class DiagonalState(State):
    """Hidden state, and the last inputs that the head can still reach (oldest first)."""

    hidden: Inexact[Tensor, "batch channels d_state"]
    past: Float[Tensor, "batch reach channels"]


@state_class
class DiagonalSSM(Recurrence):
    """Discretised diagonal state space.

    Attributes:
        poles: real, or complex with one pole per conjugate pair.
        residues: same shape and dtype.
        head: taps added to the first lags; ``None`` for none.
    """

    poles: Inexact[Tensor, "channels d_state"]
    residues: Inexact[Tensor, "channels d_state"]
    head: Float[Tensor, "channels taps"] | None = None

    batch_free: ClassVar[frozenset[str]] = frozenset({"poles", "residues", "head"})

    def init_state(self, batch_size: int) -> State:
        channels, d_state = self.poles.shape
        reach = 0 if self.head is None else self.head.shape[1] - 1
        past = self.poles.new_zeros(batch_size, reach, channels, dtype=self.poles.real.dtype)
        return DiagonalState(self.poles.new_zeros(batch_size, channels, d_state), past)

    def impulse_response(self, length: int) -> Float[Tensor, "channels length"]:
        """The first ``length`` taps."""
        h = torch.einsum("cn,cnl->cl", self.residues, self._powers(length)).real
        if self.head is None:
            return h
        head = self.head[:, :length]
        return h + torch.nn.functional.pad(head, (0, length - head.shape[1]))

    def prefill(
        self, u: Float[Tensor, "batch length channels"], state: State
    ) -> tuple[Float[Tensor, "batch length channels"], State]:
        assert isinstance(state, DiagonalState)
        length, v = u.shape[1], u.to(state.past.dtype)
        powers = self._powers(length)
        entering = self.residues * self.poles * state.hidden
        y = torch.einsum("bcn,cnl->blc", entering, powers).real + fft_conv(
            v, torch.einsum("cn,cnl->cl", self.residues, powers).real
        )
        if self.head is not None:
            y = y + fft_conv(v, self.head, history=state.past)
        inflow = torch.einsum("cnl,blc->bcn", powers.flip(2), v.to(powers.dtype))
        hidden = self.poles * powers[:, :, -1] * state.hidden + inflow
        heard = torch.cat([state.past, v], dim=1)
        return y.to(u.dtype), DiagonalState(hidden, heard[:, length:])

    def step(self, u_t: Float[Tensor, "batch channels"], state: State) -> tuple[Float[Tensor, "batch channels"], State]:
        assert isinstance(state, DiagonalState)
        v = u_t.to(state.past.dtype)
        hidden = self.poles * state.hidden + v[:, :, None]
        y = (self.residues * hidden).sum(-1).real
        past = state.past
        if self.head is not None:
            heard = torch.cat([past, v[:, None]], dim=1)
            y = y + torch.einsum("btc,ct->bc", heard, self.head.flip(1))
            past = heard[:, 1:]
        return y.to(u_t.dtype), DiagonalState(hidden, past)

    def _powers(self, length: int) -> Inexact[Tensor, "channels d_state length"]:
        """``poles ** t`` for t = 0 .. length - 1, by doubling (one rounding per doubling, no logarithm)."""
        powers, base = torch.ones_like(self.poles)[:, :, None], self.poles
        while powers.shape[2] < length:
            powers, base = torch.cat([powers, powers * base[:, :, None]], dim=2), base * base
        return powers[:, :, :length]
