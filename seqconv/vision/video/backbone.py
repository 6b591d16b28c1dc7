"""Plain backbones of videos: patches that span one or several frames as a sequence, blocks of one width.

``x = patches(videos)``, frame after frame; a vector for the place of each patch in its frame and one for its time are
added, and a class token goes in front; then blocks ``x + f(norm(x))`` with f any sequence mixer. Vectors of places are
resized, bicubic, to other sizes of frames, those of times linearly to other numbers of frames.

Source: Li et al. 2024, "VideoMamba" (arXiv 2403.06977), and ``videomamba/video_sm/models/videomamba.py`` of
OpenGVLab/VideoMamba at f3427e42.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...blocks import Block
from ...layers.initialisation import LINEAR_INIT_STD, reset_scanning_block
from ...layers.norms import create_norm
from ...parameters import set_optimizer_options
from ...recomputation import checkpointed
from ...registry import create_mixer
from ...types import LayerContext
from ..backbones.backbone import BackboneClassifier, check_out_indices
from ..backbones.block import drop_path_rates
from ..backbones.stems import check_channels
from ..positions import resized_positions


class VideoBackbone(nn.Module):
    """A stack of sequence mixers over the patches of a video.

    Args:
        mixer: name of the sequence mixer, one of :func:`~seqconv.registry.list_mixers`.
        d_model: width.
        depth: blocks.
        mixer_options: options of the mixer in all blocks.
        image_size: pixels along each axis of a frame that the vectors of places are learned for.
        patch_size: pixels of a patch along each axis.
        num_frames: frames that the vectors of times are learned for.
        tubelet_size: frames of a patch.
        in_channels: channels of the frames.
        norm, mlp, mlp_ratio: as in :class:`~seqconv.blocks.Block`.
        out_indices: blocks whose outputs are the feature maps, counted from 0; the last if not given.
        drop_path: rate of the last block; it rises evenly from 0 at the first.
        gradient_checkpointing: compute the blocks a second time in the backward pass instead of storing their inner
            values; may be changed at any time.

    Attributes:
        published: name of the published model and options beyond it, set by :func:`~seqconv.zoo.create_model`.

    Raises:
        ValueError: unknown names or options (the nearest are named), sizes below 1, indices outside of the depth.
    """

    published: tuple[str, Mapping[str, Any]] | None = None

    def __init__(
        self,
        mixer: str,
        *,
        d_model: int,
        depth: int,
        mixer_options: Mapping[str, Any] | None = None,
        image_size: int = 224,
        patch_size: int = 16,
        num_frames: int = 8,
        tubelet_size: int = 1,
        in_channels: int = 3,
        norm: str = "rms",
        mlp: str = "none",
        mlp_ratio: float = 4.0,
        out_indices: Sequence[int] | None = None,
        drop_path: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if min(depth, patch_size, tubelet_size) < 1 or image_size < patch_size or num_frames < tubelet_size:
            got = f"depth={depth}, image_size={image_size}, patch_size={patch_size}, num_frames={num_frames}"
            wanted = "sizes of at least 1, frames and videos of at least a patch"
            raise argument_error("VideoBackbone", got, wanted, "correct the sizes")
        check_channels("VideoBackbone", in_channels)
        out_indices = (depth - 1,) if out_indices is None else out_indices
        self.out_indices = check_out_indices("VideoBackbone", out_indices, depth)
        self.d_model, self.in_channels, self.num_stages = d_model, in_channels, depth
        self.patch_size, self.tubelet_size = patch_size, tubelet_size
        self.image_size, self.num_frames = image_size, num_frames
        self.mixer, self.mixer_options, self.norm_name = mixer, dict(mixer_options or {}), norm
        self.gradient_checkpointing = gradient_checkpointing
        grid, size = image_size // patch_size, (tubelet_size, patch_size, patch_size)
        self.patch_embedding = nn.Conv3d(in_channels, d_model, size, stride=size)
        self.position_embedding = nn.Parameter(torch.empty(grid, grid, d_model))
        self.time_embedding = nn.Parameter(torch.empty(num_frames // tubelet_size, d_model))
        self.cls_token = nn.Parameter(torch.empty(d_model))
        self.cls_position_embedding = nn.Parameter(torch.empty(d_model))
        set_optimizer_options(self, *(name for name, _ in self.named_parameters(recurse=False)), weight_decay=0.0)
        self.blocks = nn.ModuleList()
        for index, rate in enumerate(drop_path_rates(drop_path, depth)):
            layer = LayerContext(index, depth)
            made = create_mixer(mixer, d_model, layer=layer, **self.mixer_options)
            self.blocks.append(Block(made, norm=norm, mlp=mlp, mlp_ratio=mlp_ratio, drop_path=rate, layer=layer))
        self.norm = create_norm(norm, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small weights in all linear layers but the mixers' last, small positions; the token and times are zero."""
        for block in self.blocks:
            reset_scanning_block(block)
        for parameter in (self.position_embedding, self.cls_position_embedding):
            nn.init.trunc_normal_(parameter, std=LINEAR_INIT_STD)
        for parameter in (self.time_embedding, self.cls_token):
            nn.init.zeros_(parameter)

    def features(
        self, videos: Float[Tensor, "batch channels frames height width"]
    ) -> tuple[list[Float[Tensor, "batch times rows columns d_model"]], Tensor]:
        """The feature maps, without the class token, and the last sequence.

        Raises:
            ValueError: other channels, videos smaller than a patch.
        """
        self._check(videos)
        cells = self.patch_embedding(videos).movedim(1, -1)
        times, rows, columns = cells.shape[1:4]
        cells = cells + resized_positions(self.position_embedding, rows, columns)
        x = (cells + self._times(times)[:, None, None]).flatten(1, 3)
        x = torch.cat([(self.cls_token + self.cls_position_embedding).expand(x.shape[0], 1, -1), x], dim=1)
        features = []
        for index, block in enumerate(self.blocks):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpointed(block, x)
            else:
                x = block(x)
            if index in self.out_indices:
                features.append(x[:, 1:].unflatten(1, (times, rows, columns)))
        return features, x

    def forward(self, videos: Float[Tensor, "batch channels frames height width"], *, pooled: bool = False) -> Any:
        """A feature map for each of ``out_indices``: a list of (batch, times, rows, columns, d_model).

        Args:
            videos: of any size and length.
            pooled: return the normed class token, (batch, d_model), too: ``(maps, token)``.

        Raises:
            ValueError: as :meth:`features`.
        """
        maps, last = self.features(videos)
        return (maps, self.norm(last[:, 0])) if pooled else maps

    def pooled(self, videos: Float[Tensor, "batch channels frames height width"]) -> Float[Tensor, "batch d_model"]:
        """The normed class token: what a classifier reads."""
        token: Tensor = self(videos, pooled=True)[1]
        return token

    def _times(self, times: int) -> Float[Tensor, "times d_model"]:
        if times == len(self.time_embedding):
            return self.time_embedding
        return F.interpolate(self.time_embedding.T[None], size=times, mode="linear")[0].T

    def _check(self, videos: Tensor) -> None:
        if not videos.is_floating_point():
            wanted, remedy = "floating point pixels", "scale bytes: videos.float() / 255, normalised as in training"
            raise argument_error("VideoBackbone", f"videos of dtype {videos.dtype}", wanted, remedy)
        if videos.dim() != 5 or videos.shape[1] != self.in_channels:
            got = f"videos of shape {tuple(videos.shape)}"
            wanted = f"(batch, {self.in_channels}, frames, height, width)"
            raise argument_error("VideoBackbone", got, wanted, "transpose the videos, or set in_channels")
        if videos.shape[2] < self.tubelet_size or min(videos.shape[3:]) < self.patch_size:
            got = f"videos of {videos.shape[2]} frames of {videos.shape[3]} by {videos.shape[4]} pixels"
            wanted = f"at least {self.tubelet_size} frames of {self.patch_size} by {self.patch_size}"
            raise argument_error("VideoBackbone", got, wanted, "lengthen or enlarge the videos")


class VideoClassifier(BackboneClassifier[VideoBackbone]):
    """A classifier of videos."""

    def forward_features(
        self, videos: Float[Tensor, "batch channels frames height width"]
    ) -> Float[Tensor, "batch times rows columns d_model"]:
        """The last of the feature maps."""
        features: list[Tensor] = self.backbone(videos)
        return features[-1]

    def forward(self, videos: Float[Tensor, "batch channels frames height width"]) -> Float[Tensor, "batch classes"]:
        """Logits.

        Raises:
            ValueError: as the backbone.
        """
        logits: Tensor = self.head(self.backbone.pooled(videos))
        return logits
