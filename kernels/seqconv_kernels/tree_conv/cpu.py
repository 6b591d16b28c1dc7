"""tree_conv on the short convolution in C++."""

import sys
from typing import Any

from torch import Tensor

from ..causal_conv1d.cpu import causal_conv1d
from . import dense


def tree_conv(*arguments: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The output, and the histories after it."""
    return dense.tree_conv(causal_conv1d, sys.maxsize, *arguments)
