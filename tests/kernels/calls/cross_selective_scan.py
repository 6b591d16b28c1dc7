"""Calls of :mod:`seqconv_kernels.cross_selective_scan` for the tests over all ops."""

from typing import Any

import torch
from call_case import Case, normal, whole
from torch import Tensor

from seqconv_kernels import cross_selective_scan


def inputs(batch: int, length: int) -> dict[str, Tensor]:
    directed, weights = (batch, length, 2, 4), (batch, length, 2, 3)
    return {
        "u": normal(batch, length, 4), "delta": normal(*directed).add(0.1), "A": -normal(2, 4, 3).exp(),
        "B": normal(*weights), "C": normal(*weights).flip(1), "D": normal(2, 4), "delta_bias": normal(2, 4).flip(0),
    }  # fmt: skip


def bare_inputs(batch: int, length: int) -> dict[str, Tensor]:
    return {k: v for k, v in inputs(batch, length).items() if k not in ("D", "delta_bias")}


def scan(u: Tensor, **arguments: Any) -> Tensor:
    """Two directions: from the first place to the last, and back in steps of two places."""
    forwards = torch.arange(u.shape[1])
    orders = torch.stack([forwards, torch.cat([forwards[1::2], forwards[::2]]).flip(0)])
    return cross_selective_scan(u, **arguments, orders=orders, delta_softplus=True)


CASES = {
    "cross_selective_scan": Case(whole(scan), inputs),
    "cross_selective_scan, bare": Case(whole(scan), bare_inputs),
}
