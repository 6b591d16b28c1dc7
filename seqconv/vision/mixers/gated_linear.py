"""ViG's mixer: gated linear attention through the image in both directions, gated against a local convolution.

Equation per head, with ``u = φ(conv(x))`` of a 3 by 3 depthwise convolution and α_f, α_b in (0, 1) per key channel::

    q, k, v = W_q u, W_k u, W_v u            log α = log σ(W_2 W_1 u + b) / τ       forwards and backwards
    S_t = diag(α_f,t) S_{t-1} + k_t v_tᵀ     f_t = q_tᵀ S_t / √d_k                  b_t likewise from the end
    g = σ(W_g u + b_g)                       y = W_out ψ(g ⊙ rms((f + b) c) + (1 - g) ⊙ rms(u))

Both directions contain the cell itself. c is 1/2; only ε of the norm depends on it.

Source: Liao et al. 2024 (arXiv 2405.18425) and ``classification/models`` (vig.py, vig_h.py) of hustvl/ViG at dfb9d321.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from seqconv_kernels import gated_linear_attention
from seqconv_kernels._core.directions import scan, spread, unscan
from seqconv_kernels._core.errors import argument_error

from ...layers.linear import Linear
from ...layers.norms import RMSNorm
from ..directions import image_directions
from ..mixer_2d import Mixer2d, zero_padding_2d
from ..registry import register_2d
from .ss2d import depthwise_conv2d

DIRECTIONS = ("row", "row_reversed")
PROJECTION_GAIN = 2**-2.5


@register_2d(
    "vig",
    examples=({"num_heads": 2, "expand_k": 1.0, "conv_activation": True, "out_activation": True, "conv_bias": True},),
)
class ViG2d(Mixer2d):
    """Bidirectional gated linear attention with a locality gate (ViG).

    Args:
        d_model: width of inputs, values and outputs.
        num_heads: heads, divisors of the widths of keys and values.
        expand_k: width of queries and keys over the width.
        gate_rank: rank of the projection of the decays.
        gate_normalizer: τ, the larger the slower the decay.
        conv_activation: whether φ is silu instead of the identity.
        out_activation: whether ψ is silu instead of the identity.
        conv_bias: whether the convolution has a bias.
        direction_scale: c.
        norm_eps: ε of the norms.

    Raises:
        ValueError: heads that do not divide the widths, sizes below 1.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        expand_k: float = 0.5,
        gate_rank: int = 16,
        gate_normalizer: float = 16.0,
        conv_activation: bool = False,
        out_activation: bool = False,
        conv_bias: bool = False,
        direction_scale: float = 0.5,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__(d_model)
        keys = int(expand_k * d_model)
        if num_heads < 1 or gate_rank < 1 or keys < 1 or keys % num_heads or d_model % num_heads:
            got = f"num_heads={num_heads}, gate_rank={gate_rank} for {keys} key and {d_model} value channels"
            raise argument_error("vig 2-D mixer", got, "divisors of both, a rank of at least 1", "change num_heads")
        self.num_heads, self.widths, self.gate_normalizer = num_heads, [keys, keys, d_model], gate_normalizer
        self.conv_activation, self.out_activation = conv_activation, out_activation
        self.direction_scale = direction_scale
        self.conv2d = depthwise_conv2d(d_model, 3, bias=conv_bias)
        self.qkv_proj = Linear(d_model, sum(self.widths), bias=False)
        self.gate_down = Linear(d_model, gate_rank, bias=False)
        self.gate_up = Linear(gate_rank, len(DIRECTIONS) * keys)
        self.local_gate = Linear(d_model, d_model)
        self.norm = RMSNorm(d_model // num_heads, eps=norm_eps)
        self.local_norm = RMSNorm(d_model // num_heads, eps=norm_eps)
        self.out_proj = Linear(d_model, d_model, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small projections without biases."""
        for biased in (self.gate_up, self.local_gate):
            nn.init.zeros_(biased.bias)
        for module in (self.conv2d, self.qkv_proj, self.gate_down, self.gate_up, self.local_gate, self.out_proj):
            nn.init.xavier_uniform_(module.weight, gain=PROJECTION_GAIN)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        u = self.conv2d(x.movedim(-1, 1)).movedim(1, -1)
        u = zero_padding_2d(F.silu(u) if self.conv_activation else u, mask)
        o = self.norm(self.direction_scale * self._both_ways(u, mask))
        local, gate = u.unflatten(-1, (self.num_heads, -1)), self.local_gate(u).sigmoid()
        gate = gate.unflatten(-1, (self.num_heads, -1))
        mixed = (o * gate + self.local_norm(local) * (1 - gate)).flatten(-2)
        y: Tensor = self.out_proj(F.silu(mixed) if self.out_activation else mixed)
        return y

    def _both_ways(self, u: Tensor, mask: Tensor | None) -> Tensor:
        """F + b, (batch, height, width, heads, channels): the directions are rows of one batch."""
        (batch, height, width, _), count = u.shape, len(DIRECTIONS)
        directions = image_directions(DIRECTIONS, height, width, mask, u.device)
        cells = u.flatten(1, 2)
        qkv = spread(self.qkv_proj(cells), directions).transpose(1, 2).flatten(0, 1)
        decay = F.logsigmoid(self.gate_up(self.gate_down(cells)).unflatten(-1, (count, -1))) / self.gate_normalizer
        decay = scan(decay, directions).transpose(1, 2).flatten(0, 1)
        q, k, v, decay = (t.unflatten(-1, (self.num_heads, -1)) for t in (*qkv.split(self.widths, dim=-1), decay))
        o = gated_linear_attention(q, k, v, decay)
        assert isinstance(o, Tensor)
        o = unscan(o.flatten(-2).unflatten(0, (batch, count)).transpose(1, 2), directions).sum(2)
        total: Tensor = o.unflatten(1, (height, width)).unflatten(-1, (self.num_heads, -1))
        return total
