"""A tile of an online convolution by FFT: what N inputs add to the N outputs after them.

Equation, with the taps ``h[0..2N-1]``: ``sums[i] += sum_{j<N} h[N + i - j] x[j]``. The spectrum of the taps is made
once, by :func:`fft_tile_spectrum`; a transform of real signals of length 2N, or a complex one of length N, does it all.
Source: van der Hoeven 1997 (relaxed multiplication).
"""

from jaxtyping import Float, Inexact
from torch import Tensor

from .._core.checks import check_shape
from .._core.dispatch import Imported
from .._core.errors import argument_error
from .spec import SPECTRUM, TILE, SpectrumInputs, TileInputs

_CPU_REASON = Imported("fft_tile.cpu:unsupported_reason")


def fft_tile_spectrum(
    taps: Float[Tensor, "channels taps"], size: int, *, implementation: str | None = None
) -> Inexact[Tensor, "..."]:
    """Spectrum of the first ``2 size`` taps, fewer are padded with zeros, for tiles of ``size``.

    Its form is that of the implementation that made it: real, (2, size, channels), or complex, (channels, size + 1).

    Raises:
        ValueError: no taps, or a size below 1.
    """
    return SPECTRUM(SpectrumInputs(taps, size), _check_spectrum, implementation)


def fft_tile(
    x: Float[Tensor, "batch size width"], spectrum: Inexact[Tensor, "..."], sums: Float[Tensor, "batch size width"]
) -> None:
    """Add a tile to ``sums``, in place; differentiable in everything if the spectrum is complex.

    Args:
        x: inputs; their channels repeat in the width, head after head.
        spectrum: from :func:`fft_tile_spectrum`, for this size. A real one serves on the CPU without gradients.
        sums: of the outputs after the inputs.

    Raises:
        ValueError: shapes that do not match; a real spectrum for inputs that it does not serve.
    """
    TILE(TileInputs(x, spectrum, sums), _check_tile, "reference" if spectrum.is_complex() else "cpu")


def serves(spectrum: Inexact[Tensor, "..."], x: Float[Tensor, "..."], sums: Float[Tensor, "..."]) -> bool:
    """Whether :func:`fft_tile` takes this spectrum for these inputs."""
    return spectrum.is_complex() or _CPU_REASON.resolve()(TileInputs(x, spectrum, sums)) is None


def _check_spectrum(operation: str, inputs: SpectrumInputs) -> None:
    taps, size = inputs
    if taps.dim() != 2 or taps.shape[1] == 0 or size < 1:
        got = f"taps of shape {tuple(taps.shape)} and size={size}"
        raise argument_error(operation, got, "(channels, taps >= 1) and a size of at least 1", "transpose the taps")


def _check_tile(operation: str, inputs: TileInputs) -> None:
    x, spectrum, sums = inputs
    check_shape(operation, "sums", sums, "batch, size, width", tuple(x.shape))
    real = not spectrum.is_complex()
    size, channels = spectrum.shape[1:] if real else (spectrum.shape[1] - 1, spectrum.shape[0])
    if x.dim() != 3 or x.shape[1] != size or x.shape[2] % channels:
        got = f"x of shape {tuple(x.shape)} for a spectrum of shape {tuple(spectrum.shape)}"
        wanted = f"(batch, {size}, a multiple of {channels})"
        raise argument_error(operation, got, wanted, "make the spectrum for this size")
