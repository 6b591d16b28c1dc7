"""From tokens, images or sound to ``(batch, length, d_model)``, and positions added to it."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from .arguments.checks import may_read
from .configuration import SeqConvConfig


class InputMap(nn.Linear):
    """Linear map of raw numbers; fresh weights keep the size of their inputs."""


class PatchEmbedding(nn.Module):
    """Linear map of square patches, in raster order; a patch of one pixel reads the image pixel by pixel."""

    def __init__(self, config: SeqConvConfig) -> None:
        super().__init__()
        self.image_size, self.patch_size, self.num_channels = config.image_size, config.patch_size, config.num_channels
        self.projection = InputMap(config.num_channels * config.patch_size**2, config.hidden_size)

    def forward(
        self, pixel_values: Float[Tensor, "batch num_channels height width"]
    ) -> Float[Tensor, "batch patches d_model"]:
        """Embed images of the configured size.

        Raises:
            ValueError: another size or number of channels.
        """
        wanted = (self.num_channels, self.image_size, self.image_size)
        if pixel_values.dim() != 4 or pixel_values.shape[1:] != wanted:
            remedy = "resize the images, or set image_size and num_channels in the configuration"
            got = f"pixel_values of shape {tuple(pixel_values.shape)}"
            raise argument_error("PatchEmbedding", got, f"(batch, {', '.join(map(str, wanted))})", remedy)
        patches = F.unfold(pixel_values.to(self.projection.weight.dtype), self.patch_size, stride=self.patch_size)
        embedded: Tensor = self.projection(patches.mT)
        return embedded


class TubeletEmbedding(nn.Module):
    """Linear map of tubelets, patches that span several frames, in raster order: time, row, column.

    Within a tubelet numbers are ordered as (channel, frame, row, column), as a 3-D convolution reads them.

    Source: ``VideoMAEPatchEmbeddings`` of transformers 5.23.0 (models/videomae/modeling_videomae.py).
    """

    def __init__(self, config: SeqConvConfig) -> None:
        super().__init__()
        self.tubelet_size, self.patch_size = config.tubelet_size, config.patch_size
        self.wanted = (config.num_frames, config.num_channels, config.image_size, config.image_size)
        numbers = config.num_channels * config.tubelet_size * config.patch_size**2
        self.projection = InputMap(numbers, config.hidden_size)

    def forward(
        self, pixel_values: Float[Tensor, "batch num_frames num_channels height width"]
    ) -> Float[Tensor, "batch patches d_model"]:
        """Embed videos of the configured size.

        Raises:
            ValueError: another size, or number of frames or channels.
        """
        if pixel_values.dim() != 5 or pixel_values.shape[1:] != self.wanted:
            remedy = "resize or sample the videos, or set image_size, num_frames and num_channels in the configuration"
            got, wanted = f"pixel_values of shape {tuple(pixel_values.shape)}", ", ".join(map(str, self.wanted))
            raise argument_error("TubeletEmbedding", got, f"(batch, {wanted})", remedy)
        t, p = self.tubelet_size, self.patch_size
        tubelets = rearrange(
            pixel_values, "b (nt t) c (nh h) (nw w) -> b (nt nh nw) (c t h w)", t=t, h=p, w=p
        )  # fmt: skip
        embedded: Tensor = self.projection(tubelets.to(self.projection.weight.dtype))
        return embedded


class FrameEmbedding(nn.Module):
    """Linear map of frames: of samples cut from a waveform, or of given features."""

    def __init__(self, config: SeqConvConfig) -> None:
        super().__init__()
        self.waveform = config.audio_input == "waveform"
        self.size, self.stride = config.frame_size, config.frame_stride
        self.width = config.frame_size if self.waveform else config.num_audio_features
        self.projection = InputMap(self.width, config.hidden_size)

    def forward(
        self, input_values: Float[Tensor, "batch ..."], mask: Bool[Tensor, "batch steps"] | None
    ) -> tuple[Float[Tensor, "batch frames d_model"], Bool[Tensor, "batch frames"] | None]:
        """Embed sound, and say which frames hold it.

        Args:
            input_values: (batch, samples), or (batch, frames, features).
            mask: True at real samples, or at real frames.

        Raises:
            ValueError: wrong shape, or samples padded on the left.
        """
        _check_sound("FrameEmbedding", input_values)
        input_values = input_values.to(self.projection.weight.dtype)
        if not self.waveform:
            if input_values.dim() != 3 or input_values.shape[-1] != self.width:
                raise self._shape_error(
                    input_values, f"(batch, frames, {self.width})", "set num_audio_features, or transpose them"
                )
            return self.projection(input_values), mask
        if input_values.dim() != 2:
            remedy = "average the channels of stereo sound, add the batch axis, or set audio_input='features'"
            raise self._shape_error(input_values, "(batch, samples)", remedy)
        _check_padding("FrameEmbedding", "samples", mask)
        samples = F.pad(input_values, (0, max(0, self.size - input_values.shape[1])))
        frames = samples.unfold(1, self.size, self.stride)
        if mask is not None:
            count = _frames(mask.sum(1), self.size, self.stride)
            mask = torch.arange(frames.shape[1], device=mask.device) < count[:, None]
        return self.projection(frames), mask

    def _shape_error(self, got: Tensor, wanted: str, remedy: str) -> ValueError:
        return argument_error("FrameEmbedding", f"input_values of shape {tuple(got.shape)}", wanted, remedy)


class SpectrogramEmbedding(nn.Module):
    """Linear map of square patches of a spectrogram, frame by frame, low bands first, with a learned vector per band.

    A position of the sequence is a place in time and frequency, of recordings of any length: ``t * rows + r``, so that
    learned position embeddings are a table over both.

    Source: Gong et al. 2021, "AST: Audio Spectrogram Transformer" (arXiv 2104.01778), which reads band by band.
    """

    def __init__(self, config: SeqConvConfig) -> None:
        super().__init__()
        self.bands, self.size = config.num_audio_features, config.patch_size
        self.stride = config.patch_size if config.patch_stride is None else config.patch_stride
        self.rows = (self.bands - self.size) // self.stride + 1
        self.projection = InputMap(self.size**2, config.hidden_size)
        self.band_embedding = nn.Embedding(self.rows, config.hidden_size)

    def forward(
        self, input_values: Float[Tensor, "batch ..."], mask: Bool[Tensor, "batch frames"] | None
    ) -> tuple[Float[Tensor, "batch patches d_model"], Bool[Tensor, "batch patches"] | None]:
        """Embed spectrograms, and say which patches hold sound; a short one is padded to a patch.

        Args:
            input_values: (batch, frames, bands).
            mask: True at real frames.

        Raises:
            ValueError: wrong shape, no frames, frames padded on the left.
        """
        _check_sound("SpectrogramEmbedding", input_values)
        if input_values.dim() != 3 or input_values.shape[-1] != self.bands:
            got, wanted = f"input_features of shape {tuple(input_values.shape)}", f"(batch, frames, {self.bands})"
            raise argument_error("SpectrogramEmbedding", got, wanted, "set num_audio_features, or transpose them")
        _check_padding("SpectrogramEmbedding", "frames", mask)
        x = F.pad(input_values, (0, 0, 0, max(0, self.size - input_values.shape[1])))
        patches = x.unfold(1, self.size, self.stride).unfold(2, self.size, self.stride)  # (batch, t, r, frame, band)
        bands = self.band_embedding(torch.arange(self.rows, device=x.device))
        embedded = self.projection(patches.flatten(3).to(self.projection.weight.dtype)) + bands
        if mask is not None:
            count = _frames(mask.sum(1), self.size, self.stride)
            mask = torch.arange(embedded.shape[1], device=mask.device) < count[:, None]
            mask = mask.repeat_interleave(self.rows, 1)
        return embedded.flatten(1, 2), mask


def _check_sound(operation: str, sound: Tensor) -> None:
    """Raise for sound without a sample or frame."""
    if sound.dim() > 1 and sound.shape[1] == 0:
        got, wanted = f"empty sound, of shape {tuple(sound.shape)}", "at least one sample or frame"
        raise argument_error(operation, got, wanted, "leave empty recordings out")


def _check_padding(operation: str, what: str, mask: Tensor | None) -> None:
    """Raise for padding on the left, which frames would have to be cut across."""
    if mask is None or not may_read(mask):
        return
    if bool((mask.any(1) & ~mask[:, 0]).any()):
        remedy = "pad on the right (feature_extractor.padding_side = 'right')"
        raise argument_error(operation, f"{what} padded on the left", "frames that start with the sound", remedy)


def frame_count(config: SeqConvConfig, lengths: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    """Number of frames of recordings, from their samples; frames of features stay as many."""
    if config.audio_input == "features":
        return lengths
    return _frames(lengths, config.frame_size, config.frame_stride)


def _frames(samples: Int[Tensor, "*batch"], size: int, stride: int) -> Int[Tensor, "*batch"]:
    """Whole frames, at least one where there is any sample: short recordings are padded to a frame."""
    return (samples - size).clamp(min=0) // stride + (samples > 0).long()


class PositionEmbedding(nn.Module):
    """Learned or sinusoidal vectors by position; sinusoids as in Vaswani et al. 2017, sines first."""

    def __init__(self, config: SeqConvConfig) -> None:
        super().__init__()
        self.kind, self.d_model = config.position_embedding, config.hidden_size
        self.positions = config.max_position_embeddings
        if config.modality in ("image", "video"):
            self.positions = config.num_patches + (config.pooling == "cls")
        if self.kind == "learned":
            self.table = nn.Embedding(self.positions, config.hidden_size)

    def forward(
        self, x: Float[Tensor, "batch length d_model"], positions: Int[Tensor, "rows length"]
    ) -> Float[Tensor, "batch length d_model"]:
        """Add the vectors of ``positions``.

        Raises:
            ValueError: a position beyond the table.
        """
        if self.kind == "none":
            return x
        if self.kind == "sinusoidal":
            return x + self._sinusoids(positions).to(x.dtype)
        last = int(positions.max()) if may_read(positions) else 0
        if last >= self.positions:
            remedy = "raise max_position_embeddings, or take position_embedding='sinusoidal' or 'none'"
            raise argument_error("PositionEmbedding", f"position {last}", f"positions below {self.positions}", remedy)
        vectors: Tensor = self.table(positions)
        return x + vectors

    def _sinusoids(self, positions: Tensor) -> Tensor:
        half = (self.d_model + 1) // 2
        rates = torch.exp(torch.arange(half, device=positions.device) * (-math.log(10000.0) / max(1, half - 1)))
        angles = positions[..., None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=-1)[..., : self.d_model]


def positions_of(
    mask: Bool[Tensor, "batch length"] | None,
    bounds: Int[Tensor, " segments_and_one"] | None,
    length: int,
    seen: int,
    device: torch.device,
) -> Int[Tensor, "rows new"]:
    """Positions of the last ``length`` tokens: over real tokens where a mask is given, from 0 in packed sequences."""
    if mask is not None:
        return (mask.long().cumsum(1) - 1).clamp(min=0)[:, -length:]
    steps = torch.arange(seen, seen + length, device=device)
    if bounds is not None:
        starts = bounds.to(device, torch.long)
        steps = steps - starts[torch.bucketize(steps, starts, right=True) - 1]
    return steps[None]
