"""What makes the inputs of sound models from recordings: feature extractors of transformers, set up for a model.

They are subclasses that check their inputs (:mod:`~seqconv.hf.checked_extractors`).
Waveforms are read by ``Wav2Vec2FeatureExtractor``, which normalises and pads. Features and spectrograms are the
logarithms of energies in mel bands of ``Speech2TextFeatureExtractor``, which keeps recordings of any length and says
where padding is, or of ``ASTFeatureExtractor``, which pads or cuts them to a number of frames.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from seqconv_kernels._core.errors import argument_error

from .configuration import SeqConvConfig
from .vision.configuration import SeqConvVisionConfig

if TYPE_CHECKING:
    from transformers import SequenceFeatureExtractor

SAMPLING_RATE = 16000
"""Samples per second, unless the caller says otherwise."""


def audio_feature_extractor(
    config: SeqConvConfig | SeqConvVisionConfig,
    *,
    sampling_rate: int = SAMPLING_RATE,
    max_length: int | None = None,
    **options: Any,
) -> "SequenceFeatureExtractor":
    """The feature extractor for models of this configuration.

    Args:
        config: ``audio_input`` decides between waveforms and features or spectrograms, of which there are
            ``num_audio_features``. Of a :class:`~seqconv.hf.vision.configuration.SeqConvVisionConfig` bands and
            frames are height and width of its ``image_size``, or those of the published model.
        sampling_rate: samples per second of the recordings.
        max_length: frames that features are padded with zeros or cut to, as for AST; ``None`` for any length.
        **options: further ones of transformers' class.

    Returns:
        Pads on the right and returns an attention mask; to be saved next to the model. Called with an empty recording
        or another sampling rate it raises a ``ValueError``.
    """
    from .checked_extractors import SeqConvMelFeatureExtractor, SeqConvWaveformFeatureExtractor

    common = {"sampling_rate": sampling_rate, "return_attention_mask": True, **options}
    if isinstance(config, SeqConvVisionConfig):
        bands, frames = _bands_and_frames(config)
        return _fixed(bands, frames if max_length is None else max_length, common)
    if config.audio_input == "waveform":
        return SeqConvWaveformFeatureExtractor(feature_size=1, **common)
    bands = config.num_audio_features
    if max_length is not None:
        return _fixed(bands, max_length, common)
    return SeqConvMelFeatureExtractor(feature_size=bands, num_mel_bins=bands, **common)


def _fixed(bands: int, frames: int, common: Mapping[str, Any]) -> "SequenceFeatureExtractor":
    """Spectrograms of a number of frames; what is padded counts as silence."""
    from .checked_extractors import SeqConvSpectrogramFeatureExtractor

    whole = {**common, "return_attention_mask": False}
    return SeqConvSpectrogramFeatureExtractor(feature_size=1, num_mel_bins=bands, max_length=frames, **whole)


def _bands_and_frames(config: SeqConvVisionConfig) -> tuple[int, int]:
    from ..zoo.state_space.audio_mamba import BANDS_AND_FRAMES

    published = BANDS_AND_FRAMES if config.backbone_name.startswith("audio_mamba") else None
    size = (config.backbone_options or {}).get("image_size", published)
    if config.num_channels != 1 or size is None:
        got = f"num_channels={config.num_channels}, image_size={size} in backbone_options"
        wanted, remedy = "one channel, and bands and frames as image_size", "set both in the configuration"
        raise argument_error("audio_feature_extractor", got, wanted, remedy)
    bands, frames = (size, size) if isinstance(size, int) else size
    return bands, frames
