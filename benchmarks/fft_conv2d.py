"""fft_conv2d against the product of real 2-D FFTs in torch, zero-padded to twice the sides, float32, two layouts."""

import math

import torch
from torch import Tensor

import seqconv_kernels as K
from seqconv_kernels.fft_conv2d.cases import Shape, example_inputs

from .case import Case, Run

SIDES = (32, 64, 128)
NAMES = tuple(f"{side} x {side}, 256 channels" for side in SIDES)
SWEEP = (16, 32, 64, 128)


def case(name: str) -> Case:
    """One shape of the table."""
    return _case(SIDES[NAMES.index(name)], name)


def sweep(length: int) -> Case:
    """The shape of the plots; the length is a side."""
    return _case(length, f"{length} x {length}, 256 channels")


def _case(side: int, name: str) -> Case:
    shape = Shape(1, side, side, 256, side, side)
    contenders: dict[str, Run] = {
        "seqconv": K.fft_conv2d,
        "torch.fft": _composite,
        "torch.fft, channel-first": _composite,
    }
    cells = side * side
    transform = 5.0 * 2 * cells * math.log2(4 * cells)  # of 4 * cells real points
    work = shape.batch * shape.channels * (2 * transform + 16 * cells) + shape.channels * transform
    layouts = {"torch.fft, channel-first": channels_first}
    return Case("fft_conv2d", name, side, example_inputs(shape), contenders, operations=work, layouts=layouts)


def channels_first(t: Tensor) -> Tensor:
    """The same values of a (batch, height, width, channels) tensor, with images dense in memory; others as they are."""
    return t.movedim(3, 1).contiguous().movedim(1, 3) if t.dim() == 4 else t


def _composite(u: Tensor, h: Tensor, skip: Tensor) -> Tensor:
    height, width = u.shape[1:3]
    size = (2 * height, 2 * width)
    spectrum = torch.fft.rfft2(u.movedim(3, 1), s=size) * torch.fft.rfft2(h, s=size)
    return torch.fft.irfft2(spectrum, s=size)[..., :height, :width].movedim(1, 3) + skip * u
