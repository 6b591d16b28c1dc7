"""XCiT's mixer: attention between channels, and its block.

Equation per head of d channels, with q and k of unit length along the cells::

    y = W_out (softmax(τ q kᵀ) v)        q kᵀ is d by d

The block adds three parts with a factor per channel each: the attention, local patch interaction
``conv(norm(gelu(conv(x))))`` with depthwise 3 by 3 convolutions and a batch norm, and an MLP.

Source: El-Nouby et al. 2021 (arXiv 2106.09681) and ``xcit.py`` of facebookresearch/xcit at 82f5291f.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ....layers.linear import Linear
from ....layers.mlp import MLP
from ....layers.norms import LayerNorm
from ....layers.residual import DropPath
from ...mixer_2d import Mixer2d, zero_padding_2d
from ...registry import register_2d
from ..ss2d import depthwise_conv2d


@register_2d("xca", examples=({"num_heads": 2, "bias": False},))
class CrossCovariance2d(Mixer2d):
    """Attention between channels (XCiT).

    Args:
        d_model: width of inputs and outputs.
        num_heads: heads, a divisor of the width.
        bias: whether queries, keys and values have biases.

    Raises:
        ValueError: heads that do not divide the width.
    """

    def __init__(self, d_model: int, *, num_heads: int = 4, bias: bool = True) -> None:
        super().__init__(d_model)
        if num_heads < 1 or d_model % num_heads:
            got = f"num_heads={num_heads} for d_model={d_model}"
            raise argument_error("xca 2-D mixer", got, "a divisor of the width", "change num_heads")
        self.num_heads = num_heads
        self.qkv_proj, self.out_proj = Linear(d_model, 3 * d_model, bias=bias), Linear(d_model, d_model)
        self.temperature = nn.Parameter(torch.empty(num_heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Temperatures of one."""
        nn.init.ones_(self.temperature)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        qkv = zero_padding_2d(self.qkv_proj(x), mask).flatten(1, 2)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).permute(0, 2, 3, 1) for t in qkv.chunk(3, dim=-1))
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * self.temperature[:, None, None]
        mixed = (scores.softmax(-1) @ v).permute(0, 3, 1, 2).flatten(2)
        y: Tensor = self.out_proj(mixed.unflatten(1, x.shape[1:3]))
        return y


class XCiTBlock(nn.Module):
    """Attention between channels, local patch interaction and an MLP, each normed in front and added.

    Args:
        d_model: width.
        num_heads: heads of the attention.
        mlp_ratio: hidden width of the MLP over the width.
        bias: whether queries, keys and values have biases.
        layer_scale: initial factors.
        norm_eps: ε of the norms; XCiT has 1e-6.
        drop_path: probability of leaving out a part for an image.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int,
        mlp_ratio: float = 4.0,
        bias: bool = True,
        layer_scale: float = 1.0,
        norm_eps: float = 1e-6,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.layer_scale, self.drop_path = layer_scale, DropPath(drop_path)
        self.mixer_norm, self.local_norm, self.mlp_norm = (LayerNorm(d_model, eps=norm_eps) for _ in range(3))
        self.mixer = CrossCovariance2d(d_model, num_heads=num_heads, bias=bias)
        self.local = LocalPatchInteraction(d_model)
        self.mlp = MLP(d_model, hidden=int(round(mlp_ratio * d_model, 3)))
        self.mixer_scale, self.local_scale, self.mlp_scale = (nn.Parameter(torch.empty(d_model)) for _ in range(3))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Equal factors of all channels."""
        for scale in (self.mixer_scale, self.local_scale, self.mlp_scale):
            nn.init.constant_(scale, self.layer_scale)

    def forward(self, x: Float[Tensor, "batch rows columns d_model"]) -> Float[Tensor, "batch rows columns d_model"]:
        """Mix channels over all cells, then neighbouring cells, then channels."""
        x = x + self.drop_path(self.mixer_scale * self.mixer(self.mixer_norm(x)))
        x = x + self.drop_path(self.local_scale * self.local(self.local_norm(x)))
        y: Tensor = x + self.drop_path(self.mlp_scale * self.mlp(self.mlp_norm(x)))
        return y


class LocalPatchInteraction(nn.Module):
    """``conv(norm(gelu(conv(x))))`` of every channel by itself."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = depthwise_conv2d(d_model, 3), depthwise_conv2d(d_model, 3)
        self.norm = nn.BatchNorm2d(d_model)

    def forward(self, x: Float[Tensor, "batch rows columns d_model"]) -> Float[Tensor, "batch rows columns d_model"]:
        """Mix neighbouring cells."""
        hidden = self.norm(F.gelu(self.conv1(x.movedim(-1, 1))))
        y: Tensor = self.conv2(hidden).movedim(1, -1)
        return y
