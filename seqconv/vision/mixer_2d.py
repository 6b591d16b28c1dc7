"""The interface of every two-dimensional mixer.

A 2-D mixer maps ``(batch, height, width, d_model)`` to the same shape, for any height and width. It has no state: no
output comes before any other. Images of different sizes share a batch by a mask that is True on a rectangle at the top
left of each; an image in a batch gives what it gives alone. The checks are here, once; a concrete mixer fills in
``_forward`` and is final.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ..parameters import ShardedInGroups, copy_for_rate, kept_parameters

Mixer2dT = TypeVar("Mixer2dT", bound="Mixer2d")


class Mixer2d(ShardedInGroups, ABC):
    """Base of all 2-D mixers.

    Attributes:
        d_model: width of inputs and outputs.
        name: name in the registry, set by :func:`~seqconv.vision.registry.register_2d`.
        continuous: whether small changes of the inputs change the outputs by little; not where codes are signs.
        any_size: whether images of every height and width are taken; those of one ``image_size`` if not.
        shares_values: whether it reads values of :meth:`shared_module`, one module for all blocks of a stage; then
            ``_forward`` takes a keyword ``shared``.
    """

    d_model: int
    name: ClassVar[str] = "mixer_2d"
    continuous: ClassVar[bool] = True
    any_size: ClassVar[bool] = True
    shares_values: bool = False

    def __init__(self, d_model: int) -> None:
        super().__init__()
        if d_model < 1:
            got, remedy = f"d_model={d_model}", "give the width of the inputs"
            raise argument_error(f"{self.name} 2-D mixer", got, "at least 1", remedy)
        self.d_model = d_model

    @abstractmethod
    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """All cells in parallel. ``x`` is zero at padding; a bias added inside must be masked again."""

    def shared_module(self) -> nn.Module | None:
        """A module whose output, a tensor, is ``shared`` of all mixers of a stage that have the same options."""
        return None

    @final  # type: ignore[misc]  # nn.Module types forward as a writable attribute
    def forward(
        self,
        x: Float[Tensor, "batch height width d_model"],
        *,
        mask: Bool[Tensor, "batch height width"] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
        shared: Tensor | None = None,
    ) -> Float[Tensor, "batch height width d_model"]:
        """Mix all cells of every image.

        Args:
            x: images.
            mask: True at the cells of each image, a rectangle that begins in the top left corner; padding on the right
                and at the bottom changes no other output and yields zeros.
            sizes: rows and columns of images that are packed: their cells lie one image after the other in ``x``, of
                shape (1, 1, cells, d_model), and so do the outputs.
            shared: what a module of :meth:`shared_module` returns.

        Raises:
            ValueError: wrong rank, width, dtype or device; images without cells; a mask of another form; shared values
                of a mixer that has none, or none of one that needs them.
        """
        self._check_input(x)
        values = self._shared_values(shared)
        if sizes is not None:
            self._check_sizes(x, mask, sizes)
            return self._packed(x, sizes, values)
        if mask is None:
            return self._forward(x, None, **values)
        check_image_mask(self._op(), mask, x)
        return zero_padding_2d(self._forward(zero_padding_2d(x, mask), mask, **values), mask)

    @final
    def at_rate(self: Mixer2dT, rate: float) -> Mixer2dT:
        """The same mixer, with the same parameters, for cells ``rate`` times as far apart along both axes as now.

        With ``rate=2.0`` a mixer that was trained on whole images runs on every second row and column of them, with 0.5
        on images of twice the resolution; images without frequencies beyond the coarser grid's Nyquist frequency give
        the same outputs, up to the error of the discretisation.

        Raises:
            ValueError: a rate that is not positive; a mixer that is not a function of the position.
        """
        made = copy_for_rate(f"{self.name}.at_rate", self, rate)
        made._change_rate(rate)
        return made

    def _change_rate(self, rate: float) -> None:
        """Take cells ``rate`` times as far apart as now; mixers by functions of the position alone override it."""
        wanted = "a mixer by functions of the position alone, such as ckconv, flexconv or ccnn"
        raise argument_error(f"{self.name}.at_rate", f"rate={rate}", wanted, "resize the images instead")

    def _packed(self, x: Tensor, sizes: Sequence[tuple[int, int]], values: dict[str, Any]) -> Tensor:
        """Packed images: those of one size as a batch."""
        images = list(x[0, 0].split([height * width for height, width in sizes]))
        for height, width in sorted(set(sizes)):
            rows = [row for row, size in enumerate(sizes) if size == (height, width)]
            batch = torch.stack([images[row] for row in rows]).unflatten(1, (height, width))
            for row, image in zip(rows, self._forward(batch, None, **values), strict=True):
                images[row] = image.flatten(0, 1)
        return torch.cat(images)[None, None]

    def _check_sizes(self, x: Tensor, mask: Tensor | None, sizes: Sequence[tuple[int, int]]) -> None:
        cells = sum(height * width for height, width in sizes)
        if mask is not None or x.shape[:3] != (1, 1, cells) or any(min(size) < 1 for size in sizes):
            got = f"x of shape {tuple(x.shape)} for sizes of {cells} cells" + ("" if mask is None else ", and a mask")
            wanted = f"(1, 1, {cells}, d_model), without a mask"
            raise argument_error(self._op(), got, wanted, "pack all cells of the images into one row")

    def _shared_values(self, shared: Tensor | None) -> dict[str, Any]:
        if self.shares_values == (shared is not None):
            return {} if shared is None else {"shared": shared}
        if shared is not None:
            raise argument_error(self._op(), "shared values", "none: this mixer has its own", "leave shared out")
        wanted, remedy = (
            "shared=, values for all blocks of a stage",
            "use HierarchicalBackbone, or pass shared_module()()",
        )
        raise argument_error(self._op(), "no shared values", wanted, remedy)

    def _is_wide(self) -> bool:
        """Whether all parameters stay in float32 at least, so that inputs may be narrower."""
        kept = kept_parameters([self])
        return all(id(p) in kept for p in self.parameters() if p.is_floating_point())

    def _op(self) -> str:
        return f"{self.name}.forward"

    def _check_input(self, x: Tensor) -> None:
        if x.dim() != 4 or x.shape[-1] != self.d_model:
            got, wanted = f"x of shape {tuple(x.shape)}", f"(batch, height, width, d_model) with d_model={self.d_model}"
            raise argument_error(self._op(), got, wanted, "reshape or project the input")
        if 0 in x.shape[1:3]:
            got, wanted = f"images of {x.shape[1]} by {x.shape[2]} cells", "at least one row and one column"
            raise argument_error(self._op(), got, wanted, "leave empty images out")
        own = next((p for p in self.parameters() if p.is_floating_point()), None)
        # Offloaded parameters arrive when their module is called.
        if own is not None and x.device != own.device and own.device.type != "meta":
            wanted = f"the mixer on {own.device}"
            raise argument_error(self._op(), f"x on {x.device}", wanted, "move one with .to()")
        dtypes = {p.dtype for p in self.parameters() if p.is_floating_point()}
        if (
            dtypes
            and x.dtype not in dtypes
            and not (x.is_floating_point() and (torch.is_autocast_enabled(x.device.type) or self._is_wide()))
        ):
            wanted = " or ".join(sorted(str(dtype) for dtype in dtypes))
            remedy = "convert one with .to(dtype), or run under torch.autocast"
            raise argument_error(self._op(), f"x of dtype {x.dtype}", wanted, remedy)


def zero_padding_2d(
    x: Float[Tensor, "batch height width channels"], mask: Bool[Tensor, "batch height width"] | None
) -> Float[Tensor, "batch height width channels"]:
    """``x`` with zeros at padding."""
    return x if mask is None else torch.where(mask[..., None], x, torch.zeros((), dtype=x.dtype, device=x.device))


def by_size(
    mix: Callable[[Tensor], Tensor],
    x: Float[Tensor, "batch height width channels"],
    mask: Bool[Tensor, "batch height width"] | None,
) -> Float[Tensor, "batch height width channels_out"]:
    """``mix`` of every image in its own size, for what cannot skip padding: images of one size run as a batch."""
    if mask is None:
        return mix(x)
    sizes = image_sizes(mask)
    results: list[Tensor] = [x] * len(sizes)
    for height, width in sorted(set(sizes)):
        rows = [row for row, size in enumerate(sizes) if size == (height, width)]
        padding = (0, 0, 0, x.shape[2] - width, 0, x.shape[1] - height)
        for row, image in zip(rows, F.pad(mix(x[rows, :height, :width]), padding), strict=True):
            results[row] = image
    return torch.stack(results)


def check_image_mask(operation: str, mask: Bool[Tensor, "batch height width"], x: Tensor) -> None:
    """Raise for a mask that is not one rectangle at the top left of every image.

    Raises:
        ValueError: wrong dtype or shape; an image without cells; cells outside of the rectangle, or missing in it.
    """
    if mask.dtype != torch.bool:
        remedy = "use mask.bool()"
        raise argument_error(operation, f"a mask of dtype {mask.dtype}", "torch.bool, True at real cells", remedy)
    if mask.shape != x.shape[:3]:
        got, wanted = f"a mask of shape {tuple(mask.shape)}", f"(batch, height, width) = {tuple(x.shape[:3])}"
        raise argument_error(operation, got, wanted, "build the mask from the same batch")
    if torch.compiler.is_compiling() or mask.device.type == "meta":
        return
    rows, columns = mask.any(2), mask.any(1)
    whole = bool((mask == rows[:, :, None] & columns[:, None]).all()) and bool(mask[:, 0, 0].all())
    if not (whole and all(bool((m[:, 1:] <= m[:, :-1]).all()) for m in (rows, columns))):
        got, wanted = "a mask that is no rectangle at the top left", "one rectangle of True per image"
        raise argument_error(operation, got, wanted, "pad images on the right and at the bottom")


def image_sizes(mask: Bool[Tensor, "batch height width"]) -> list[tuple[int, int]]:
    """Height and width of every image under a checked mask."""
    sizes = torch.stack([mask.any(2).sum(1), mask.any(1).sum(1)], dim=1).tolist()
    return [(int(height), int(width)) for height, width in sizes]


def cropped(
    x: Float[Tensor, "batch _ _ channels"], rows: int, columns: int
) -> Float[Tensor, "batch rows columns channels"]:
    """The first rows and columns. In an export a copy: whether a slice is contiguous would restrict open sizes."""
    if not torch.compiler.is_exporting():
        return x[:, :rows, :columns]
    row, column = (torch.arange(size, device=x.device) for size in (rows, columns))
    return x.index_select(1, row).index_select(2, column)
