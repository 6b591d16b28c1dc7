"""The inputs of a tile by FFT and its implementations, fastest first."""

from typing import NamedTuple

from torch import Tensor

from .._core.dispatch import Implementation, Op


class SpectrumInputs(NamedTuple):
    """What an implementation of the spectrum receives; shapes as in :func:`.api.fft_tile_spectrum`."""

    taps: Tensor
    size: int


class TileInputs(NamedTuple):
    """What an implementation of a tile receives; shapes as in :func:`.api.fft_tile`."""

    x: Tensor
    spectrum: Tensor
    sums: Tensor


SPECTRUM: Op[SpectrumInputs, Tensor] = Op(
    "fft_tile_spectrum",
    SpectrumInputs,
    Implementation("cpu", "fft_tile.cpu:fft_tile_spectrum", "fft_tile.cpu:unsupported_reason"),
    Implementation("reference", "fft_tile.reference:fft_tile_spectrum"),
    remember=False,
)
TILE: Op[TileInputs, None] = Op(
    "fft_tile",
    TileInputs,
    Implementation("cpu", "fft_tile.cpu:fft_tile", "fft_tile.cpu:unsupported_reason"),
    Implementation("reference", "fft_tile.reference:fft_tile"),
    remember=False,
)
