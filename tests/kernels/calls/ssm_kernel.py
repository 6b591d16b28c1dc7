"""Calls of :mod:`seqconv_kernels.ssm_kernel` for the tests over all ops."""

from collections.abc import Callable
from typing import Any

import torch
from call_case import Case, normal, whole

from seqconv_kernels import cauchy, vandermonde


def poles(names: tuple[str, str]) -> Callable[[int, int], dict[str, Any]]:
    def build(heads: int, length: int) -> dict[str, Any]:
        values = (normal(heads, 3, 2).to(torch.complex128), torch.complex(-normal(3, 2).exp(), normal(3, 2)))
        return dict(zip(names, values, strict=True)) | {"length": length}

    return build


CASES = {
    "vandermonde": Case(whole(vandermonde, length=5), poles(("residues", "log_poles")), free=("residues",)),
    "cauchy": Case(whole(cauchy, length=6), poles(("v", "poles")), free=("v",)),
}
