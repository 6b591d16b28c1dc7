"""A tile of an online convolution by FFT: what N inputs add to the N outputs behind them.

Equation, with the taps ``h[0..2N-1]``: ``sums[i] += sum_{j<N} h[N + i - j] x[j]``. The spectrum of the taps is made
once, by :func:`fft_tile_spectrum`; a transform of real signals of length 2N, or a complex one of length N, does it all.
Source: van der Hoeven 1997 (relaxed multiplication).
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float, Inexact
from torch import Tensor

from .._core.checks import check_shape
from .._core.dispatch import Call, Implementation, Op, lazy, serves_all
from .._core.errors import argument_error


def _reference(name: str) -> Any:
    from . import reference

    return getattr(reference, name)


def _cpu(name: str) -> Any:
    from . import cpu

    return getattr(cpu, name)


@lazy
def _refuse_cpu() -> Callable[[Call], str | None]:
    from .cpu import refuse

    return refuse


SPECTRUM = Op(
    "fft_tile_spectrum",
    Implementation("cpu", lambda: _cpu("fft_tile_spectrum"), _refuse_cpu),
    Implementation("reference", lambda: _reference("fft_tile_spectrum"), serves_all),
)
TILE = Op(
    "fft_tile",
    Implementation("cpu", lambda: _cpu("fft_tile"), _refuse_cpu),
    Implementation("reference", lambda: _reference("fft_tile"), serves_all),
)


def fft_tile_spectrum(
    taps: Float[Tensor, "channels taps"], size: int, *, implementation: str | None = None
) -> Inexact[Tensor, "..."]:
    """Spectrum of the first ``2 size`` taps, fewer are padded with zeros, for tiles of ``size``.

    Its form is that of the implementation that made it: real, (2, size, channels), or complex, (channels, size + 1).

    Raises:
        ValueError: no taps, or a size below 1.
    """
    if taps.dim() != 2 or taps.shape[1] == 0 or size < 1:
        got = f"taps of shape {tuple(taps.shape)} and size={size}"
        raise argument_error(
            "fft_tile_spectrum", got, "(channels, taps >= 1) and a size of at least 1", "transpose the taps"
        )
    run = SPECTRUM.choose(implementation, Call({"taps": taps}, {"size": size}))
    return run(taps[:, : 2 * size], size)  # type: ignore[no-any-return]


def fft_tile(
    x: Float[Tensor, "batch size width"], spectrum: Inexact[Tensor, "..."], sums: Float[Tensor, "batch size width"]
) -> None:
    """Add a tile to ``sums``, in place; differentiable in everything if the spectrum is complex.

    Args:
        x: inputs; their channels repeat in the width, head after head.
        spectrum: from :func:`fft_tile_spectrum`, for this size. A real one serves on the CPU without gradients.
        sums: of the outputs behind the inputs.

    Raises:
        ValueError: shapes that do not match; a real spectrum for inputs that it does not serve.
    """
    check_shape("fft_tile", "sums", sums, "batch, size, width", tuple(x.shape))
    native = not spectrum.is_complex()
    size, channels = spectrum.shape[1:] if native else (spectrum.shape[1] - 1, spectrum.shape[0])
    if x.dim() != 3 or x.shape[1] != size or x.shape[2] % channels:
        got = f"x of shape {tuple(x.shape)} for a spectrum of shape {tuple(spectrum.shape)}"
        raise argument_error(
            "fft_tile", got, f"(batch, {size}, a multiple of {channels})", "make the spectrum for this size"
        )
    call = Call({"x": x, "spectrum": spectrum, "sums": sums})
    TILE.choose("cpu" if native else "reference", call)(x, spectrum, sums)


def serves(spectrum: Inexact[Tensor, "..."], x: Float[Tensor, "..."], sums: Float[Tensor, "..."]) -> bool:
    """Whether :func:`fft_tile` takes this spectrum for these inputs."""
    call = Call({"x": x, "spectrum": spectrum, "sums": sums})
    return spectrum.is_complex() or _refuse_cpu(call) is None
