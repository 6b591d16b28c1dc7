"""Sequences cut into blocks of one size, zeros after the end, where the length may be open for a compiler."""

import torch
from torch import Tensor

from seqconv_kernels._core.operator.composed import Composed
from seqconv_kernels._core.operator.sizes import known


def block_count(length: int, size: int) -> int:
    """Blocks that hold the sequence; where sizes are open one more than may be needed, as compilers treat 1 apart."""
    if known(length <= size):
        return 1
    if known(length % size == 0):
        return length // size
    return length // size + (2 if torch.compiler.is_compiling() else 1)


def roll_rows(x: Tensor, start: Tensor) -> Tensor:
    """Each row from its own start on, what was before it after its end."""
    length = x.shape[1]
    index = (torch.arange(length, device=x.device) + start[:, None]) % length
    return x.gather(1, index.view(*index.shape, *[1] * (x.dim() - 2)).expand_as(x))


def _cut(x: Tensor, count: int, size: int) -> Tensor:
    missing = count * size - x.shape[1]
    if missing:
        x = torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], dim=1)
    blocks: Tensor = x.unflatten(1, (count, size))
    return blocks


def _join(x: Tensor, length: int) -> Tensor:
    return x.flatten(1, 2)[:, :length]


cut_blocks = Composed("cut_blocks", _cut, lambda x, count, size: x.new_empty(x.shape[0], count, size, *x.shape[2:]))
"""``cut_blocks(x, count, size)``: (batch, length, ...) to (batch, count, size, ...)."""

join_blocks = Composed("join_blocks", _join, lambda x, length: x.new_empty(x.shape[0], length, *x.shape[3:]))
"""``join_blocks(x, length)``: (batch, blocks, block, ...) to (batch, length, ...)."""
