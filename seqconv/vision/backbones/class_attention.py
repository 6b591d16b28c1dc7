"""Pooling by attention: a token attends to itself and to all cells.

``attention`` of a normed token c and normed cells x is ``W_out softmax(q k^T / √d) v`` with q of c, k and v of both.

- :class:`ClassAttention` (SpectFormer): c begins as the mean of the cells,
  ``c ← c + attention``, then ``c ← c + mlp(norm(c))``.
- :class:`ClassAttentionLayers` (XCiT): c is learned, and several layers change the cells too, s and t being learned
  factors per channel::

      c ← norm(c + s ⊙ attention),   c ← c + t ⊙ mlp(c)
      x ← x + s ⊙ norm(x),           x ← 2 x        (x ← 2 norm(x) with ``norm_cells``)

Source: ClassBlock and ClassAttention in ``hierarchical_architecture/spectformer.py`` of badripatro/SpectFormers at
b6cf487a; ClassAttention and ClassAttentionBlock in ``xcit.py`` of facebookresearch/xcit at 82f5291f.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...layers.linear import Linear
from ...layers.mlp import MLP
from ...layers.norms import LayerNorm
from ..mixers.attention.window import check_heads

TOKEN_INIT_STD = 0.02


class ClassAttention(nn.Module):
    """See above.

    Args:
        d_model: width.
        num_heads: heads, a divisor of the width.
        mlp_ratio: hidden width of the MLP over the width.
        norm_eps: ε of the norms.

    Raises:
        ValueError: heads that do not divide the width.
    """

    def __init__(self, d_model: int, *, num_heads: int, mlp_ratio: float = 4.0, norm_eps: float = 1e-6) -> None:
        super().__init__()
        check_heads("class_attention", d_model, num_heads)
        self.heads = (num_heads, d_model // num_heads)
        self.mixer_norm, self.mlp_norm = (LayerNorm(d_model, eps=norm_eps) for _ in range(2))
        self.q_proj, self.kv_proj = (Linear(d_model, n * d_model) for n in (1, 2))
        self.out_proj, self.mlp = Linear(d_model, d_model), MLP(d_model, hidden=int(round(mlp_ratio * d_model, 3)))

    def forward(self, x: Float[Tensor, "batch rows columns d_model"]) -> Float[Tensor, "batch d_model"]:
        """One vector for each image."""
        cells = x.flatten(1, 2)
        token = cells.mean(1, keepdim=True)
        normed = self.mixer_norm(torch.cat([token, cells], dim=1))
        mixed = attend(self.q_proj(normed[:, :1]), self.kv_proj(normed), self.heads)
        token = token + self.out_proj(mixed)
        y: Tensor = token + self.mlp(self.mlp_norm(token))
        return y[:, 0]


class ClassAttentionLayers(nn.Module):
    """A learned token and layers in which it reads the cells; see above.

    Args:
        d_model: width.
        depth: layers.
        num_heads: heads, a divisor of the width.
        mlp_ratio: hidden width of the MLPs over the width.
        bias: whether queries, keys and values have biases.
        layer_scale: initial factors.
        norm_cells: norm the cells in front of the MLP too.
        norm_eps: ε of the norms.

    Raises:
        ValueError: heads that do not divide the width, less than one layer.
    """

    def __init__(
        self,
        d_model: int,
        *,
        depth: int = 2,
        num_heads: int,
        mlp_ratio: float = 4.0,
        bias: bool = True,
        layer_scale: float = 1.0,
        norm_cells: bool = True,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise argument_error("class_attention", f"depth={depth}", "at least 1", "leave class_attention out")
        self.cls_token = nn.Parameter(torch.empty(d_model))
        options: dict[str, Any] = {"num_heads": num_heads, "mlp_ratio": mlp_ratio, "bias": bias}
        options |= {"layer_scale": layer_scale, "norm_cells": norm_cells, "norm_eps": norm_eps}
        self.layers = nn.ModuleList(ClassAttentionLayer(d_model, **options) for _ in range(depth))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A small token."""
        nn.init.trunc_normal_(self.cls_token, std=TOKEN_INIT_STD)

    def forward(self, x: Float[Tensor, "batch rows columns d_model"]) -> Float[Tensor, "batch d_model"]:
        """One vector for each image."""
        tokens = torch.cat([self.cls_token.expand(x.shape[0], 1, -1), x.flatten(1, 2)], dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens[:, 0]


class ClassAttentionLayer(nn.Module):
    """A layer of :class:`ClassAttentionLayers`, which has its arguments."""

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int,
        mlp_ratio: float,
        bias: bool,
        layer_scale: float,
        norm_cells: bool,
        norm_eps: float,
    ) -> None:
        super().__init__()
        check_heads("class_attention", d_model, num_heads)
        self.heads, self.layer_scale, self.norm_cells = (num_heads, d_model // num_heads), layer_scale, norm_cells
        self.mixer_norm, self.mlp_norm = (LayerNorm(d_model, eps=norm_eps) for _ in range(2))
        self.q_proj, self.kv_proj = (Linear(d_model, n * d_model, bias=bias) for n in (1, 2))
        self.out_proj, self.mlp = Linear(d_model, d_model), MLP(d_model, hidden=int(round(mlp_ratio * d_model, 3)))
        self.mixer_scale, self.mlp_scale = (nn.Parameter(torch.empty(d_model)) for _ in range(2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Equal factors of all channels."""
        for scale in (self.mixer_scale, self.mlp_scale):
            nn.init.constant_(scale, self.layer_scale)

    def forward(self, tokens: Float[Tensor, "batch tokens d_model"]) -> Float[Tensor, "batch tokens d_model"]:
        """The token, which is the first, and the cells after it."""
        normed = self.mixer_norm(tokens)
        read = self.out_proj(attend(self.q_proj(normed[:, :1]), self.kv_proj(normed), self.heads))
        tokens = tokens + self.mixer_scale * torch.cat([read, normed[:, 1:]], dim=1)
        if self.norm_cells:
            token, cells = self.mlp_norm(tokens).tensor_split([1], dim=1)
        else:
            token, cells = self.mlp_norm(tokens[:, :1]), tokens[:, 1:]
        return torch.cat([token + self.mlp_scale * self.mlp(token), 2 * cells], dim=1)


def attend(
    q: Float[Tensor, "batch 1 d_model"], kv: Float[Tensor, "batch tokens d_kv"], heads: tuple[int, int]
) -> Float[Tensor, "batch 1 d_model"]:
    """What one token reads of all; ``heads`` are their number and width, ``kv`` keys and values side by side."""
    q, k, v = (part.unflatten(-1, heads).transpose(1, 2) for part in (q, *kv.chunk(2, dim=-1)))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
