"""Causal depthwise convolution with a filter as long as the sequence.

Equation: ``y[t, c] = g_out[t, c] * (sum_{s=0..t} h[c, s] v[t-s, c] + skip[c] v[t, c])`` with
``v = g_in * u``. Computed in O(length log length) by the FFT.

With ``frequency_limit`` the filter is cut off in its spectrum: of the M = 2^k >= max(256, past + length) points of the
transform at the frequencies ``|4k - 1| pi / 2M``, those below the limit stay (with half a bin to spare), the others are
zero and their products are left out where an implementation can. Such a filter rings before lag 0 and beyond its end.
"""

from jaxtyping import Float
from torch import Tensor

from .._core.checks import check_floating, check_shape
from .._core.errors import argument_error
from .._core.operator.inputs import given_tensors
from .spec import CONV, Inputs


def fft_conv(
    u: Float[Tensor, "batch length channels"],
    h: Float[Tensor, "channels taps"],
    *,
    skip: Float[Tensor, " channels"] | None = None,
    pre_gate: Float[Tensor, "batch length channels"] | None = None,
    post_gate: Float[Tensor, "batch length channels"] | None = None,
    history: Float[Tensor, "batch past channels"] | None = None,
    frequency_limit: float | None = None,
    implementation: str | None = None,
) -> Float[Tensor, "batch length channels"]:
    """Convolve every channel with its own causal filter; differentiable in every tensor.

    Args:
        u: signal.
        h: impulse responses, lag 0 first; shorter or longer than the signal.
        skip: added to ``h[:, 0]``.
        pre_gate: multiplies ``u`` before the convolution.
        post_gate: multiplies the result.
        history: the (gated) signal before ``u``, oldest first, for chunked use.
        frequency_limit: keep the frequencies of ``h`` and ``skip`` below this fraction of the Nyquist frequency, in
            (0, 1); ``None`` keeps all. The result then depends on later inputs: not for autoregressive models.
        implementation: a name, or ``None`` for the fastest that serves.

    Returns:
        Tensor shaped and typed like ``u``; accumulated in float32 at least.

    Raises:
        ValueError: ranks, channels, devices or gates that do not match; a limit outside of (0, 1).
    """
    return CONV(Inputs(u, h, skip, pre_gate, post_gate, history, frequency_limit), _check, implementation)


def _check(operation: str, inputs: Inputs) -> None:
    u, h, past, limit = inputs.u, inputs.h, inputs.history, inputs.frequency_limit
    if u.dim() != 3 or h.dim() != 2 or h.shape[0] != u.shape[2] or h.shape[1] == 0:
        got = f"u of shape {tuple(u.shape)} and h of shape {tuple(h.shape)}"
        wanted = "u (batch, length, channels) and h (channels, taps)"
        raise argument_error(operation, got, wanted, "transpose one of them")
    check_shape(operation, "skip", inputs.skip, "channels", (u.shape[2],))
    for name, gate in (("pre_gate", inputs.pre_gate), ("post_gate", inputs.post_gate)):
        check_shape(operation, name, gate, "batch, length, channels", tuple(u.shape))
    if past is not None and (past.dim() != 3 or past.shape[0] != u.shape[0] or past.shape[2] != u.shape[2]):
        wanted = f"({u.shape[0]}, past, {u.shape[2]})"
        raise argument_error(operation, f"history of shape {tuple(past.shape)}", wanted, "pass the inputs before u")
    check_floating(operation, given_tensors(inputs), u.device)
    if limit is not None and not 0 < limit < 1:
        wanted = "a fraction of the Nyquist frequency in (0, 1)"
        raise argument_error(operation, f"frequency_limit={limit}", wanted, "divide by half the sample rate")
