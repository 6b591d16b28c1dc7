"""HGRN2: a gated linear recurrence whose state is expanded by outer products; keys are what the decay leaves.

Equation, per head, with a state ``S`` of (d_k, d_v) and a bound ``b`` on the decay that rises with the layer::

    q, f, i = silu(W_q x), W_f x, W_i x          through short convolutions if there are any
    α = b + (1 - b) σ(f)                         per channel of the key; b = 0 without a lower bound
    S_t = diag(α_t) S_{t-1} + (1 - α_t) i_t^T    o_t = d_k^{-1/2} S_t^T q_t
    y = W_o norm(o)                              norm over all heads

Source: Qin et al. 2024 (arXiv 2404.07904; on par with Mamba and Transformers at 3B parameters, abstract) and
``fla/layers/hgrn2.py`` of fla-org/flash-linear-attention at 0315a70e. There the bounds of all layers come from one
softmax over layers, cumulated from 0 in the first; here each layer has its own, which starts where that one does.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqconv_kernels._core.precision import accumulation_dtype

from ...layers.linear import Linear
from ...layers.norms import RMSNorm
from ...parameters import set_optimizer_options
from ...registry import register
from ...types import LayerContext
from .attention_layer import Heads, LinearAttentionLayer

PUBLISHED_HEAD_DIM = 128


@register(
    "hgrn2",
    examples=({"num_heads": 2, "d_conv": 4, "conv_bias": True}, {"num_heads": 2, "head_dim": 3, "lower_bound": True}),
)
class HGRN2(LinearAttentionLayer):
    """Gated linear recurrence with outer-product states.

    Args:
        d_model: width of inputs and outputs.
        num_heads: heads; as many as have 128 channels if not given, at least one.
        head_dim: key channels of a head; d_model / num_heads if not given.
        d_conv: taps of a short convolution without activation over queries, decays and inputs; none if not given.
        conv_bias: whether it has a bias.
        lower_bound: learn a lower bound per channel on the decay.
        norm_eps: ε of the norm.
        layer: place in a stack, with which the initial lower bound rises: index / depth.

    Raises:
        ValueError: heads that do not divide the widths.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int | None = None,
        head_dim: int | None = None,
        d_conv: int | None = None,
        conv_bias: bool = False,
        lower_bound: bool = False,
        norm_eps: float = 1e-5,
        layer: LayerContext | None = None,
    ) -> None:
        heads = max(d_model // PUBLISHED_HEAD_DIM, 1) if num_heads is None else num_heads
        d_key = d_model if head_dim is None else heads * head_dim
        super().__init__(
            d_model, num_heads=heads, d_key=d_key, d_value=d_model,
            d_conv=d_conv, conv_bias=conv_bias, conv_activation=None,
        )  # fmt: skip
        self.layer = layer
        self.lower_bound_logit = nn.Parameter(torch.empty(d_key)) if lower_bound else None
        self.g_norm = RMSNorm(d_model, eps=norm_eps)
        self.o_proj = Linear(d_model, d_model, bias=False)
        if lower_bound:
            self.keep_float32("lower_bound_logit")
            set_optimizer_options(self, "lower_bound_logit", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A lower bound of index / depth, a twentieth in the first layer (where the original has none)."""
        if self.lower_bound_logit is not None:
            layer = self.layer or LayerContext(0, 1)
            bound = max(layer.index / layer.depth, 0.05)
            self.lower_bound_logit.fill_(bound).logit_()

    def _heads(self, qkv: Tensor, x: Tensor, position: Tensor | None) -> Heads:
        q, f, i = qkv.split(self.widths, dim=-1)
        wide = f.to(accumulation_dtype(f))
        log_decay = F.logsigmoid(wide)
        if self.lower_bound_logit is not None:
            bound = self.lower_bound_logit.to(wide.dtype)
            log_decay = torch.logaddexp(F.logsigmoid(bound), F.logsigmoid(-bound) + log_decay)
        k = -torch.expm1(log_decay)
        q, k, i, log_decay = (t.unflatten(-1, (self.heads, -1)) for t in (F.silu(q), k.to(i.dtype), i, log_decay))
        return Heads(q, k, i, log_decay)

    def _output(self, o: Tensor, x: Tensor) -> Tensor:
        y: Tensor = self.o_proj(self.g_norm(o.flatten(-2)))
        return y
