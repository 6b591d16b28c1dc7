"""ViL's mixer: an mLSTM along one scan order of the image, its queries and keys convolved over the image.

Equation, with ``o`` the order and the cell of :mod:`~seqconv.mixers.linear_attention.xlstm.mlstm_cell` per head::

    [a, z] = W_up x                   u = silu(conv(a))
    q, k, v = W_q u, W_k u, W_v a     block-diagonal, in blocks of a few channels
    i, f = W_i [q, k, v] + b_i, W_f [q, k, v] + b_f          one number per head
    h[o] = layer norm of mlstm(q[o], k[o], v[o], i[o], f[o]) over each head
    y = W_down ((h + s ⊙ u) ⊙ silu(z))

The convolution is 3 by 3 over the image (second version), or causal along the order (first version). Blocks alternate
between ``row`` and ``row_reversed``.

Source: Alkin et al. 2024 (arXiv 2406.04303) and ``vision_lstm/vision_lstm2.py`` of NX-AI/vision-lstm at 381ba95c.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.directions import Directions, spread, unscan
from seqconv_kernels._core.errors import argument_error, unknown_name

from ...layers.heads import HeadLayerNorm, HeadwiseLinear
from ...layers.linear import Linear
from ...layers.short_convolution import ShortConvolution
from ...mixers.linear_attention.xlstm.mlstm import INPUT_BIAS_STD, reset_gates
from ...mixers.linear_attention.xlstm.mlstm_cell import mlstm
from ...parameters import set_optimizer_options
from ..directions import image_directions
from ..mixer_2d import Mixer2d, zero_padding_2d
from ..registry import register_2d
from ..scan_orders import check_scan_order
from .ss2d import depthwise_conv2d

CONVOLUTIONS = ("image", "scan")


@register_2d(
    "vision_lstm",
    examples=(
        {"num_heads": 2, "order": "row_reversed", "expand": 1, "bias": False},
        {"convolution": "scan", "d_conv": 4, "order": "snake_column", "qkv_block": 2},
    ),
)
class VisionLSTM2d(Mixer2d):
    """mLSTM along a scan order (Vision-LSTM).

    Args:
        d_model: width of inputs and outputs.
        order: scan order, see :mod:`~seqconv.vision.scan_orders`.
        num_heads: heads of the memory, a divisor of ``expand · d_model``.
        expand: inner channels per input channel.
        qkv_block: channels of a block of the query, key and value projections.
        convolution: ``"image"`` or ``"scan"``, see above.
        d_conv: rows and columns of the convolution over the image, odd; or taps of the one along the order.
        bias: whether projections have biases.
        norm_bias: whether the norm of the heads has one; as ``bias`` if not given.

    Raises:
        ValueError: an unknown order or convolution, heads or blocks that do not divide the inner channels, an even
            ``d_conv``.
    """

    def __init__(
        self,
        d_model: int,
        *,
        order: str = "row",
        num_heads: int = 4,
        expand: int | float = 2,
        qkv_block: int = 4,
        convolution: str = "image",
        d_conv: int = 3,
        bias: bool = True,
        norm_bias: bool | None = None,
    ) -> None:
        super().__init__(d_model)
        inner, op = int(expand * d_model), "vision_lstm 2-D mixer"
        if num_heads < 1 or qkv_block < 1 or inner < 1 or inner % num_heads or inner % qkv_block:
            got = f"num_heads={num_heads}, qkv_block={qkv_block} for {inner} inner channels"
            raise argument_error(op, got, "divisors of the inner channels", "change num_heads or qkv_block")
        if convolution not in CONVOLUTIONS:
            raise unknown_name(op, "convolution", convolution, CONVOLUTIONS)
        if d_conv < 1 or (convolution == "image" and d_conv % 2 == 0):
            raise argument_error(op, f"d_conv={d_conv}", "an odd number over the image", "add or leave out a tap")
        self.order, self.heads = check_scan_order(order), (num_heads, inner // num_heads)
        self.projection_std = (2 / (5 * d_model)) ** 0.5
        self.up_proj = Linear(d_model, 2 * inner, bias=bias)
        over_image = convolution == "image"
        self.conv2d = depthwise_conv2d(inner, d_conv) if over_image else None
        self.conv1d = None if over_image else ShortConvolution(inner, d_conv)
        self.q_proj, self.k_proj, self.v_proj = (
            HeadwiseLinear(inner, inner // qkv_block, init_std=self.projection_std, bias=bias) for _ in range(3)
        )
        self.i_proj, self.f_proj = Linear(3 * inner, num_heads), Linear(3 * inner, num_heads)
        self.norm = HeadLayerNorm(*self.heads, bias=bias if norm_bias is None else norm_bias)
        self.skip = nn.Parameter(torch.empty(inner))
        set_optimizer_options(self, "skip", weight_decay=0.0)
        self.down_proj = Linear(inner, d_model, bias=bias)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Small projections, gates that depend on their biases alone."""
        self.up_proj.weight.normal_(std=self.projection_std)
        self.down_proj.weight.normal_(std=2 / self.d_model**0.5)
        for projection in (self.up_proj, self.down_proj):
            if projection.bias is not None:
                projection.bias.zero_()
        reset_gates(self.i_proj, self.f_proj)
        self.i_proj.bias.normal_(std=INPUT_BIAS_STD)
        self.skip.fill_(1.0)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        height, width = x.shape[1:3]
        directions = image_directions((self.order,), height, width, mask, x.device)
        a, z = self.up_proj(x).chunk(2, dim=-1)
        a = zero_padding_2d(a, mask)
        along = _scanned(a, directions)
        if self.conv2d is None:
            assert self.conv1d is not None
            u, _ = self.conv1d(along)
        else:
            u = _scanned(F.silu(self.conv2d(a.movedim(-1, 1)).movedim(1, -1)), directions)
        h = self.norm(self._cell(along, u)).flatten(-2) + self.skip * u
        h = unscan(h[:, :, None], directions)[:, :, 0].unflatten(1, (height, width))
        y: Tensor = self.down_proj((h * F.silu(z)).to(z.dtype))
        return y

    def _cell(self, a: Tensor, u: Tensor) -> Float[Tensor, "batch cells heads head_dim"]:
        """The mLSTM over cells in the order of the scan; padding comes last."""
        qkv = self.q_proj(u), self.k_proj(u), self.v_proj(a)
        together = torch.cat(qkv, dim=-1)
        q, k, v = (t.unflatten(-1, self.heads) for t in qkv)
        wide, (heads, head_dim) = torch.promote_types(a.dtype, torch.float32), self.heads
        memory = torch.zeros(a.shape[0], heads, head_dim, head_dim + 1, device=a.device, dtype=wide)
        stabilizer = torch.full((a.shape[0], heads), -torch.inf, device=a.device, dtype=wide)
        h, _, _ = mlstm(q, k, v, self.i_proj(together), self.f_proj(together), memory, stabilizer)
        return h


def _scanned(x: Tensor, directions: Directions) -> Float[Tensor, "batch cells channels"]:
    """Cells in the order of the one direction."""
    return spread(x.flatten(1, 2), directions)[:, :, 0]
