"""What makes the inputs of sound models from recordings: feature extractors of transformers, set up for a model.

Waveforms are read by ``Wav2Vec2FeatureExtractor``, which normalises and pads. Features are the logarithms of energies
in mel bands of ``Speech2TextFeatureExtractor``: unlike ``ASTFeatureExtractor`` it keeps recordings of any length and
says where padding is; for a fixed number of frames AST's serves as well.
"""

from typing import TYPE_CHECKING, Any

from .configuration import SeqConvConfig

if TYPE_CHECKING:
    from transformers import SequenceFeatureExtractor

SAMPLING_RATE = 16000
"""Samples per second, unless the caller says otherwise."""


def audio_feature_extractor(
    config: SeqConvConfig, *, sampling_rate: int = SAMPLING_RATE, **options: Any
) -> "SequenceFeatureExtractor":
    """The feature extractor for models of this configuration.

    Args:
        config: ``audio_input`` decides between waveforms and features, of which there are ``num_audio_features``.
        sampling_rate: samples per second of the recordings.
        **options: further ones of transformers' class.

    Returns:
        Pads on the right and returns an attention mask; to be saved next to the model.
    """
    from transformers import Speech2TextFeatureExtractor, Wav2Vec2FeatureExtractor

    common = {"sampling_rate": sampling_rate, "return_attention_mask": True, **options}
    if config.audio_input == "waveform":
        return Wav2Vec2FeatureExtractor(feature_size=1, **common)
    bands = config.num_audio_features
    return Speech2TextFeatureExtractor(feature_size=bands, num_mel_bins=bands, **common)
