"""MSVMamba's mixer: one scan at full resolution, three at half, whose sum is resized.

Equation, with E inner channels and s, s' selective scans of parameters of their own::

    [a, z] = W_in x        u = silu(conv(a))        v = silu(conv7(a)), of stride 2
    w = s'(v along row_reversed, then column, then column_reversed)        one scan of three times the cells of v
    y = W_out (e ⊙ (norm(s(u along row)) + resize(Σ norm(w) of the three orders)) ⊙ silu(z))

and e the squeeze and excitation ``σ(W_2 relu(W_1 mean))`` of what it multiplies. Resizing is bilinear.

Source: Shi et al. 2024 (arXiv 2405.14174) and ``classification/models/vmamba.py`` (SS2D of ``multiscale_4scan_12``) of
YuHengsss/MSVMamba at c3940191.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...layers.linear import Linear
from ...layers.norms import LayerNorm
from ...layers.time_step import time_step_rank
from ..backbones.squeeze import SqueezeExcite
from ..mixer_2d import Mixer2d, by_size
from ..registry import register_2d
from ..scan_orders import inverse, scan_order
from .selective import SelectiveScan
from .ss2d import depthwise_conv2d

COARSE_ORDERS = ("row_reversed", "column", "column_reversed")
COARSE_CONV = 7


@register_2d("multi_scale", examples=({"d_state": 1, "expand": 1, "separate_norms": True, "squeeze": 0},))
class MultiScale2d(Mixer2d):
    """Selective scans at two resolutions (MSVMamba).

    Args:
        d_model: width of inputs and outputs.
        d_state: state size per channel.
        d_conv: rows and columns of the convolution at full resolution, odd.
        expand: inner channels per input channel.
        dt_rank: width of the bottleneck in front of the time step; ``"auto"`` is ⌈d_model / 16⌉.
        conv_bias: whether the convolutions have biases.
        bias: whether the projections into and out of the mixer have biases.
        separate_norms: a norm for each resolution instead of one for both.
        squeeze: factor by which squeeze and excitation narrows the channels; 0 leaves it out.

    Raises:
        ValueError: an even ``d_conv``, sizes below 1.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 1,
        d_conv: int = 3,
        expand: int | float = 2,
        dt_rank: int | Literal["auto"] = "auto",
        conv_bias: bool = True,
        bias: bool = False,
        separate_norms: bool = False,
        squeeze: int = 8,
    ) -> None:
        super().__init__(d_model)
        inner, rank = int(expand * d_model), time_step_rank(d_model, dt_rank)
        if min(inner, d_state, rank, d_conv) < 1 or d_conv % 2 == 0 or squeeze < 0:
            got = f"d_state={d_state}, expand={expand}, dt_rank={dt_rank}, d_conv={d_conv}, squeeze={squeeze}"
            wanted = "sizes of at least 1, an odd d_conv, squeeze of at least 0"
            raise argument_error("multi_scale 2-D mixer", got, wanted, "correct the sizes")
        self.in_proj = Linear(d_model, 2 * inner, bias=bias)
        self.conv2d = depthwise_conv2d(inner, d_conv, bias=conv_bias)
        half = COARSE_CONV // 2
        self.coarse_conv2d = nn.Conv2d(inner, inner, COARSE_CONV, stride=2, padding=half, groups=inner, bias=conv_bias)
        self.fine, self.coarse = (SelectiveScan(inner, d_state=d_state, dt_rank=rank) for _ in range(2))
        self.norm = LayerNorm(inner)
        self.coarse_norm = LayerNorm(inner) if separate_norms else None
        self.squeeze = SqueezeExcite(inner, squeeze) if squeeze else None
        self.out_proj = Linear(inner, d_model, bias=bias)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return by_size(self._mix, x, mask)

    def _mix(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        a, z = self.in_proj(x).chunk(2, dim=-1)
        a = a.movedim(-1, 1)
        u, v = F.silu(self.conv2d(a)), F.silu(self.coarse_conv2d(a))
        fine = self.norm(self.fine(u.flatten(2).mT[:, :, None])[:, :, 0]).mT.unflatten(2, (height, width))
        y = fine + F.interpolate(self._coarse(v), size=(height, width), mode="bilinear", align_corners=False)
        y = y.movedim(1, -1)
        y = y if self.squeeze is None else self.squeeze(y)
        mixed: Tensor = self.out_proj(y * F.silu(z))
        return mixed

    def _coarse(self, v: Tensor) -> Tensor:
        """The normed sum of the three orders, channels first."""
        size = (v.shape[2], v.shape[3])
        orders = [scan_order(name, *size).to(v.device) for name in COARSE_ORDERS]
        cells = v.flatten(2).mT
        scanned = self.coarse(cells[:, torch.cat(orders)][:, :, None])[:, :, 0]
        normed = (self.norm if self.coarse_norm is None else self.coarse_norm)(scanned)
        parts = normed.chunk(len(orders), dim=1)
        total = sum(part[:, inverse(order)] for part, order in zip(parts, orders, strict=True))
        assert isinstance(total, Tensor)
        image: Tensor = total.mT.unflatten(2, size)
        return image
