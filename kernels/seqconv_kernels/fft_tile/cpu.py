"""The tile by FFT in C++, called without an operator: in place, without gradients."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .._core import native
from .._core.dispatch import Call
from ..fft_conv.cpu import SMALLEST, tables


def refuse(call: Call) -> str | None:
    """Why this implementation cannot serve the call, or ``None``."""
    x = call.tensors.get("x")
    size: Any = call.options["size"] if x is None else x.shape[1]
    if size < SMALLEST or size & (size - 1):
        return f"a tile of {size} is not a power of two of at least {SMALLEST}"
    if torch.compiler.is_compiling():
        return "under the compiler, which must see what is written"
    dtypes = {t.dtype for t in call.given().values()}
    if dtypes not in ({torch.float32}, {torch.float64}):
        return f"dtypes {', '.join(sorted(map(str, dtypes)))}, wanted all float32 or all float64"
    for name, tensor in call.given().items():
        if tensor.requires_grad and (torch.is_grad_enabled() or name == "sums"):
            return f"{name} needs a gradient, which only the reference gives"
        reason = native.refuse_memory(name, tensor)
        if reason is not None:
            return reason
        if name == "sums" and (
            tensor.stride(2) != 1 or (tensor.is_inference() and not torch.is_inference_mode_enabled())
        ):
            return "sums cannot be written as they lie"
    return native.refuse_call(call.given())


def fft_tile_spectrum(taps: Tensor, size: int) -> Tensor:
    """Of h[N + k] - i h[k], in the order of the transform: (real or imaginary, frequencies, channels)."""
    taps = native.dense_rows(taps)
    spectrum = taps.new_empty(2, size, taps.shape[0])
    views = map(native.view, (taps, tables(size, taps.dtype), spectrum))
    native.library().fft_tile_spectrum(*views, torch.get_num_threads())
    return spectrum


def fft_tile(x: Tensor, spectrum: Tensor, sums: Tensor) -> None:
    """Adds to the sums."""
    x, spectrum, room = native.dense_rows(x), spectrum.contiguous(), tables(x.shape[1], x.dtype)
    native.library().fft_tile(*map(native.view, (x, spectrum, room, sums)), torch.get_num_threads())
    if not torch.is_inference_mode_enabled():
        increment_version(sums)
