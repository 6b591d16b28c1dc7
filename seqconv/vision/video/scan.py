"""A sequence mixer over volumes or videos: along scan orders, whose results are merged.

With K orders ``o_k`` and 1-D mixers f_k, ``y = merge_k f_k(x[o_k])[inverse(o_k)]``, as over images
(:mod:`~seqconv.vision.mixers.scan`); the orders are those of :mod:`~seqconv.vision.volume_orders`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ..mixers.scan import create_lifted, merge_scans, mix_scans
from ..scan_orders import inverse
from ..volume_orders import check_volume_order, volume_order

BOTH_WAYS = ("frames:row", "reversed:frames:row")


class Scan3d(nn.Module):
    """Any sequence mixer along scan orders of a volume or video.

    Args:
        d_model: width of inputs and outputs.
        mixer: name of the sequence mixer, one of :func:`~seqconv.registry.list_mixers`.
        mixer_options: its options.
        orders: names of scan orders, see :mod:`~seqconv.vision.volume_orders`.
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
        orders: Sequence[str] = BOTH_WAYS,
        merge: str = "sum",
        shared: bool = False,
    ) -> None:
        super().__init__()
        self.mixers, self.out_proj = create_lifted("Scan3d", d_model, mixer, mixer_options, orders, merge, shared)
        self.d_model, self.orders, self.merge = d_model, tuple(check_volume_order(name) for name in orders), merge

    def forward(
        self, x: Float[Tensor, "batch frames height width d_model"]
    ) -> Float[Tensor, "batch frames height width d_model"]:
        """Mix all cells of every volume.

        Raises:
            ValueError: wrong rank or width, volumes without cells.
        """
        if x.dim() != 5 or x.shape[-1] != self.d_model or 0 in x.shape[1:4]:
            wanted = f"(batch, frames, height, width, d_model) with cells and d_model={self.d_model}"
            raise argument_error("Scan3d", f"x of shape {tuple(x.shape)}", wanted, "reshape or project the input")
        sizes = x.shape[1:4]
        orders = [volume_order(name, *sizes).to(x.device) for name in self.orders]
        cells = x.flatten(1, 3)
        results = mix_scans(self.mixers, [cells.index_select(1, order) for order in orders], None)
        back = [y.index_select(1, inverse(order)) for y, order in zip(results, orders, strict=True)]
        y: Tensor = merge_scans(back, self.merge, self.out_proj).unflatten(1, sizes)
        return y
