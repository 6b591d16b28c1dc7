"""Diagonal state spaces: the recurrence of S4D, of MEGA's moving average and of every distilled filter.

``x_t = poles * x_{t-1} + u_{t-F}`` and ``y_t = sum_{s<F} head[s] u_{t-s} + Re(sum_n residues_n x_{t,n})``, so
``h[t] = head[t]`` for ``t < F`` and ``Re(sum_n residues_n poles_n^(t-F))`` from there on; without a head F = 0.
One pole represents a conjugate pair when its residue carries the factor 2. Poles are held as ``offsets = poles - 1``
and the step adds what changes, ``x += offsets * x + u``: near 1 a pole itself has too few digits to forget with.
"""

from functools import cached_property
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from seqconv_kernels import diagonal_step, fft_conv
from seqconv_kernels._core.operator.composed import Composed
from seqconv_kernels._core.precision import no_autocast
from seqconv_kernels.diagonal_step import prepare

from ...state import State, state_class
from ..base import Recurrence, add_skip, foreign_state

CHUNK = 256
"""Steps of a prefill whose powers are in memory at once."""


@state_class
class DiagonalState(State):
    """Hidden state, and the last F inputs, oldest first, which have not entered it yet."""

    hidden: Inexact[Tensor, "batch channels d_state"]
    past: Float[Tensor, "batch reach channels"]


@state_class
class DiagonalSSM(Recurrence):
    """Discretised diagonal state space.

    Attributes:
        offsets: poles minus one; real, or complex with one pole per conjugate pair.
        residues: same shape and dtype.
        head: the first F taps, exactly as given; ``None`` for F = 0.
    """

    offsets: Inexact[Tensor, "channels d_state"]
    residues: Inexact[Tensor, "channels d_state"]
    head: Float[Tensor, "channels taps"] | None = None

    batch_free: ClassVar[frozenset[str]] = frozenset({"offsets", "residues", "head"})

    @property
    def poles(self) -> Inexact[Tensor, "channels d_state"]:
        """The poles themselves, rounded."""
        return 1 + self.offsets

    def init_state(self, batch_size: int) -> State:
        channels, d_state = self.offsets.shape
        reach = 0 if self.head is None else self.head.shape[1]
        past = self.residues.new_zeros(batch_size, reach, channels, dtype=self.residues.real.dtype)
        return DiagonalState(self.residues.new_zeros(batch_size, channels, d_state), past)

    def _own(self, operation: str, u: Tensor, state: State) -> DiagonalState:
        """The state, if it is one of this recurrence for that many rows."""
        reach, sizes = 0 if self.head is None else self.head.shape[1], (u.shape[0], *self.offsets.shape)
        fits = isinstance(state, DiagonalState) and state.hidden.shape == sizes and state.past.shape[1] == reach
        if not fits or u.shape[-1] != sizes[1]:
            needed = f"{sizes[0]} rows, {sizes[1]} channels of {sizes[2]} modes and {reach} past inputs"
            raise foreign_state(f"DiagonalSSM.{operation}", state, f"DiagonalState of {needed}")
        return cast(DiagonalState, state)

    def impulse_response(self, length: int) -> Float[Tensor, "channels length"]:
        """The first ``length`` taps."""
        reach = 0 if self.head is None else self.head.shape[1]
        modal = modal_response(self.offsets, self.residues, max(1, length - reach))
        return modal if self.head is None else torch.cat([self.head, modal], dim=1)[:, :length]

    def prefill(
        self, u: Float[Tensor, "batch length channels"], state: State
    ) -> tuple[Float[Tensor, "batch length channels"], State]:
        with no_autocast(u):
            return self._prefill(u, state)

    def _prefill(self, u: Tensor, state: State) -> tuple[Tensor, State]:
        state = self._own("prefill", u, state)
        length, v = u.shape[1], u.to(state.past.dtype)
        inputs = torch.cat([state.past, v], dim=1)
        y, hidden = _CHUNK_SCAN(inputs[:, :length], self.offsets, self.residues, state.hidden)
        if self.head is not None:
            y = y + fft_conv(v, self.head, history=state.past)
        return y.to(u.dtype), DiagonalState(hidden, inputs[:, length:])

    def step(
        self, u_t: Float[Tensor, "batch channels"], state: State, *, skip: Float[Tensor, " channels"] | None = None
    ) -> tuple[Float[Tensor, "batch channels"], State]:
        if isinstance(state, DiagonalState) and not torch.compiler.is_compiling():
            done = self._prepared.step(u_t, state.hidden, state.past, skip)
            if done is not None:
                return done, state
        state = self._own("step", u_t, state)
        past = None if self.head is None else state.past
        inside = skip if skip is not None and skip.dtype == state.past.dtype else None
        y, hidden, after = diagonal_step(
            u_t, self.offsets, self.residues, hidden=state.hidden, head=self.head, past=past, skip=inside
        )
        y = y if inside is skip else add_skip(y, u_t, skip)
        return y, DiagonalState(hidden, state.past if after is None else after)

    @cached_property
    def _prepared(self) -> Any:
        return prepare(self.offsets, self.residues, self.head)


def modal_response(
    offsets: Inexact[Tensor, "channels d_state"], residues: Inexact[Tensor, "channels d_state"], length: int
) -> Float[Tensor, "channels length"]:
    """Taps of the modes: powers within a chunk times powers of whole chunks, never (channels, modes, length)."""
    taps: Tensor = _RESPONSE(offsets, residues, length)
    return taps


def _response(offsets: Tensor, residues: Tensor, length: int) -> Tensor:
    inner = _powers(offsets, min(length, CHUNK))
    leap, anchors = _advance(offsets, inner[:, :, -1]), [residues]
    for _ in range(CHUNK, length, CHUNK):
        anchors.append(anchors[-1] * leap)
    taps = torch.einsum("cni,cnl->cil", torch.stack(anchors, dim=2), inner).real
    return taps.flatten(1)[:, :length]


def _chunk_scan(u: Tensor, offsets: Tensor, residues: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of the modes without a head, and the hidden state after ``u``: chunk by chunk."""
    outputs, powers = [], _powers(offsets, min(u.shape[1], CHUNK))
    for entering in u.split(CHUNK, dim=1):
        here = powers[:, :, : entering.shape[1]]
        echo = torch.einsum("bcn,cnl->blc", residues * _advance(offsets, hidden), here).real
        outputs.append(echo + fft_conv(entering, torch.einsum("cn,cnl->cl", residues, here).real))
        inflow = torch.einsum("cnl,blc->bcn", here.flip(2), entering.to(here.dtype))
        hidden = _advance(offsets, here[:, :, -1]) * hidden + inflow
    return torch.cat(outputs, dim=1), hidden


_RESPONSE = Composed(
    "modal_response",
    _response,
    lambda offsets, residues, length: residues.real.new_empty(offsets.shape[0], length),
)
_CHUNK_SCAN = Composed(
    "diagonal_chunk_scan",
    _chunk_scan,
    lambda u, offsets, residues, hidden: (u.new_empty(u.shape), hidden.new_empty(hidden.shape)),
)


def _advance(offsets: Tensor, x: Tensor) -> Tensor:
    """``poles * x``."""
    return torch.addcmul(x, offsets, x)


def _powers(offsets: Tensor, length: int) -> Inexact[Tensor, "channels d_state length"]:
    """``poles ** t`` for t = 0 .. length - 1, by doubling ``poles ** (2^k) - 1``, which keeps its digits."""
    powers, offset = torch.ones_like(offsets)[:, :, None], offsets
    while powers.shape[2] < length:
        powers = torch.cat([powers, torch.addcmul(powers, powers, offset[:, :, None])], dim=2)
        offset = offset * (2 + offset)
    return powers[:, :, :length]
