"""One time step of diagonal state spaces: what convolutions with a recurrence decode with.

Equation, with ``offsets = poles - 1`` and F taps in the head: ``x_t = x_{t-1} + offsets ⊙ x_{t-1} + u_{t-F}`` and
``y_t = sum_{s<F} head[s] u_{t-s} + Re(sum_n residues_n x_{t,n}) + skip u_t``. Near a pole of 1 the offset has digits
that the pole itself has not. A pole with an imaginary part represents its conjugate too, if its residue is doubled.
"""

from typing import Any

from jaxtyping import Float, Inexact
from torch import Tensor

from .._core.checks import check_shape
from .._core.dispatch import Imported
from .._core.errors import argument_error
from .spec import STEP, Inputs

_PREPARED = Imported("diagonal_step.cpu:Prepared")


def diagonal_step(
    u: Float[Tensor, "batch channels"],
    offsets: Inexact[Tensor, "channels modes"],
    residues: Inexact[Tensor, "channels modes"],
    *,
    hidden: Inexact[Tensor, "batch channels modes"],
    head: Float[Tensor, "channels taps"] | None = None,
    past: Float[Tensor, "batch taps channels"] | None = None,
    skip: Float[Tensor, " channels"] | None = None,
    implementation: str | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One step: the output, the next hidden state and the next past; differentiable in every tensor.

    The states that were passed in must not be used again: without gradients they are overwritten on the CPU.

    Args:
        u: inputs.
        offsets: poles minus one, real or complex.
        residues: like the offsets.
        hidden: state, of the dtype of the offsets and residues, which is float32 or complex64 at least.
        head: the first taps, lag 0 first; at least one.
        past: the inputs that have not entered the state, oldest first; as many as there are taps in the head.
        skip: added to the first tap.
        implementation: ``"cpu"``, ``"reference"`` or ``None`` for the fastest that serves.

    Returns:
        y of the dtype of ``u``, the hidden state, and the past (``None`` without a head).

    Raises:
        ValueError: shapes, dtypes or devices that do not match; a head without a past.
    """
    return STEP(Inputs(u, offsets, residues, head, skip, hidden, past), _check, implementation)


def prepare(offsets: Tensor, residues: Tensor, head: Tensor | None) -> Any:
    """The parameters of a recurrence checked once: a :class:`~seqconv_kernels.diagonal_step.cpu.Prepared`."""
    return _PREPARED.resolve()(offsets, residues, head)


def _check(operation: str, inputs: Inputs) -> None:
    u, offsets, residues, head, skip, hidden, past = inputs
    modes = hidden.shape[1:]
    alike = offsets.dtype is residues.dtype is hidden.dtype and offsets.device == residues.device == hidden.device
    if not (alike and u.shape == hidden.shape[:2] and offsets.shape == residues.shape == modes and len(modes) == 2):
        raise _misfit(operation, u, offsets, residues, hidden)
    if head is not None or past is not None or skip is not None:
        _check_taps(operation, u, head, past, skip)


def _misfit(operation: str, u: Tensor, offsets: Tensor, residues: Tensor, hidden: Tensor) -> ValueError:
    """The error that names the first of the modes that does not fit."""
    if hidden.dim() != 3 or u.shape != hidden.shape[:2]:
        got = f"u of shape {tuple(u.shape)} and hidden of shape {tuple(hidden.shape)}"
        return argument_error(operation, got, "(batch, channels) and (batch, channels, modes)", "take one time step")
    wanted = f"{tuple(hidden.shape[1:])}, {hidden.dtype} on {hidden.device}, like hidden"
    pair = {"offsets": offsets, "residues": residues}
    name, tensor = next((n, t) for n, t in pair.items() if not _same(t, hidden))
    got = f"{name} of shape {tuple(tensor.shape)} and dtype {tensor.dtype} on {tensor.device}"
    return argument_error(operation, got, wanted, f"reshape or convert {name}")


def _same(modes: Tensor, hidden: Tensor) -> bool:
    return modes.shape == hidden.shape[1:] and modes.dtype is hidden.dtype and modes.device == hidden.device


def _check_taps(operation: str, u: Tensor, head: Tensor | None, past: Tensor | None, skip: Tensor | None) -> None:
    batch, channels = u.shape
    if skip is not None and skip.shape != (channels,):
        check_shape(operation, "skip", skip, "channels", (channels,))
    if (head is None) != (past is None):
        got = f"{'no' if head is None else 'a'} head and {'no' if past is None else 'a'} past"
        raise argument_error(operation, got, "both or neither", "pass the last inputs as past")
    if (
        head is None
        or past is None
        or (head.shape == (channels, past.shape[1]) and past.shape[::2] == (batch, channels))
    ):
        return
    taps = max(1, head.shape[-1])
    check_shape(operation, "head", head, "channels, taps >= 1", (channels, taps))
    check_shape(operation, "past", past, "batch, taps, channels", (batch, taps, channels))
