"""causal_conv1d of width 4 with SiLU against torch's grouped Conv1d in both memory layouts, float32."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor

import seqconv_kernels as K
from seqconv_kernels.causal_conv1d.cases import SHAPES, Shape, example_inputs

from .case import Case, Run, channel_first

NAMES = ("mamba-130m, 2048 tokens", "mamba-130m, batch of 4")
SWEEP = (512, 1024, 2048, 4096, 8192, 16384)


def case(name: str) -> Case:
    """One shape of the table."""
    return _case(SHAPES[name], name)


def sweep(length: int) -> Case:
    """The shape of the plots."""
    return _case(Shape(1, length, 1536, 4), f"1536 channels, {length} tokens")


def _case(shape: Shape, name: str) -> Case:
    contenders: dict[str, Run] = {
        "seqconv": partial(K.causal_conv1d, implementation="cpu"),
        "F.conv1d": _conv1d,
        "F.conv1d, channel-first": _conv1d,
    }
    work = (2.0 * shape.width + 14) * shape.batch * shape.length * shape.channels
    return Case(
        "causal_conv1d", name, shape.length, example_inputs(shape), contenders,
        operations=work, layouts={"F.conv1d, channel-first": channel_first},
    )  # fmt: skip


def _conv1d(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
    assert activation == "silu"
    channels, width = weight.shape
    y = F.conv1d(x.mT, weight[:, None], bias, padding=width - 1, groups=channels)[..., : x.shape[1]]
    return F.silu(y).mT
