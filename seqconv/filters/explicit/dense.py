"""Dense state spaces: ``x_t = A x_{t-1} + B u_t``, ``y_t = C x_t``, all real, so ``h[t] = C A^t B``.

Powers of A act on the left of a few columns and on the right of a few rows only: with ``t = T i + j`` the
response is ``(C A^(T i)) (A^j B)``, two tables of about sqrt(length) entries each and one product per channel.
"""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from seqconv_kernels import fft_conv
from seqconv_kernels._core.operator.composed import Composed

from ...state import State, state_class
from ..base import Recurrence, add_skip, foreign_state

CHUNK = 64
"""Steps that a prefill takes at once; a power of 2."""


@state_class
class DenseState(State):
    """Hidden state."""

    hidden: Float[Tensor, "batch channels d_state"]


@state_class
class DenseSSM(Recurrence):
    """Discretised dense state space, one per channel."""

    A: Float[Tensor, "channels d_state d_state"]
    B: Float[Tensor, "channels d_state"]
    C: Float[Tensor, "channels d_state"]

    batch_free: ClassVar[frozenset[str]] = frozenset({"A", "B", "C"})

    def init_state(self, batch_size: int) -> State:
        return DenseState(self.B.new_zeros(batch_size, *self.B.shape))

    def _own(self, operation: str, u: Tensor, state: State) -> DenseState:
        """The state, if it is one of this recurrence for that many rows."""
        sizes = (u.shape[0], *self.B.shape)
        if not isinstance(state, DenseState) or state.hidden.shape != sizes or u.shape[-1] != sizes[1]:
            wanted = f"DenseState of {sizes[0]} rows and {sizes[1]} channels of {sizes[2]} numbers"
            raise foreign_state(f"DenseSSM.{operation}", state, wanted)
        return state

    def prefill(
        self, u: Float[Tensor, "batch length channels"], state: State
    ) -> tuple[Float[Tensor, "batch length channels"], State]:
        state = self._own("prefill", u, state)
        y, hidden = _CHUNK_SCAN(u.to(self.B.dtype), self.A, self.B, self.C, state.hidden)
        return y.to(u.dtype), DenseState(hidden)

    def step(
        self, u_t: Float[Tensor, "batch channels"], state: State, *, skip: Float[Tensor, " channels"] | None = None
    ) -> tuple[Float[Tensor, "batch channels"], State]:
        state = self._own("step", u_t, state)
        carried = (self.A @ state.hidden.permute(1, 2, 0)).permute(2, 0, 1)
        hidden = carried + self.B * u_t[..., None].to(self.B.dtype)
        return add_skip((self.C * hidden).sum(-1).to(u_t.dtype), u_t, skip), DenseState(hidden)


def dense_response(
    A: Float[Tensor, "features d_state d_state"],
    B: Float[Tensor, "features d_state"],
    C: Float[Tensor, "heads features d_state"],
    length: int,
) -> Float[Tensor, "heads features length"]:
    """The first ``length`` taps ``C A^t B``."""
    taps: Tensor = _RESPONSE(A, B, C, length)
    return taps


def _response(A: Tensor, B: Tensor, C: Tensor, length: int) -> Tensor:
    heads, features, d_state = C.shape
    fine = 1 << (math.isqrt(length - 1).bit_length() if length > 1 else 0)
    coarse = -(-length // fine)
    columns, powers = krylov(A, B[..., None], fine)
    rows = krylov(powers[-1].mT, C.permute(1, 2, 0), coarse)[0]
    rows = rows.view(features, d_state, coarse, heads)
    taps = torch.einsum("fnih,fnj->hfij", rows, columns)
    return taps.flatten(2)[..., :length]


def _chunk_scan(u: Tensor, A: Tensor, B: Tensor, C: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs for ``u`` and the hidden state after it: chunk by chunk."""
    size = min(CHUNK, 1 << (u.shape[1] - 1).bit_length())
    columns, powers = krylov(A, B[..., None], size)
    rows = krylov(A.mT, (A.mT @ C[..., None]), size)[0].mT
    response, outputs = (C[:, None] @ columns)[:, 0], []
    for entering in u.split(size, dim=1):
        steps = entering.shape[1]
        echo = torch.einsum("ctn,bcn->btc", rows[:, :steps], hidden)
        outputs.append(echo + fft_conv(entering, response[:, :steps]))
        inflow = torch.einsum("cnt,btc->bcn", columns[..., :steps].flip(-1), entering)
        hidden = apply_power(powers, steps, hidden.permute(1, 2, 0)).permute(2, 0, 1) + inflow
    return torch.cat(outputs, dim=1), hidden


_RESPONSE = Composed("dense_response", _response, lambda A, B, C, length: C.new_empty(*C.shape[:2], length))
_CHUNK_SCAN = Composed(
    "dense_chunk_scan",
    _chunk_scan,
    lambda u, A, B, C, hidden: (u.new_empty(u.shape), hidden.new_empty(hidden.shape)),
)


def krylov(
    A: Float[Tensor, "channels d_state d_state"], columns: Float[Tensor, "channels d_state width"], count: int
) -> tuple[Float[Tensor, "channels d_state columns"], list[Tensor]]:
    """``A^t columns`` for t = 0 .. count - 1 concatenated, by doubling, and the powers A, A^2, A^4 ... used.

    The last power is ``A^count`` if ``count`` is a power of 2.
    """
    width, powers = columns.shape[2], [A]
    while columns.shape[2] < count * width:
        columns = torch.cat([columns, powers[-1] @ columns], dim=2)
        powers.append(powers[-1] @ powers[-1])
    return columns[..., : count * width], powers


def binary_powers(A: Float[Tensor, "channels d_state d_state"], exponent: int) -> list[Tensor]:
    """A, A^2, A^4 ... as many as the binary digits of ``exponent``."""
    powers = [A]
    for _ in range(exponent.bit_length() - 1):
        powers.append(powers[-1] @ powers[-1])
    return powers


def apply_power(
    powers: list[Tensor], exponent: int, columns: Float[Tensor, "channels d_state width"]
) -> Float[Tensor, "channels d_state width"]:
    """``A^exponent columns`` from the binary powers of A."""
    for digit, power in enumerate(powers):
        if exponent >> digit & 1:
            columns = power @ columns
    return columns
