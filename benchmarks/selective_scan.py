"""selective_scan against transformers' fallback and mambapy, on the shapes of Mamba-130M, float32, without the gate."""

from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.mamba.modeling_mamba import mamba_selective_scan

import seqconv_kernels as K
from seqconv_kernels.selective_scan.cases import SHAPES, Shape, example_inputs

from .case import Case, Run, channel_first

NAMES = ("mamba-130m, 512 tokens", "mamba-130m, 2048 tokens", "mamba-130m, 8192 tokens")
LONGEST_QUADRATIC = 512
"""The backward pass of transformers' fallback is quadratic in the length: seven seconds already here."""
SWEEP = (256, 512, 1024, 2048, 4096, 8192)


def case(name: str) -> Case:
    """One shape of the table."""
    return _case(SHAPES[name], name)


def sweep(length: int) -> Case:
    """The shape of the plots."""
    return _case(Shape(1, length, 1536, 16), f"1536 channels, {length} tokens")


def _case(shape: Shape, name: str) -> Case:
    contenders: dict[str, Run] = {
        "seqconv": partial(K.selective_scan, implementation="cpu"),
        "transformers": _fallback,
        "transformers, channel-first": _fallback,
    }
    if find_spec("mambapy"):
        contenders["mambapy"] = _mambapy
    slow = frozenset(n for n in contenders if n.startswith("transformers") and shape.length > LONGEST_QUADRATIC)
    return Case(
        "selective_scan", name, shape.length, example_inputs(shape, gate=False), contenders,
        operations=16.0 * shape.batch * shape.length * shape.channels * shape.d_state,
        forward_only=slow, layouts={"transformers, channel-first": channel_first},
    )  # fmt: skip


def _fallback(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, **rest: Any) -> Tensor:
    y: Tensor = mamba_selective_scan(u.mT, delta.mT, A, B.mT, C.mT, **rest)
    return y.mT


def _mambapy(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, delta_softplus: bool
) -> Tensor:
    from mambapy.mamba import MambaBlock

    assert delta_softplus
    # Its method reads nothing of the block.
    y: Tensor = MambaBlock.selective_scan(torch.nn.Module(), u, F.softplus(delta + delta_bias), A, B, C, D)
    return y
