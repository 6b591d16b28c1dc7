"""Plain backbones: patches as a sequence, blocks of one width, as in a ViT.

``x = patches(images)``, a class token put into the middle of the sequence if there is one, position embeddings added,
then blocks ``x + f(norm(x))`` with f any sequence mixer. The position embeddings are learned for a grid of patches and
resized, bicubic, to the grid of other images.

Source: Vision Mamba, ``vim/models_mamba.py`` of hustvl/Vim at dd0358a.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, check_name

from ...blocks import Block
from ...layers.initialisation import LINEAR_INIT_STD, reset_layers, reset_lecun, reset_scanning_block
from ...layers.norms import BatchNorm, PRepBatchNorm, create_norm
from ...parameters import set_optimizer_options
from ...registry import create_mixer
from ...types import LayerContext
from ..packed_images import PackedImages, boundaries, check_packed
from ..positions import both_axes, resized_positions
from .backbone import ImageBackbone, check_out_indices
from .block import drop_path_rates
from .stems import check_channels, check_images

OPERATION = "PlainBackbone"
POOLINGS = ("cls", "mean", "last")
CLS_POSITIONS = ("first", "middle", "last")
ORDERS = ("row", "column")
INITIALISATIONS = ("lecun", "linear", "scan")


class BlockPair(nn.Module):
    """Two blocks in opposite directions, ``x ← f(x) + reverse(g(reverse(x)))``: the residual stream counts twice.

    Source: ``if_bidirectional`` of Vision Mamba and Audio Mamba, ``src/models/mamba_models.py`` of
    mhamzaerol/Audio-Mamba-AuM at 7f6b38e.
    """

    def __init__(self, forwards: Block, backwards: Block) -> None:
        super().__init__()
        self.forwards, self.backwards = forwards, backwards

    def forward(self, x: Float[Tensor, "batch length d_model"]) -> Float[Tensor, "batch length d_model"]:
        """Both directions."""
        y: Tensor = self.forwards(x) + self.backwards(x.flip(1)).flip(1)
        return y


class PlainBackbone(ImageBackbone):
    """A stack of sequence mixers over the patches of an image.

    Args:
        mixer: name of the sequence mixer, one of :func:`~seqconv.registry.list_mixers`.
        d_model: width.
        depth: blocks.
        mixer_options: options of the mixer in all blocks.
        image_size: pixels that the position embeddings are learned for; other sizes are resized to. Along each axis, or
            ``(height, width)``, as the two that follow.
        patch_size: pixels of a patch.
        stride: pixels from a patch to the next; ``patch_size`` if not given.
        in_channels: channels of the images.
        pooling: ``"cls"`` (a learned token in the sequence), or without it ``"mean"`` over the patches or the
            ``"last"`` of them.
        cls_position: where the class token is: ``"first"``, ``"middle"`` or ``"last"``.
        order: in which the patches are read: ``"row"`` by row, or ``"column"`` by column.
        pairs: two blocks in opposite directions at a time, see :class:`BlockPair`; ``depth`` counts all blocks.
        norm, norm_options, mlp, mlp_ratio: as in :class:`~seqconv.blocks.Block`.
        initialisation: ``"lecun"`` draws the patches as LeCun 1998 without a bias and leaves the blocks to their layers
            (Vim); ``"linear"`` draws all linear layers (DeiT), ``"scan"`` all but the mixers' last, with biases of time
            steps and a class token of zero (VideoMamba), and both leave the patches as PyTorch does.
        out_indices: blocks whose outputs are the feature maps, counted from 0; the last if not given.
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
        image_size: int | Sequence[int] = 224,
        patch_size: int | Sequence[int] = 16,
        stride: int | Sequence[int] | None = None,
        in_channels: int = 3,
        pooling: str = "cls",
        cls_position: str = "middle",
        order: str = "row",
        pairs: bool = False,
        norm: str = "rms",
        norm_options: Mapping[str, Any] | None = None,
        mlp: str = "none",
        mlp_ratio: float = 4.0,
        initialisation: str = "lecun",
        out_indices: Sequence[int] | None = None,
        drop_path: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        image, patch = both_axes(image_size), both_axes(patch_size)
        stride = patch if stride is None else both_axes(stride)
        _check_sizes(depth, image, patch, stride, pairs)
        for name, value, known in (
            ("pooling", pooling, POOLINGS),
            ("cls_position", cls_position, CLS_POSITIONS),
            ("order", order, ORDERS),
            ("initialisation", initialisation, INITIALISATIONS),
        ):
            check_name(OPERATION, name, value, known)
        check_channels(OPERATION, in_channels)
        self.num_stages = stages = depth // 2 if pairs else depth
        self.out_indices = check_out_indices(OPERATION, (stages - 1,) if out_indices is None else out_indices, stages)
        self.in_channels, self.patch_size, self.d_model, self.d_cell = in_channels, patch, d_model, d_model
        self.pooling, self.cls_position, self.order = pooling, cls_position, order
        self.initialisation = initialisation
        self.dims, self.strides = (d_model,) * len(self.out_indices), (stride[0],) * len(self.out_indices)
        self.gradient_checkpointing = gradient_checkpointing
        self.grid = tuple((size - p) // s + 1 for size, p, s in zip(image, patch, stride, strict=True))
        self.patch_embedding = nn.Conv2d(in_channels, d_model, patch, stride=stride)
        self.position_embedding = nn.Parameter(torch.empty(*self.grid, d_model))
        if pooling == "cls":
            self.cls_token = nn.Parameter(torch.empty(d_model))
            self.cls_position_embedding = nn.Parameter(torch.empty(d_model))
        set_optimizer_options(self, *(name for name, _ in self.named_parameters(recurse=False)), weight_decay=0.0)
        options = {"norm": norm, "norm_options": norm_options, "mlp": mlp, "mlp_ratio": mlp_ratio}
        rates = drop_path_rates(drop_path, depth)
        blocks = [_block(mixer, d_model, index, rates, mixer_options or {}, options) for index in range(depth)]
        both = zip(blocks[::2], blocks[1::2], strict=False)
        self.blocks = nn.ModuleList([BlockPair(*pair) for pair in both] if pairs else blocks)
        self.norm = create_norm(norm, d_model, **(norm_options or {}))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small tokens and positions; the rest by ``initialisation``."""
        for parameter in self.parameters(recurse=False):
            nn.init.trunc_normal_(parameter, std=LINEAR_INIT_STD)
        if self.initialisation == "lecun":
            reset_lecun(self.patch_embedding)
        elif self.initialisation == "linear":
            reset_layers(self.blocks, "linear")
        else:
            for block in self.modules():
                if isinstance(block, Block):
                    reset_scanning_block(block)
            if self.pooling == "cls":
                nn.init.zeros_(self.cls_token)

    def features(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The feature maps, without the class token, and the last sequence."""
        check_images(OPERATION, images, self.in_channels, self.patch_size)
        cells = self.patch_embedding(images).movedim(1, -1)
        grid, x, features = cells.shape[1:3], self._sequence(cells), []
        del cells
        for index, block in enumerate(self.blocks):
            x = self._run(block, x)
            if index in self.out_indices:
                features.append(self._map(x, *grid))
        return features, x

    def packed_features(self, images: PackedImages) -> tuple[list[list[Tensor]], list[Tensor]]:
        """As :meth:`features`, of packed images."""
        check_packed(OPERATION, images, self.in_channels, self.patch_size, self.patch_embedding.stride)
        if not all(isinstance(block, Block) for block in self.blocks):
            remedy = "pass images of one size at a time"
            raise argument_error(OPERATION, "packed images for pairs of blocks", "pairs=False", remedy)
        cells = self.patch_embedding(images.patches).flatten(1).split(images.lengths)
        sequences = [self._sequence(c.unflatten(0, size)[None]) for c, size in zip(cells, images.sizes, strict=True)]
        lengths, x, features = [part.shape[1] for part in sequences], torch.cat(sequences, dim=1), []
        bounds = boundaries(lengths, x.device)
        for index, block in enumerate(self.blocks):
            x = self._run(block, x, cu_seqlens=bounds)
            if index in self.out_indices:
                parts = zip(x.split(lengths, dim=1), images.sizes, strict=True)
                features.append([self._map(part, *size) for part, size in parts])
        return features, list(x.split(lengths, dim=1))

    def _sequence(self, cells: Float[Tensor, "batch rows columns d_model"]) -> Float[Tensor, "batch tokens d_model"]:
        """The patches in their order, with positions and the class token."""
        cells = cells + self._positions(*cells.shape[1:3])
        x = (cells if self.order == "row" else cells.transpose(1, 2)).flatten(1, 2)
        if self.pooling != "cls":
            return x
        place = self._cls_index(x.shape[1])
        token = (self.cls_token + self.cls_position_embedding).expand(x.shape[0], 1, -1)
        return torch.cat([x[:, :place], token, x[:, place:]], dim=1)

    def _map(
        self, x: Float[Tensor, "batch tokens d_model"], rows: int, columns: int
    ) -> Float[Tensor, "batch rows columns d_model"]:
        """The patches without the class token."""
        if self.pooling == "cls":
            place = self._cls_index(rows * columns)
            x = torch.cat([x[:, :place], x[:, place + 1 :]], dim=1)
        by_column = self.order == "column"
        cells: Tensor = x.unflatten(1, (columns, rows) if by_column else (rows, columns))
        return cells.transpose(1, 2) if by_column else cells

    def pool(self, last: Tensor) -> Float[Tensor, "batch d_model"]:
        """The normed class token or last patch, or the mean of the normed patches."""
        if self.pooling == "mean":
            return self.norm(last).mean(1)  # type: ignore[no-any-return]  # modules return Any
        place = self._cls_index(last.shape[1] - 1) if self.pooling == "cls" else -1
        if self.training and isinstance(self.norm, BatchNorm | PRepBatchNorm):
            y: Tensor = self.norm(last)[:, place]  # the statistics are those of all tokens
            return y
        y = self.norm(last[:, place])
        return y

    def _cls_index(self, patches: int) -> int:
        """Index of the class token in the sequence."""
        return {"first": 0, "middle": patches // 2, "last": patches}[self.cls_position]

    def _positions(self, rows: int, columns: int) -> Float[Tensor, "rows columns d_model"]:
        """The position embeddings of a grid of patches."""
        return resized_positions(self.position_embedding, rows, columns)


def _check_sizes(
    depth: int, image: tuple[int, int], patch: tuple[int, int], stride: tuple[int, int], pairs: bool
) -> None:
    """Raise for sizes below 1, images smaller than a patch, a block without another one to pair with."""
    if min(depth, *patch, *stride) < 1 or image[0] < patch[0] or image[1] < patch[1] or (pairs and depth % 2):
        got = f"depth={depth}, image_size={image}, patch_size={patch}, stride={stride}, pairs={pairs}"
        wanted = "sizes of at least 1, an image of at least a patch, and an even depth of pairs"
        raise argument_error(OPERATION, got, wanted, "correct the sizes")


def _block(
    mixer: str,
    d_model: int,
    index: int,
    rates: Sequence[float],
    mixer_options: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Block:
    """A block around its mixer, both with their place in the stack."""
    layer = LayerContext(index, len(rates))
    made = create_mixer(mixer, d_model, layer=layer, **mixer_options)
    return Block(made, drop_path=rates[index], layer=layer, **options)
