"""tree_conv against dilated grouped convolutions in torch and one shifted product per tap, float32."""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor

import seqconv_kernels as K
from seqconv_kernels.tree_conv.shapes import SHAPES, example_inputs

from .contenders import Run, compare

NAMES = ("tree of reach 4096, 8192 tokens", "overlapping, 8192 tokens")


def measure(seconds: float) -> list[dict[str, object]]:
    """One row per shape and direction: milliseconds of each contender."""
    contenders: dict[str, Run] = {
        "seqconv": partial(K.tree_conv, implementation="cpu"),
        "F.conv1d": _conv1d,
        "shifted products": partial(K.tree_conv, implementation="reference"),
    }
    rows = []
    for name in NAMES:
        rows += compare("tree_conv", name, example_inputs(SHAPES[name]), contenders, seconds)
    return rows


def _conv1d(x: Tensor, weight: Tensor, dilations: Sequence[int]) -> Tensor:
    a = x.mT
    for taps, dilation in zip(weight, dilations, strict=True):
        channels, width = taps.shape
        a = F.pad(a, ((width - 1) * dilation, 0))
        a = F.conv1d(a, taps.flip(1)[:, None], dilation=dilation, groups=channels)
    return a.mT
