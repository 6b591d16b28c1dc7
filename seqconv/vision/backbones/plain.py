"""Plain backbones: patches as a sequence, blocks of one width, as in a ViT.

``x = patches(images)``, a class token put into the middle of the sequence if there is one, position embeddings added,
then blocks ``x + f(norm(x))`` with f any sequence mixer. The position embeddings are learned for a grid of patches and
resized, bicubic, to the grid of other images.

Source: Vision Mamba, ``vim/models_mamba.py`` of hustvl/Vim at dd0358a.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...blocks import Block
from ...layers.norms import create_norm
from ...registry import create_mixer
from ...types import LayerContext
from .backbone import LINEAR_INIT_STD, ImageBackbone, check_out_indices
from .block import drop_path_rates
from .stems import check_images

POOLINGS = ("class", "mean")


class PlainBackbone(ImageBackbone):
    """A stack of sequence mixers over the patches of an image.

    Args:
        mixer: name of the sequence mixer, one of :func:`~seqconv.registry.list_mixers`.
        d_model: width.
        depth: blocks.
        mixer_options: options of the mixer in all blocks.
        image_size: pixels along each axis that the position embeddings are learned for; other sizes are resized to.
        patch_size: pixels of a patch along each axis.
        stride: pixels from a patch to the next; ``patch_size`` if not given.
        in_channels: channels of the images.
        pooling: ``"class"`` (a token in the middle of the sequence) or ``"mean"`` over the patches, without the token.
        norm, mlp, mlp_ratio: as in :class:`~seqconv.blocks.Block`.
        out_indices: blocks whose outputs are the maps of features, counted from 0; the last if not given.
        drop_path: rate of the last block; it rises evenly from 0 at the first.
        gradient_checkpointing: see :class:`~seqconv.vision.backbones.backbone.ImageBackbone`.

    Raises:
        ValueError: unknown names or options (the nearest are named), sizes below 1, indices outside of the depth.
    """

    def __init__(
        self,
        mixer: str,
        *,
        d_model: int,
        depth: int,
        mixer_options: Mapping[str, Any] | None = None,
        image_size: int = 224,
        patch_size: int = 16,
        stride: int | None = None,
        in_channels: int = 3,
        pooling: str = "class",
        norm: str = "rms",
        mlp: str = "none",
        mlp_ratio: float = 4.0,
        out_indices: Sequence[int] | None = None,
        drop_path: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        stride = patch_size if stride is None else stride
        if min(depth, patch_size, stride) < 1 or image_size < patch_size:
            got = f"depth={depth}, image_size={image_size}, patch_size={patch_size}"
            wanted = "sizes of at least 1, an image of at least a patch"
            raise argument_error("PlainBackbone", got, wanted, "correct the sizes")
        if pooling not in POOLINGS:
            raise unknown_name("PlainBackbone", "pooling", pooling, POOLINGS)
        out_indices = (depth - 1,) if out_indices is None else out_indices
        self.out_indices = check_out_indices("PlainBackbone", out_indices, depth)
        self.in_channels, self.patch_size, self.pooling = in_channels, patch_size, pooling
        self.d_model, self.num_stages = d_model, depth
        self.dims, self.strides = (d_model,) * len(self.out_indices), (stride,) * len(self.out_indices)
        self.gradient_checkpointing = gradient_checkpointing
        self.grid = (image_size - patch_size) // stride + 1
        self.patch_embedding = nn.Conv2d(in_channels, d_model, patch_size, stride=stride)
        self.position_embedding = nn.Parameter(torch.empty(self.grid, self.grid, d_model))
        if pooling == "class":
            self.class_token = nn.Parameter(torch.empty(d_model))
            self.class_position = nn.Parameter(torch.empty(d_model))
        options = dict(mixer_options or {})
        self.blocks = nn.ModuleList()
        for index, rate in enumerate(drop_path_rates(drop_path, depth)):
            layer = LayerContext(index, depth)
            made = create_mixer(mixer, d_model, layer=layer, **options)
            block = Block(made, norm=norm, mlp=mlp, mlp_ratio=mlp_ratio, drop_path=rate, layer=layer)
            self.blocks.append(block)
        self.norm = create_norm(norm, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Patches as LeCun 1998 without a bias, tokens and positions small."""
        fan_in = self.patch_embedding.weight[0].numel()
        nn.init.trunc_normal_(self.patch_embedding.weight, std=fan_in**-0.5)
        if self.patch_embedding.bias is not None:
            nn.init.zeros_(self.patch_embedding.bias)
        for parameter in self.parameters(recurse=False):
            nn.init.trunc_normal_(parameter, std=LINEAR_INIT_STD)

    def features(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The maps of features, without the class token, and the last sequence."""
        check_images("PlainBackbone", images, self.in_channels, self.patch_size)
        cells = self.patch_embedding(images).movedim(1, -1)
        rows, columns = cells.shape[1:3]
        x = (cells + self._positions(rows, columns)).flatten(1, 2)
        middle = rows * columns // 2
        if self.pooling == "class":
            token = (self.class_token + self.class_position).expand(len(x), 1, -1)
            x = torch.cat([x[:, :middle], token, x[:, middle:]], dim=1)
        features = []
        for index, block in enumerate(self.blocks):
            x = self._run(block, x)
            if index in self.out_indices:
                patches = torch.cat([x[:, :middle], x[:, middle + 1 :]], dim=1) if self.pooling == "class" else x
                features.append(patches.unflatten(1, (rows, columns)))
        return features, x

    def pool(self, last: Tensor) -> Float[Tensor, "batch d_model"]:
        """The normed class token, or the mean of the normed patches."""
        if self.pooling == "class":
            last = last[:, (last.shape[1] - 1) // 2]  # one token: norms act on each by itself
        y: Tensor = self.norm(last)
        return y if self.pooling == "class" else y.mean(1)

    def _positions(self, rows: int, columns: int) -> Float[Tensor, "rows columns d_model"]:
        """The position embeddings of a grid of patches."""
        return resized_positions(self.position_embedding, rows, columns)


def resized_positions(
    table: Float[Tensor, "grid_rows grid_columns d_model"], rows: int, columns: int
) -> Float[Tensor, "rows columns d_model"]:
    """Position embeddings for another grid of patches: bicubic, or the table itself where the grid is its own."""
    if (rows, columns) == table.shape[:2]:
        return table
    resized = F.interpolate(table.movedim(-1, 0)[None], size=(rows, columns), mode="bicubic", align_corners=False)
    return resized[0].movedim(0, -1)
