"""Layers that treat each head apart: a block-diagonal linear map, a layer norm over the channels of a head."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error


class HeadwiseLinear(nn.Module):
    """``y_h = W_h x_h`` for heads of neighbouring channels.

    Args:
        channels: of inputs and outputs, all heads together.
        heads: blocks.
        init_std: standard deviation of the initial weights; ``√(2 / (5 · channels of a head))`` if not given (Nguyen
            and Salazar 2019).
        bias: whether there is one per channel.

    Raises:
        ValueError: heads that do not divide the channels.
    """

    def __init__(self, channels: int, heads: int, *, init_std: float | None = None, bias: bool = False) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise argument_error(
                "HeadwiseLinear", f"{channels} channels for {heads} heads", "a multiple", "change the heads"
            )
        width = channels // heads
        self.init_std = (2 / (5 * width)) ** 0.5 if init_std is None else init_std
        self.weight = nn.Parameter(torch.empty(heads, width, width))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights from a normal distribution; the bias is zero."""
        nn.init.normal_(self.weight, std=self.init_std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "*tokens channels"]) -> Float[Tensor, "*tokens channels"]:
        """Map every head by its own matrix."""
        grouped = x.unflatten(-1, (self.weight.shape[0], -1))
        y = torch.einsum("...hi,hoi->...ho", grouped, self.weight).flatten(-2)
        return y if self.bias is None else y + self.bias


class HeadLayerNorm(nn.Module):
    """Layer norm over the channels of each head, with a weight per head and channel.

    Args:
        heads: heads.
        width: channels of a head.
        eps: ε of the norm.
        bias: whether there is a bias per head and channel.
    """

    def __init__(self, heads: int, width: int, *, eps: float = 1e-5, bias: bool = False) -> None:
        super().__init__()
        self.heads, self.eps = (heads, width), eps
        self.weight = nn.Parameter(torch.empty(heads * width))
        self.bias = nn.Parameter(torch.empty(heads * width)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to one and the bias to zero."""
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "*tokens heads width"]) -> Float[Tensor, "*tokens heads width"]:
        """Normalise every head of every token."""
        y = F.layer_norm(x, x.shape[-1:], eps=self.eps) * self.weight.to(x.dtype).view(self.heads)
        return y if self.bias is None else y + self.bias.to(x.dtype).view(self.heads)
