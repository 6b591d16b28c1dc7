"""Calls of :mod:`seqconv_kernels.fft_conv2d` for the tests over all ops."""

from call_case import Case, normal, whole
from torch import Tensor

from seqconv_kernels import fft_conv2d


def inputs(batch: int, length: int) -> dict[str, Tensor]:
    return {"u": normal(batch, 2, length, 2), "h": normal(2, 2, length), "skip": normal(2)}


CASES = {"fft_conv2d": Case(whole(fft_conv2d), inputs, free=("u",))}
