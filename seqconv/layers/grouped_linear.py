"""A linear map of its own for each group: ``y_g = W_g x_g``."""

from typing import Literal, overload

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class GroupedLinear(nn.Module):
    """One matrix for every group, without biases.

    Args:
        groups: matrices.
        d_in, d_out: width of inputs and outputs of each group.
        init_range: the weights are drawn from ±``init_range``; ``d_in ** -0.5`` if not given, as in a Linear layer.
    """

    def __init__(self, groups: int, d_in: int, d_out: int, *, init_range: float | None = None) -> None:
        super().__init__()
        self.init_range = d_in**-0.5 if init_range is None else init_range
        self.weight = nn.Parameter(torch.empty(groups, d_out, d_in))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights uniformly."""
        nn.init.uniform_(self.weight, -self.init_range, self.init_range)

    @overload
    def forward(self, x: Tensor, *, separate: Literal[False] = False) -> Tensor: ...
    @overload
    def forward(self, x: Tensor, *, separate: Literal[True]) -> tuple[Tensor, ...]: ...
    def forward(
        self, x: Float[Tensor, "*tokens groups d_in"], *, separate: bool = False
    ) -> Float[Tensor, "*tokens groups d_out"] | tuple[Tensor, ...]:
        """Map every group by its own matrix.

        With ``separate``, every group's outputs are a tensor of its own, ``(*tokens, d_out)``, as its gradient is: for
        what works on one group after the other, and would copy all gradients into one tensor.
        """
        if separate:
            return tuple(F.linear(*group) for group in zip(x.unbind(-2), self.weight.unbind(), strict=True))
        return torch.einsum("...gi,goi->...go", x, self.weight)
