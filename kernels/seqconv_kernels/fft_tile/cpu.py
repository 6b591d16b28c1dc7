"""The tile by FFT in C++, called without an operator: in place, without gradients."""

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .._core import native
from .._core.operator.inputs import given_tensors
from ..fft_conv.cpu import SMALLEST, tables
from .spec import SpectrumInputs, TileInputs


def unsupported_reason(inputs: SpectrumInputs | TileInputs) -> str | None:
    """Why this implementation does not support the inputs, or ``None``."""
    size = inputs.size if isinstance(inputs, SpectrumInputs) else inputs.x.shape[1]
    if size < SMALLEST or size & (size - 1):
        return f"a tile of {size} is not a power of two of at least {SMALLEST}"
    if torch.compiler.is_compiling():
        return "under the compiler, which must see what is written"
    tensors = given_tensors(inputs)
    dtypes = {t.dtype for t in tensors.values()}
    if dtypes not in ({torch.float32}, {torch.float64}):
        return f"dtypes {', '.join(sorted(map(str, dtypes)))}, wanted all float32 or all float64"
    for name, tensor in tensors.items():
        if tensor.requires_grad and (torch.is_grad_enabled() or name == "sums"):
            return f"{name} needs a gradient, which only the reference gives"
        reason = native.memory_reason(name, tensor)
        if reason is not None:
            return reason
    return _sums_unsupported_reason(tensors.get("sums")) or native.unsupported_reason(inputs)


def _sums_unsupported_reason(sums: Tensor | None) -> str | None:
    if sums is None:
        return None
    frozen = sums.is_inference() and not torch.is_inference_mode_enabled()
    return "sums cannot be written in their layout" if sums.stride(2) != 1 or frozen else None


def fft_tile_spectrum(inputs: SpectrumInputs) -> Tensor:
    """Of h[N + k] - i h[k], in the order of the transform: (real or imaginary, frequencies, channels)."""
    size, taps = inputs.size, native.dense_rows(inputs.taps[:, : 2 * inputs.size])
    spectrum = taps.new_empty(2, size, taps.shape[0])
    views = map(native.view, (taps, tables(size, taps.dtype), spectrum))
    native.library().fft_tile_spectrum(*views, torch.get_num_threads())
    return spectrum


def fft_tile(inputs: TileInputs) -> None:
    """Adds to the sums."""
    x, spectrum, sums = native.dense_rows(inputs.x), inputs.spectrum.contiguous(), inputs.sums
    factors = tables(x.shape[1], x.dtype)
    native.library().fft_tile(*map(native.view, (x, spectrum, factors, sums)), torch.get_num_threads())
    if not torch.is_inference_mode_enabled():
        increment_version(sums)
