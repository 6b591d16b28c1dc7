"""What makes the inputs of sound models from recordings: feature extractors of transformers, set up for a model.

Waveforms are read by ``Wav2Vec2FeatureExtractor``, which normalises and pads. Features and spectrograms are the
logarithms of energies in mel bands of ``Speech2TextFeatureExtractor``, which keeps recordings of any length and says
where padding is, or of ``ASTFeatureExtractor``, which pads or cuts them to a number of frames.
"""

from typing import TYPE_CHECKING, Any

from .configuration import SeqConvConfig

if TYPE_CHECKING:
    from transformers import SequenceFeatureExtractor

SAMPLING_RATE = 16000
"""Samples per second, unless the caller says otherwise."""


def audio_feature_extractor(
    config: SeqConvConfig, *, sampling_rate: int = SAMPLING_RATE, max_length: int | None = None, **options: Any
) -> "SequenceFeatureExtractor":
    """The feature extractor for models of this configuration.

    Args:
        config: ``audio_input`` decides between waveforms and features or spectrograms, of which there are
            ``num_audio_features``.
        sampling_rate: samples per second of the recordings.
        max_length: frames that features are padded with zeros or cut to, as for AST; ``None`` for any length.
        **options: further ones of transformers' class.

    Returns:
        Pads on the right and returns an attention mask; to be saved next to the model. Called with an empty recording
        or another sampling rate it raises a ``ValueError``.
    """
    from .checked_extractors import ASTFeatureExtractor, Speech2TextFeatureExtractor, Wav2Vec2FeatureExtractor

    common = {"sampling_rate": sampling_rate, "return_attention_mask": True, **options}
    if config.audio_input == "waveform":
        return Wav2Vec2FeatureExtractor(feature_size=1, **common)
    bands = config.num_audio_features
    if max_length is not None:
        whole = {**common, "return_attention_mask": False}  # what is padded counts as silence
        return ASTFeatureExtractor(feature_size=1, num_mel_bins=bands, max_length=max_length, **whole)
    return Speech2TextFeatureExtractor(feature_size=bands, num_mel_bins=bands, **common)
