"""Images of different sizes in one row, without padding (NaViT): the patches of all, one image after the other.

Backbones of one width take what :func:`pack_images` returns in the place of a batch, and give for every image what it
gives alone. Source: Dehghani et al. 2023, "Patch n' Pack: NaViT" (arXiv 2307.06304).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from seqconv_kernels._core.errors import argument_error


@dataclass(frozen=True)
class PackedImages:
    """Patches of images, one image after the other, each row by row.

    Attributes:
        patches: (patches, channels, height, width), a patch each.
        sizes: rows and columns of patches of every image.
        patch_size: pixels of a patch along both axes.
        stride: pixels from a patch to the next.
    """

    patches: Tensor
    sizes: tuple[tuple[int, int], ...]
    patch_size: tuple[int, int]
    stride: tuple[int, int]

    @property
    def lengths(self) -> list[int]:
        """Patches of every image."""
        return [rows * columns for rows, columns in self.sizes]

    @property
    def cu_seqlens(self) -> Int[Tensor, " images_and_one"]:
        """Where each image begins in the row, and where the last one ends."""
        return boundaries(self.lengths, self.patches.device)

    def to(self, *args: Any, **kwargs: Any) -> "PackedImages":
        """On another device or of another dtype, as ``Tensor.to``."""
        return replace(self, patches=self.patches.to(*args, **kwargs))


def boundaries(lengths: Sequence[int], device: torch.device) -> Int[Tensor, " images_and_one"]:
    """``cu_seqlens`` of sequences of these lengths."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


def pack_images(
    images: Sequence[Float[Tensor, "channels _ _"]],
    patch_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
) -> PackedImages:
    """The patches of images of any sizes in one row.

    Args:
        images: of one number of channels, dtype and device; pixels that fill no patch are left out.
        patch_size, stride: those of the backbone; the stride is ``patch_size`` if not given.

    Raises:
        ValueError: no images, other ranks, channels, dtypes or devices, integers, images smaller than a patch.

    >>> pack_images([torch.zeros(3, 8, 12), torch.zeros(3, 4, 4)], 4).sizes
    ((2, 3), (1, 1))
    """
    patch = (patch_size, patch_size) if isinstance(patch_size, int) else (patch_size[0], patch_size[1])
    steps = patch if stride is None else (stride, stride) if isinstance(stride, int) else (stride[0], stride[1])
    _check(images, patch)
    sizes = tuple(
        ((image.shape[1] - patch[0]) // steps[0] + 1, (image.shape[2] - patch[1]) // steps[1] + 1) for image in images
    )
    unfolded = [F.unfold(image[None], patch, stride=steps)[0].T for image in images]
    patches = torch.cat(unfolded).unflatten(1, (images[0].shape[0], *patch))
    return PackedImages(patches, sizes, patch, steps)


def packing_collator(
    patch_size: int | Sequence[int], stride: int | Sequence[int] | None = None
) -> Callable[[Sequence[tuple[Tensor, Any]]], tuple[PackedImages, Tensor]]:
    """A ``collate_fn`` for ``DataLoader``: examples (image, label) to packed images and the tensor of labels."""

    def collate(examples: Sequence[tuple[Tensor, Any]]) -> tuple[PackedImages, Tensor]:
        images, labels = zip(*examples, strict=True)
        return pack_images(images, patch_size, stride), torch.as_tensor(labels)

    return collate


def check_packed(
    operation: str, packed: PackedImages, channels: int, patch: Sequence[int], stride: Sequence[int]
) -> None:
    """Raise for patches of other channels, another size or another stride than those of a backbone.

    Raises:
        ValueError: see above.
    """
    found = (packed.patches.shape[1], packed.patch_size, packed.stride)
    wanted = (channels, tuple(patch), tuple(stride))
    if found != wanted:
        names = "(channels, patch size, stride)"
        raise argument_error(operation, f"{names} = {found}", f"{wanted}", "pack the images with the backbone's sizes")


def _check(images: Sequence[Tensor], patch: tuple[int, int]) -> None:
    kinds = {(image.shape[0], image.dtype, image.device) if image.dim() == 3 else None for image in images}
    if len(kinds) != 1 or None in kinds:
        got = "no images" if not images else f"images of shapes {[tuple(image.shape) for image in images]}"
        wanted = "images (channels, height, width) of one number of channels, dtype and device"
        raise argument_error("pack_images", got, wanted, "convert the images to one form")
    if not images[0].is_floating_point():
        got, remedy = (
            f"images of dtype {images[0].dtype}",
            "scale bytes: image.float() / 255, normalised as in training",
        )
        raise argument_error("pack_images", got, "floating point pixels", remedy)
    least = min(image.shape[1] for image in images), min(image.shape[2] for image in images)
    if least[0] < patch[0] or least[1] < patch[1]:
        got = f"an image of {least[0]} rows or {least[1]} columns"
        raise argument_error("pack_images", got, f"at least {patch[0]} by {patch[1]}", "enlarge the images")
