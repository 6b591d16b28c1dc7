"""Causal depthwise convolution with a filter as long as the sequence.

Equation: ``y[t, c] = g_out[t, c] * (sum_{s=0..t} h[c, s] v[t-s, c] + skip[c] v[t, c])`` with
``v = g_in * u``. Computed in O(length log length) by the FFT.

With ``frequency_limit`` the filter is cut off in its spectrum: of the M = 2^k >= max(256, past + length) points of the
transform at the frequencies ``|4k - 1| pi / 2M``, those below the limit stay (with half a bin to spare), the others are
zero and their products are left out where an implementation can. Such a filter rings before lag 0 and beyond its end.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from .._core.dispatch import Call, Implementation, Op, lazy, serves_all
from .._core.errors import argument_error
from .._core.triton_support import refuse as refuse_triton


def _reference() -> Any:
    from .reference import fft_conv

    return fft_conv


def _cpu() -> Any:
    from .cpu import fft_conv

    return fft_conv


@lazy
def _refuse_cpu() -> Callable[[Call], str | None]:
    from .cpu import refuse

    return refuse


def _triton() -> Any:
    from .triton import fft_conv

    return fft_conv


def _refuse_triton(call: Call) -> str | None:
    if call.given()["u"].shape[1] == 0:
        return "u has no time steps"
    return refuse_triton(call, activation="u", parameters=("h", "skip", "history"))


OP = Op(
    "fft_conv",
    Implementation("triton", _triton, _refuse_triton),
    Implementation("cpu", _cpu, _refuse_cpu),
    Implementation("reference", _reference, serves_all),
)


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
            (0, 1); ``None`` keeps all. The result then hears inputs ahead of it: not for autoregressive models.
        implementation: a name, or ``None`` for the fastest that serves.

    Returns:
        Tensor shaped and typed like ``u``; accumulated in float32 at least.

    Raises:
        ValueError: ranks, channels, devices or gates that do not match; a limit outside of (0, 1).
    """
    tensors = {"u": u, "h": h, "skip": skip, "pre_gate": pre_gate, "post_gate": post_gate, "history": history}
    _check(tensors)
    if frequency_limit is not None and not 0 < frequency_limit < 1:
        got = f"frequency_limit={frequency_limit}"
        raise argument_error(
            "fft_conv", got, "a fraction of the Nyquist frequency in (0, 1)", "divide by half the sample rate"
        )
    run = OP.choose(implementation, Call(tensors, {"frequency_limit": frequency_limit}))
    return run(u, h, skip, pre_gate, post_gate, history, frequency_limit)  # type: ignore[no-any-return]


def _check(tensors: dict[str, Tensor | None]) -> None:
    u, h = tensors["u"], tensors["h"]
    assert u is not None
    assert h is not None
    if u.dim() != 3 or h.dim() != 2 or h.shape[0] != u.shape[2] or h.shape[1] == 0:
        got = f"u of shape {tuple(u.shape)} and h of shape {tuple(h.shape)}"
        raise argument_error(
            "fft_conv", got, "u (batch, length, channels) and h (channels, taps)", "transpose one of them"
        )
    shapes = {"skip": (u.shape[2],), "pre_gate": u.shape, "post_gate": u.shape}
    for name, wanted in shapes.items():
        t = tensors[name]
        if t is not None and tuple(t.shape) != tuple(wanted):
            raise argument_error("fft_conv", f"{name} of shape {tuple(t.shape)}", f"{tuple(wanted)}", f"reshape {name}")
    past = tensors["history"]
    if past is not None and (past.dim() != 3 or past.shape[0] != u.shape[0] or past.shape[2] != u.shape[2]):
        wanted_text = f"({u.shape[0]}, past, {u.shape[2]})"
        raise argument_error(
            "fft_conv", f"history of shape {tuple(past.shape)}", wanted_text, "pass the inputs before u"
        )
    for name, t in tensors.items():
        if t is not None and (t.device != u.device or not t.is_floating_point()):
            got = f"{name} on {t.device} of dtype {t.dtype}"
            raise argument_error("fft_conv", got, f"a floating dtype on {u.device}", f"convert {name} with .to()")
