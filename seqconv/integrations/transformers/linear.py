"""Linear layers of an accelerated model that read their weights at the speed of memory where they decode.

A layer changes its class for the time of the acceleration: ``seqconv.layers.linear.Linear`` is an ``nn.Linear`` with
the same parameters and attributes, so that hooks, adapters and names stay what they are. Layers of other classes
(adapted, quantised, sharded) stay as they are; inside an adapter it is the base layer that changes.
"""

from collections.abc import Iterable
from typing import Any

from torch import nn

from ...layers.linear import Linear


class DecodingLinear(Linear):
    """See the module's docstring. Copies and pickles are plain ``nn.Linear`` layers."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """As ``nn.Linear``: who loads a pickle needs no seqconv."""
        return nn.Linear.__new__, (nn.Linear,), self.__dict__


def is_plain(layer: nn.Module) -> bool:
    """Whether nothing wraps or replaces the linear layer, or hooks into it."""
    plain = type(layer) is nn.Linear or type(layer) is DecodingLinear
    return plain and not is_hooked(layer)


def is_hooked(module: nn.Module) -> bool:
    """Whether a call of the module does more than its class says: its weight alone is not all of it."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def decode_fast(model: nn.Module) -> tuple[nn.Linear, ...]:
    """Change all plain linear layers of a model, and return them."""
    found = tuple(m for m in model.modules() if isinstance(m, nn.Linear) and type(m) is nn.Linear)
    for layer in found:
        layer.__class__ = DecodingLinear
    return found


def undo(layers: Iterable[nn.Linear]) -> None:
    """Put back the class; layers that were wrapped since then stay."""
    for layer in layers:
        if type(layer) is DecodingLinear:
            layer.__class__ = nn.Linear  # type: ignore[assignment]  # it has the same attributes
