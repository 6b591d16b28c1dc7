"""tree_conv on the short convolution in Triton."""

from typing import Any

from torch import Tensor

from ..causal_conv1d.triton import BLOCK_C, causal_conv1d
from . import dense

WIDEST = 65535 * BLOCK_C
"""Channels that fill the second axis of a grid."""


def tree_conv(*arguments: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The output, and the histories after it."""
    return dense.tree_conv(causal_conv1d, WIDEST, *arguments)
