"""transformers' extractors of features of sound, which say what is wrong with a recording that is empty or too short.

They keep the names of transformers' classes, so that what is saved loads without seqconv.
"""

from typing import Any, ClassVar

import numpy as np
import transformers
from transformers.feature_extraction_utils import BatchFeature

from seqconv_kernels._core.errors import argument_error

WINDOW = 400
"""Samples of the windows of which transformers computes mel features, whatever the sampling rate."""


class _Checked:
    """Mixin that checks the lengths of recordings."""

    least: ClassVar[int]

    def __call__(self, raw_speech: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        """As in transformers.

        Raises:
            ValueError: an empty recording, one that is shorter than a window, or of several channels; another sampling
                rate.
        """
        several = isinstance(raw_speech, list | tuple) and len(raw_speech) > 0 and np.ndim(raw_speech[0]) > 0
        for sound in raw_speech if several or np.ndim(raw_speech) == 2 else [raw_speech]:
            if np.ndim(sound) != 1:
                got, remedy = f"a recording of shape {np.shape(sound)}", "take the mean of the channels of stereo sound"
                raise argument_error(type(self).__name__, got, "one channel, of shape (samples,)", remedy)
            if len(sound) < self.least:
                got = f"a recording of {len(sound)} samples" if len(sound) else "an empty recording"
                remedy = "leave empty recordings out, and pad short ones with zeros"
                raise argument_error(type(self).__name__, got, f"at least {self.least} samples", remedy)
        made: BatchFeature = super().__call__(raw_speech, *args, **kwargs)  # type: ignore[misc]
        return made


class Wav2Vec2FeatureExtractor(_Checked, transformers.Wav2Vec2FeatureExtractor):
    """Normalised and padded waveforms."""

    least = 1


class Speech2TextFeatureExtractor(_Checked, transformers.Speech2TextFeatureExtractor):
    """Logarithms of energies in mel bands, of any length, normed over each recording; silence gives zeros."""

    least = WINDOW

    @staticmethod
    def utterance_cmvn(x: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, which divides by the deviation of silence, 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            normed = transformers.Speech2TextFeatureExtractor.utterance_cmvn(x, *args, **kwargs)
        return np.where(np.isfinite(x) & ~np.isfinite(normed), np.zeros_like(normed), normed)


class ASTFeatureExtractor(_Checked, transformers.ASTFeatureExtractor):
    """Logarithms of energies in mel bands, padded or cut to a number of frames."""

    least = WINDOW
