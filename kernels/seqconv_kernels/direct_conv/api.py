"""Direct sums of an online convolution: what is too short for an FFT.

``direct_conv_step`` is one output over the last n inputs, which are in a ring; ``direct_conv_tile`` adds what a block
of inputs contributes to a block of later outputs. Source: the two parts of relaxed multiplication (van der Hoeven
1997) below the size from which an FFT is faster.
"""

from jaxtyping import Float
from torch import Tensor

from .._core.errors import argument_error
from .spec import STEP, TILE, StepInputs, TileInputs


def direct_conv_step(
    u: Float[Tensor, "batch width"],
    taps: Float[Tensor, "lags width"],
    past: Float[Tensor, "batch ring width"],
    sums: Float[Tensor, "batch ring width"],
    *,
    row: int,
    count: int,
    implementation: str | None = None,
) -> Float[Tensor, "batch width"]:
    """``y = sums[row] + sum_{s < count} taps[s] past[(row - s) mod ring]``, with ``u`` as ``past[row]``.

    ``u`` is written into ``past[row]``, and ``sums[row]``, which is used up, becomes zero. Differentiable in every
    tensor; the caller passes buffers that autograd does not need as they were.

    Args:
        u: inputs of this step.
        taps: impulse responses, lag 0 first.
        past, sums: rings with a row per step, of the dtype of the taps.
        row: of this step.
        count: lags to sum over.
        implementation: ``"cpu"``, ``"reference"`` or ``None`` for the fastest that serves.

    Returns:
        y of the dtype of ``u``.

    Raises:
        ValueError: shapes, dtypes or devices that do not match; a row or a count outside the ring or the taps.
    """
    return STEP(StepInputs(u, taps, past, sums, row, count), _check_step, implementation)


def direct_conv_tile(
    x: Float[Tensor, "batch inputs width"],
    taps: Float[Tensor, "lags width"],
    sums: Float[Tensor, "batch outputs width"],
    *,
    lag: int,
    implementation: str | None = None,
) -> None:
    """``sums[i] += sum_j taps[lag + i - j] x[j]``; differentiable in every tensor.

    Args:
        x: a block of inputs.
        taps: impulse responses, lag 0 first.
        sums: of a block of outputs, added to in place.
        lag: between the first input and the first output.
        implementation: ``"cpu"``, ``"reference"`` or ``None`` for the fastest that serves.

    Raises:
        ValueError: shapes, dtypes or devices that do not match; lags that the taps do not have.
    """
    TILE(TileInputs(x, taps, sums, lag), _check_tile, implementation)


def _check_step(operation: str, inputs: StepInputs) -> None:
    u, taps, past, sums, row, count = inputs
    rows = past.shape
    tensors = {"u": u, "taps": taps, "past": past, "sums": sums}
    if not (len(rows) == 3 and sums.shape == rows and u.shape == (rows[0], rows[2]) and taps.shape[1:] == rows[2:]):
        got = ", ".join(f"{n} {tuple(t.shape)}" for n, t in tensors.items())
        wanted = "u (batch, width), taps (lags, width), past and sums (batch, ring, width)"
        raise argument_error(operation, got, wanted, "pass one time step and its rings")
    if not (0 <= row < rows[1] and 1 <= count <= min(rows[1], taps.shape[0])):
        got = f"row={row} and count={count} for a ring of {rows[1]} and {taps.shape[0]} taps"
        raise argument_error(operation, got, "a row of the ring, 1 to that many lags", "correct row or count")


def _check_tile(operation: str, inputs: TileInputs) -> None:
    x, taps, sums, lag = inputs
    tensors = {"x": x, "taps": taps, "sums": sums}
    fits = x.dim() == sums.dim() == 3 and taps.dim() == 2 and x.shape[0] == sums.shape[0] and 0 not in x.shape[1:]
    if not (fits and x.shape[2] == sums.shape[2] == taps.shape[1] and sums.shape[1] > 0):
        got = ", ".join(f"{n} {tuple(t.shape)}" for n, t in tensors.items())
        wanted = "x (batch, inputs, width), taps (lags, width) and sums (batch, outputs, width)"
        raise argument_error(operation, got, wanted, "pass blocks of at least one step")
    if lag < x.shape[1] - 1 or lag + sums.shape[1] > taps.shape[0]:
        got = f"lag={lag} for {x.shape[1]} inputs, {sums.shape[1]} outputs and {taps.shape[0]} taps"
        raise argument_error(operation, got, "lags within the taps", "pad the taps with zeros")
