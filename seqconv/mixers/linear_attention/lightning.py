"""Lightning attention (TransNormer, MiniMax): linear attention with a constant decay that slows with the layer.

Equation, per head h = 0 … H-1 of layer l among L, with a state ``S`` of (d, d)::

    q, k, v = silu(W_q x), silu(W_k x), silu(W_v x)
    s_h = 2^(-8(h+1)/H) (1 - l/(L - 1 + 1e-5) + 1e-5)
    S_t = e^(-s_h) S_{t-1} + k_t v_t^T               o_t = S_t^T q_t
    y = W_o (norm(o) ⊙ σ(W_g x))                     norm over all heads

There is no scale and no denominator.

Source: Qin et al. 2024 (arXiv 2401.04658, Lightning Attention-2), MiniMax 2025 (arXiv 2501.08313: MiniMax-01, seven
such layers to one of softmax attention, 456B parameters of which 45.9B act on a token, contexts of 1M tokens in
training and 4M in inference, abstract) and ``MiniMaxLightningAttention`` of transformers 5.23.0
(``models/minimax/modeling_minimax.py``).
"""

import torch
from torch import Tensor

from ...layers.activations import activate, check_activation
from ...layers.linear import Linear
from ...layers.norms import RMSNorm
from ...registry import register
from ...types import LayerContext
from .attention_layer import LinearAttentionLayer

INITIAL_STD = 0.02
"""Of all projections (``initializer_range``)."""
SMALL = 1e-5
"""Keeps the slope of the last layer above 0."""


@register("lightning_attention", examples=({"num_heads": 2}, {"num_heads": 1, "activation": "relu"}))
class LightningAttention(LinearAttentionLayer):
    """Linear attention with a constant decay per head (MiniMax).

    Args:
        d_model: width of inputs and outputs.
        num_heads: heads.
        head_dim: channels of a head; d_model / num_heads if not given.
        activation: of queries, keys and values.
        norm_eps: ε of the norm.
        layer: place in a stack, on which the decays depend: the first layer forgets fastest. The first of a deep stack
            if not given.

    Raises:
        ValueError: an unknown activation; heads that do not divide the width.
    """

    scale = 1.0

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        head_dim: int | None = None,
        activation: str = "silu",
        norm_eps: float = 1e-6,
        layer: LayerContext | None = None,
    ) -> None:
        width = d_model if head_dim is None else num_heads * head_dim
        super().__init__(d_model, num_heads=num_heads, d_key=width, d_value=width)
        self.activation, self.layer = check_activation("lightning_attention mixer", activation), layer
        self.g_proj = Linear(d_model, width, bias=False)
        self.g_norm = RMSNorm(width, eps=norm_eps)
        self.o_proj = Linear(width, d_model, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Normal values of a small deviation."""
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.g_proj, self.o_proj):
            projection.weight.normal_(std=INITIAL_STD)

    def _project(self, x: Tensor) -> Tensor:
        return activate(self.activation, super()._project(x))

    def _constant_decay(self, like: Tensor) -> Tensor:
        # In float32 whatever the dtype of the activations: the original rounds its slopes.
        head = torch.arange(1, self.heads + 1, device=like.device, dtype=torch.float32)
        layer = self.layer or LayerContext(0, 1)
        return -torch.pow(2.0 ** (-8.0 / self.heads), head) * (1.0 - layer.index / (layer.depth - 1 + SMALL) + SMALL)

    def _output(self, o: Tensor, x: Tensor) -> Tensor:
        y: Tensor = self.o_proj(self.g_norm(o.flatten(-2)) * torch.sigmoid(self.g_proj(x)))
        return y
