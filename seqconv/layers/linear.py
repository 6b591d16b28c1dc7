"""Linear layer ``y = x W^T + b`` which reads its weight at the speed of memory when it decodes.

It is an ``nn.Linear``: the same parameters, names and initial values, and what looks for that class (adapters,
quantisers, FSDP) finds it. Only its forward differs: with few rows, on the CPU, in eager mode and without a gradient
it calls :func:`seqconv_kernels.skinny_linear`; every other call is torch's.

Some tools look the exact class up in a table and leave others as they are without a word
(``torch.ao.quantization.quantize_dynamic``, counters of operations). The class therefore compares and hashes as
``nn.Linear`` does; ``is`` distinguishes the two.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqconv_kernels.skinny_linear import eager_linear


class _FoundAsLinear(type):
    """Class of classes that a table keyed by ``nn.Linear`` has an entry for."""

    def __eq__(cls, other: object) -> bool:
        return cls is other or other is nn.Linear

    def __hash__(cls) -> int:
        return hash(nn.Linear)


class Linear(nn.Linear, metaclass=_FoundAsLinear):
    """See the module's docstring; constructor as of ``torch.nn.Linear``."""

    def forward(self, input: Tensor) -> Tensor:
        """From (..., in_features) to (..., out_features)."""
        y = None if torch.compiler.is_compiling() else eager_linear(input, self.weight, self.bias)
        return F.linear(input, self.weight, self.bias) if y is None else y


class KeptLinear(Linear):
    """A linear layer whose initial values backbones leave as they are: what originals write as 1 by 1 convolutions."""


def use_torch_linear(model: nn.Module) -> nn.Module:
    """Give every :class:`Linear` of a model the class ``nn.Linear`` itself, in place; returns the model.

    For comparisons of the two, and for tools that ask ``type(module) is nn.Linear``.
    """
    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = nn.Linear  # type: ignore[assignment]  # it has the same attributes
    return model
