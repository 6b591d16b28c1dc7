"""A sequence mixer over an image: along scan orders, whose results are merged.

Equation, with K orders ``o_k`` and 1-D mixers f_k::

    y = merge_k f_k(x[o_k])[inverse(o_k)]

and ``merge`` the sum, the mean, or a linear projection of the concatenation. With one order, ``"row"``, it is the 1-D
mixer on the flattened image. Images of different sizes are each scanned in the order of their own size.

Source: cross-scan and cross-merge of VMamba (arXiv 2401.10166); Vim (2401.09417) for the mean.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...layers.linear import Linear
from ...registry import create_mixer
from ..directions import frame_orders
from ..mixer_2d import Mixer2d, image_sizes
from ..registry import register_2d
from ..scan_orders import check_scan_order, inverse, scan_order

MERGES = ("sum", "mean", "concat")
CROSS = ("row", "row_reversed", "column", "column_reversed")


@register_2d(
    "scan",
    examples=(
        {"mixer": "gla", "mixer_options": {"num_heads": 2}, "orders": ["hilbert", "hilbert_reversed"], "merge": "mean"},
        {"mixer": "s4d", "orders": ["row", "zigzag_rotated"], "merge": "concat", "shared": True},
        {"mixer": "attention", "orders": ["window:2"]},
    ),
)
class Scan2d(Mixer2d):
    """Any sequence mixer along scan orders of the image.

    Args:
        d_model: width of inputs and outputs.
        mixer: name of the sequence mixer, one of :func:`~seqconv.registry.list_mixers`.
        mixer_options: its options.
        orders: names of scan orders, see :mod:`~seqconv.vision.scan_orders`.
        merge: ``"sum"``, ``"mean"`` or ``"concat"`` (a linear projection of the concatenated results).
        shared: one mixer for all orders instead of one each.

    Raises:
        ValueError: no orders; unknown mixers, options, orders or merges (the nearest are named).
    """

    def __init__(
        self,
        d_model: int,
        *,
        mixer: str = "mamba",
        mixer_options: Mapping[str, Any] | None = None,
        orders: Sequence[str] = CROSS,
        merge: str = "sum",
        shared: bool = False,
    ) -> None:
        super().__init__(d_model)
        made = create_lifted("scan 2-D mixer", d_model, mixer, mixer_options, orders, merge, shared)
        self.mixers, self.out_proj = made
        self.orders, self.merge = tuple(check_scan_order(name) for name in orders), merge

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, height, width, _ = x.shape
        sizes = [(height, width)] if mask is None else image_sizes(mask)
        cells = x.flatten(1, 2)
        # Cells of an image come first in its scan, padding after them, where it changes no output of a 1-D mixer.
        scanned_mask = None
        if mask is not None:
            lengths = torch.tensor([h * w for h, w in sizes], device=x.device)
            scanned_mask = torch.arange(height * width, device=x.device) < lengths[:, None]
        orders = [frame_orders(name, sizes, height, width).to(x.device) for name in self.orders]
        scans = [cells.take_along_dim(order.expand(batch, -1)[..., None], dim=1) for order, _ in orders]
        results = mix_scans(self.mixers, scans, scanned_mask)
        back = [
            y.take_along_dim(step.expand(batch, -1)[..., None], dim=1)
            for y, (_, step) in zip(results, orders, strict=True)
        ]
        y: Tensor = merge_scans(back, self.merge, self.out_proj).unflatten(1, (height, width))
        return y

    def _packed(self, x: Tensor, sizes: Sequence[tuple[int, int]], values: dict[str, Any]) -> Tensor:
        """Every image in its own order, all of them as one packed row."""
        starts = [0, *accumulate(height * width for height, width in sizes)]
        bounds = torch.tensor(starts, dtype=torch.int32, device=x.device)
        results = []
        for index, name in enumerate(self.orders):
            order = torch.cat([scan_order(name, *size) + at for size, at in zip(sizes, starts[:-1], strict=True)])
            mixer = self.mixers[index % len(self.mixers)]
            y = mixer(x[0].index_select(1, order.to(x.device)), cu_seqlens=bounds)
            results.append(y.index_select(1, inverse(order).to(x.device)))
        return merge_scans(results, self.merge, self.out_proj)[None]


def create_lifted(
    operation: str,
    d_model: int,
    mixer: str,
    mixer_options: Mapping[str, Any] | None,
    orders: Sequence[str],
    merge: str,
    shared: bool,
) -> tuple[nn.ModuleList, Linear | None]:
    """The sequence mixers, one for each order or for all, and the projection of a merge that has one.

    Raises:
        ValueError: no orders, an unknown merge, mixer or option (the nearest are named).
    """
    if not orders or isinstance(orders, str):
        wanted, remedy = "a list of at least one scan order", "pass orders=['row']"
        raise argument_error(operation, f"orders={orders!r}", wanted, remedy)
    if merge not in MERGES:
        raise unknown_name(operation, "merge", merge, MERGES)
    count = 1 if shared else len(orders)
    mixers = nn.ModuleList([create_mixer(mixer, d_model, **(mixer_options or {})) for _ in range(count)])
    return mixers, Linear(len(orders) * d_model, d_model) if merge == "concat" else None


def mix_scans(mixers: nn.ModuleList, scans: list[Tensor], mask: Tensor | None) -> list[Tensor]:
    """The results of every scan; a shared mixer takes all scans as one batch."""
    if len(mixers) == 1:
        repeated = None if mask is None else mask.repeat(len(scans), 1)
        y: Tensor = mixers[0](torch.cat(scans), mask=repeated)
        return list(y.chunk(len(scans)))
    return [mixer(scan, mask=mask) for mixer, scan in zip(mixers, scans, strict=True)]


def merge_scans(
    results: list[Float[Tensor, "batch cells d_model"]], merge: str, out_proj: nn.Module | None
) -> Float[Tensor, "batch cells d_model"]:
    """The sum, the mean or the projection of the concatenation."""
    if out_proj is not None:
        y: Tensor = out_proj(torch.cat(results, dim=-1))
        return y
    total = torch.stack(results).sum(0)
    return total / len(results) if merge == "mean" else total
