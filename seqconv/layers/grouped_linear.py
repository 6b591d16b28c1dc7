"""A linear map of its own for each group: ``y_g = W_g x_g``."""

import torch
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

    def forward(self, x: Float[Tensor, "*tokens groups d_in"]) -> Float[Tensor, "*tokens groups d_out"]:
        """Map every group by its own matrix."""
        return torch.einsum("...gi,goi->...go", x, self.weight)
