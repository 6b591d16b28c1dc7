"""Calls of :mod:`seqconv_kernels.fft_conv` for the tests over all ops."""

from call_case import Case, normal, whole
from torch import Tensor

from seqconv_kernels import fft_conv


def inputs(batch: int, length: int) -> dict[str, Tensor]:
    tokens = (batch, length, 3)
    return {
        "u": normal(*tokens), "h": normal(3, length + 1), "skip": normal(3), "pre_gate": normal(*tokens).flip(1),
        "post_gate": normal(*tokens).flip(2), "history": normal(batch, 2, 3),
    }  # fmt: skip


CASES = {
    "fft_conv": Case(whole(fft_conv), inputs),
    "fft_conv, bare": Case(whole(fft_conv), lambda b, n: {"u": normal(b, n, 3), "h": normal(3, 4)}, free=("u",)),
}
