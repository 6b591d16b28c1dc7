"""Blocks whose inner values are computed a second time in the backward pass (gradient checkpointing).

The second computation is the first one again: norms that change in the course of training (``prep_batch``) go by the
calls that they had counted before it, and batch norms do not count its statistics.
"""

from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .layers.norms import PRepBatchNorm


def checkpointed(block: nn.Module, x: Tensor, **arguments: Any) -> Any:
    """What ``block(x)`` returns, without its inner values, which are computed again in the backward pass."""
    kinds = {type(module) for module in block.modules()}
    if torch.compiler.is_compiling():  # graphs recompute without changing buffers, but read those that were changed
        if PRepBatchNorm in kinds:
            return block(x, **arguments)
    elif any(issubclass(kind, _BatchNorm) for kind in kinds):
        arguments |= {"context_fn": lambda: (nullcontext(), _Recomputation(block))}
    return checkpoint(block, x, use_reentrant=False, **arguments)


class _Recomputation(AbstractContextManager[None]):
    """Counts and statistics as they were when this was made; what is counted inside is forgotten afterwards."""

    def __init__(self, block: nn.Module) -> None:
        self.norms = [module for module in block.modules() if isinstance(module, _BatchNorm | PRepBatchNorm)]
        self.buffers = [
            {name: tensor.clone() for name, tensor in norm.named_buffers(recurse=False)} for norm in self.norms
        ]

    def __enter__(self) -> None:
        self._exchange()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exchange()

    def _exchange(self) -> None:
        now = [dict(norm.named_buffers(recurse=False)) for norm in self.norms]
        for norm, buffers in zip(self.norms, self.buffers, strict=True):
            for name, tensor in buffers.items():
                setattr(norm, name, tensor)
        self.buffers = now
