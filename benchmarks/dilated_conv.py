"""dilated_conv against dilated grouped convolutions in torch and one shifted product per tap, float32."""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor

import seqconv_kernels as K
from seqconv_kernels.dilated_conv.cases import SHAPES, Shape, example_inputs

from .case import Case, Run, channel_first

NAMES = ("tree of reach 4096, 8192 tokens", "overlapping, 8192 tokens")
SWEEP = (512, 1024, 2048, 4096, 8192, 16384)


def case(name: str) -> Case:
    """One shape of the table."""
    return _case(SHAPES[name], name)


def sweep(length: int) -> Case:
    """The shape of the plots."""
    return _case(Shape(1, length, 512, 8, 4, 8), f"tree of reach 4096, {length} tokens")


def _case(shape: Shape, name: str) -> Case:
    contenders: dict[str, Run] = {
        "seqconv": partial(K.dilated_conv, implementation="cpu"),
        "F.conv1d": _conv1d,
        "F.conv1d, channel-first": _conv1d,
        "shifted products": partial(K.dilated_conv, implementation="reference"),
    }
    work = 2.0 * shape.levels * shape.width * shape.batch * shape.length * shape.channels
    return Case(
        "dilated_conv", name, shape.length, example_inputs(shape), contenders,
        operations=work, layouts={"F.conv1d, channel-first": _channel_first},
    )  # fmt: skip


def _channel_first(t: Tensor) -> Tensor:
    return channel_first(t) if t.shape[0] == 1 else t  # the weights of the levels have three axes too


def _conv1d(x: Tensor, weight: Tensor, dilations: Sequence[int]) -> Tensor:
    a = x.mT
    for taps, dilation in zip(weight, dilations, strict=True):
        channels, width = taps.shape
        a = F.pad(a, ((width - 1) * dilation, 0))
        a = F.conv1d(a, taps.flip(1)[:, None], dilation=dilation, groups=channels)
    return a.mT
