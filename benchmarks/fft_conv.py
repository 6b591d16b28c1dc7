"""fft_conv against the product of real FFTs in torch, zero-padded to twice the length, float32, in both layouts."""

import math
from functools import partial

import torch
from torch import Tensor

import seqconv_kernels as K
from seqconv_kernels.fft_conv.cases import SHAPES, Shape, example_inputs

from .case import Case, Run, channel_first

NAMES = ("1k, 256 channels", "4k, 256 channels", "16k, 256 channels", "64k, 64 channels")
SWEEP = (1024, 2048, 4096, 8192, 16384, 32768)


def case(name: str) -> Case:
    """One shape of the table."""
    return _case(SHAPES[name], name)


def sweep(length: int) -> Case:
    """The shape of the plots."""
    return _case(Shape(4, length, 256, length), f"batch 4, 256 channels, {length} tokens")


def _case(shape: Shape, name: str) -> Case:
    contenders: dict[str, Run] = {
        "seqconv": partial(K.fft_conv, implementation="cpu"),
        "torch.fft": _composite,
        "torch.fft, channel-first": _composite,
    }
    transform = 5.0 * shape.length * math.log2(2 * shape.length)  # of 2 * length real points
    rows, filters = shape.batch * shape.channels, shape.channels
    work = rows * (2 * transform + 8 * shape.length) + filters * transform
    return Case(
        "fft_conv", name, shape.length, example_inputs(shape), contenders,
        operations=work, layouts={"torch.fft, channel-first": channel_first},
    )  # fmt: skip


def _composite(u: Tensor, h: Tensor, skip: Tensor) -> Tensor:
    n = u.shape[1] + h.shape[1]
    y: Tensor = torch.fft.irfft(torch.fft.rfft(u.mT, n) * torch.fft.rfft(h, n), n)[..., : u.shape[1]]
    return y.mT + skip * u
