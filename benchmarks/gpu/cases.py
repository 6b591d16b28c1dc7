"""The shapes: those of real models for a GPU, tiny ones for Triton's interpreter."""

from collections.abc import Iterator
from functools import partial
from importlib import import_module
from typing import Any

import torch

import seqconv_kernels as K
from seqconv_kernels._core.registry import ops

from .checks import Check

HALF = (torch.float32, torch.bfloat16, torch.float16)
SIZES: dict[str, dict[str, tuple[Any, ...]]] = {
    "causal_conv1d": {"real": (2, 1023, 1536, 4), "tiny": (2, 33, 24, 4)},
    "selective_scan": {"real": (2, 1023, 1536, 16), "tiny": (2, 33, 24, 4)},
    "linear_scan": {"real": (2, 4095, 1024), "tiny": (2, 37, 5)},
    "gated_linear_attention": {"real": (2, 1023, 4, 128, 128), "tiny": (1, 37, 2, 16, 16)},
    "ssd": {"real": (2, 1023, 24, 64, 1, 128), "tiny": (1, 37, 24, 8, 1, 8)},
    "delta_rule": {"real": (2, 1023, 8, 128, 128), "tiny": (1, 37, 2, 16, 16)},
    "dplr_delta_rule": {"real": (2, 1023, 8, 64, 64), "tiny": (1, 19, 2, 16, 16)},
    "rnn": {"real": (16, 512, 4, 64), "tiny": (2, 9, 2, 5)},
    "fft_conv": {"real": (4, 4000, 256, 4000), "tiny": (2, 130, 3, 130)},
    "dilated_conv": {"real": (2, 4095, 512, 8, 4, 8), "tiny": (2, 33, 6, 3, 3, 3)},
}
"""Arguments of the ``Shape`` of each op, see ``seqconv_kernels/<op>/cases.py``.

As many heads for ``ssd``, tiny too: the gradient of A is one number per head, a sum of both signs that for a few heads
may cancel. The references go step by step and keep every step for the gradients, in float64: longer ones don't fit side
by side.
"""
FFT_SIZES = ((4, 300, 256, 300), (4, 1024, 256, 1024), (2, 16384, 128, 16384), (2, 32768, 64, 32768),
             (1, 100_000, 32, 100_000), (2, 8192, 128, 512))  # fmt: skip
"""Further (batch, length, channels, taps): each size of transform, the two-level form, a short filter."""


def checks(size: str) -> Iterator[Check]:
    """All checks of a size, ``real`` or ``tiny``; ops without a Triton kernel are left out."""
    for op, sizes in SIZES.items():
        if _has_triton(op):
            yield from _op_checks(op, sizes[size])
    if size == "real" and _has_triton("fft_conv"):
        for shape in FFT_SIZES:
            yield _check("fft_conv", shape, {}, {"gates": True})
    yield from _kernels(size)


def _op_checks(op: str, sizes: tuple[Any, ...]) -> Iterator[Check]:
    yield _check(op, sizes, {"cell": "lstm"} if op == "rnn" else {}, {})
    if op == "fft_conv":
        yield _check(op, sizes, {}, {"gates": True})
        return
    if op == "dilated_conv":
        return
    if op == "rnn":
        for cell in ("gru", "elman", "slstm"):
            yield _check(op, sizes, {"cell": cell, "return_final_state": True}, {"cell": cell, "initial_state": True})
        return
    if op == "dplr_delta_rule":
        yield _check(op, sizes, {}, {"low_rank": "key"})
    if op in ("gated_linear_attention", "delta_rule", "dplr_delta_rule"):
        for decay in ("vector", "scalar", "none"):
            yield _check(op, sizes, {}, {"decay": decay})
    yield _check(op, sizes, {"return_final_state": True}, {"initial_state": True})
    length = sizes[1]
    bounds = torch.tensor([0, 1, length // 3, length // 3 + 5, length])
    yield _check(op, (1, *sizes[1:]), {"cu_seqlens": bounds}, {})


def _check(op: str, sizes: tuple[Any, ...], options: dict[str, Any], more: dict[str, Any]) -> Check:
    shapes: Any = import_module(f"seqconv_kernels.{op}.cases")
    shape = shapes.Shape(*sizes)
    words = ", ".join([*map(str, sizes), *options, *(f"{k}={v}" for k, v in more.items())])

    def inputs(dtype: torch.dtype) -> dict[str, Any]:
        return dict(shapes.example_inputs(shape, dtype=dtype, **more))

    return Check(op, words, getattr(K, op), inputs, options, dtypes=HALF)


def _kernels(size: str) -> Iterator[Check]:
    from seqconv_kernels.ssm_kernel import cases as shapes

    for op in ("vandermonde", "cauchy"):
        if not _has_triton(op):
            continue
        shape = shapes.Shape(1, 256, 32, 16384) if size == "real" else shapes.Shape(2, 3, 4, 33)
        inputs = partial(_kernel_inputs, getattr(shapes, f"{op}_inputs"), shape)
        tolerances = {torch.float32: 1e-4}  # poles that decay over 16,384 taps round in float32 already
        yield Check(op, str(shape), getattr(K, op), inputs, {}, (torch.float32,), tolerances)


def _kernel_inputs(make: Any, shape: Any, dtype: torch.dtype) -> dict[str, Any]:
    return dict(make(shape, dtype=dtype))


def _has_triton(op: str) -> bool:
    return any(i.name == "triton" for i in ops()[op].op.implementations)
