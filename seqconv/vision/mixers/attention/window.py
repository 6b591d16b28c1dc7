"""Attention inside of windows of the image: Swin's shifted windows, with a learned bias for each offset, or without.

Equation per head of d channels, with i and j cells of one window::

    y_i = W_out Σ_j softmax_j(q_i · k_j / √d + b[row_i - row_j, column_i - column_j]) v_j

Every second block of a Swin moves the image by ``shift`` cells to the left and up, around the edges, so that its
windows overlap those of the block before; cells that were not neighbours do not attend to each other. An image that
is no larger than a window along an axis has windows of that size, and is not moved. Here an image of any other size is
padded to whole windows, and padding is not attended to. Without the bias and the shift this is the locally grouped
attention of Twins, which takes whole windows alone.

Source: Liu et al. 2021 (arXiv 2103.14030) and ``classification/models/swin_transformer.py`` of xinghaochen/SLAB at
f58db00b; Chu et al. 2021 (arXiv 2104.13840) and ``twins/gvt.py`` (GroupAttention) of ziplab/EcoFormer at a277f9e8.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.operator.sizes import known

from ....layers.linear import Linear
from ....parameters import set_optimizer_options
from ...mixer_2d import Mixer2d, by_size, cropped
from ...registry import register_2d

BIAS_INIT_STD = 0.02
PADDING = -1
"""Region of the cells around the image."""


@register_2d(
    "shifted_window",
    examples=(
        {"num_heads": 2, "window": 3, "shift": 1, "qkv_bias": False},
        {"num_heads": 2, "window": 3, "offset_bias": False},
    ),
)
class ShiftedWindow2d(Mixer2d):
    """Attention inside of square windows (Swin, Twins).

    Args:
        d_model: width of inputs and outputs.
        num_heads: heads, a divisor of the width.
        window: rows and columns of a window.
        shift: cells that the image is moved by.
        qkv_bias: whether queries, keys and values have biases.
        offset_bias: whether the scores have a learned bias for each offset.

    Raises:
        ValueError: heads that do not divide the width, a window below 1, a shift outside of it.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        window: int = 7,
        shift: int = 0,
        qkv_bias: bool = True,
        offset_bias: bool = True,
    ) -> None:
        super().__init__(d_model)
        check_heads("shifted_window", d_model, num_heads)
        if window < 1 or not 0 <= shift < window:
            got, wanted = f"window={window}, shift={shift}", "a window of at least 1, a shift inside of it"
            raise argument_error("shifted_window 2-D mixer", got, wanted, "correct the sizes")
        self.num_heads, self.window, self.shift = num_heads, window, shift
        self.qkv_proj, self.out_proj = Linear(d_model, 3 * d_model, bias=qkv_bias), Linear(d_model, d_model)
        table = torch.empty(2 * window - 1, 2 * window - 1, num_heads) if offset_bias else None
        self.relative_bias = None if table is None else nn.Parameter(table)
        if offset_bias:
            set_optimizer_options(self, "relative_bias", weight_decay=0.0)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small biases of the offsets."""
        if self.relative_bias is not None:
            nn.init.trunc_normal_(self.relative_bias, std=BIAS_INIT_STD)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y: Tensor = self.out_proj(by_size(self._mixed, self.qkv_proj(x), mask))
        return y

    def _mixed(self, qkv: Float[Tensor, "batch rows columns channels_in"]) -> Float[Tensor, "batch rows columns d"]:
        rows, columns = qkv.shape[1:3]
        size, shift = min(self.window, rows, columns), self.shift if min(rows, columns) > self.window else 0
        down, across = -(-rows // size), -(-columns // size)
        qkv = F.pad(qkv, (0, 0, 0, across * size - columns, 0, down * size - rows))
        moved = qkv.roll((-shift, -shift), (1, 2)) if shift else qkv
        bias = None if self.relative_bias is None else self._bias(self.relative_bias, size)[None]
        if shift or not (known(qkv.shape[1] == rows) and known(qkv.shape[2] == columns)):
            apart = separation(regions(rows, columns, size, size, shift, qkv.device), size, size, qkv.dtype)
            bias = apart if bias is None else bias + apart
        y = attend_in_windows(moved, self.num_heads, size, size, bias)
        y = y.roll((shift, shift), (1, 2)) if shift else y
        return cropped(y, rows, columns)

    def _bias(self, biases: Float[Tensor, "offsets offsets heads"], size: int) -> Float[Tensor, "heads cells cells"]:
        """The bias of every pair of cells of a window."""
        place = torch.arange(size, device=biases.device)
        offset = place[:, None] - place + self.window - 1
        table = biases[offset[:, None, :, None], offset[None, :, None, :]]
        return table.flatten(0, 1).flatten(1, 2).movedim(-1, 0)


def attend_in_windows(
    qkv: Float[Tensor, "batch rows columns channels_in"],
    num_heads: int,
    height: int,
    width: int,
    bias: Float[Tensor, "_ _ cells cells"] | None,
) -> Float[Tensor, "batch rows columns d_model"]:
    """Attention inside of windows of ``height`` by ``width`` cells; ``bias`` for each window and head, or for all."""
    windows = to_windows(qkv, height, width)
    batch, count, cells, channels = windows.shape
    q, k, v = windows.view(batch, count, cells, 3, num_heads, channels // (3 * num_heads)).permute(3, 0, 1, 4, 2, 5)
    if bias is not None:
        bias = bias.expand(count, num_heads, cells, cells).flatten(0, 1)[None].to(q.dtype)
    y = F.scaled_dot_product_attention(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2), attn_mask=bias)
    y = y.unflatten(1, (count, num_heads)).transpose(2, 3).flatten(3)
    return from_windows(y, height, width, qkv.shape[1] // height, qkv.shape[2] // width)


def to_windows(
    x: Shaped[Tensor, "batch rows columns channels"], height: int, width: int
) -> Shaped[Tensor, "batch windows cells channels"]:
    """The windows of an image of whole windows, row after row, and so are their cells."""
    cut = x.unflatten(2, (x.shape[2] // width, width)).unflatten(1, (x.shape[1] // height, height))
    windows: Tensor = cut.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return windows


def from_windows(
    x: Float[Tensor, "batch windows cells channels"], height: int, width: int, down: int, across: int
) -> Float[Tensor, "batch rows columns channels"]:
    """The image of ``down`` by ``across`` windows."""
    split = x.unflatten(1, (down, across)).unflatten(3, (height, width))
    image: Tensor = split.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return image


def regions(
    rows: int, columns: int, height: int, width: int, shift: int, device: torch.device
) -> Int[Tensor, "1 padded_rows padded_columns 1"]:
    """Which part of the image each cell of the padded, moved image is from: those that went around the edges differ."""
    (down, above), (across, left) = (
        _axis(cells, size, shift, device) for cells, size in ((rows, height), (columns, width))
    )
    part = 2 * above[:, None].to(torch.int64) + left.to(torch.int64)
    return part.masked_fill(~(down[:, None] & across), PADDING)[None, ..., None]


def _axis(cells: int, size: int, shift: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each place along an axis: whether a cell of the image is there, and whether it came around the edge."""
    padded = cells + -cells % size
    place = torch.arange(padded, device=device)
    return (place + shift) % padded < cells, place >= padded - shift


def separation(
    region: Int[Tensor, "1 rows columns 1"], height: int, width: int, dtype: torch.dtype
) -> Float[Tensor, "windows 1 cells cells"]:
    """−∞ between the cells of different regions, of every window."""
    part = to_windows(region, height, width)[0, ..., 0]
    apart = part[:, None, :, None] != part[:, None, None, :]
    return torch.zeros((), dtype=dtype, device=region.device).masked_fill(apart, float("-inf"))


def check_heads(name: str, d_model: int, num_heads: int) -> None:
    """Raise for heads that do not divide the width.

    Raises:
        ValueError: such heads.
    """
    if num_heads < 1 or d_model % num_heads:
        got = f"num_heads={num_heads} for d_model={d_model}"
        raise argument_error(f"{name} 2-D mixer", got, "a divisor of the width", "change num_heads")
