"""Pooling by attention: a token that begins as the mean of the cells attends to itself and to all of them.

``c = mean(x)``, ``c ← c + W_out softmax(q k^T / √d) v`` with q of the normed c, k and v of the normed c and x, then
``c ← c + mlp(norm(c))``.

Source: ClassBlock and ClassAttention in ``hierarchical_architecture/spectformer.py`` of badripatro/SpectFormers at
b6cf487a.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ...layers.linear import Linear
from ...layers.mlp import MLP
from ...layers.norms import LayerNorm
from ..mixers.attention.window import check_heads


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
        q, k, v = (
            part.unflatten(-1, self.heads).transpose(1, 2)
            for part in (self.q_proj(normed[:, :1]), *self.kv_proj(normed).chunk(2, dim=-1))
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        token = token + self.out_proj(mixed)
        y: Tensor = token + self.mlp(self.mlp_norm(token))
        return y[:, 0]
