"""transformers' extractors of features of sound, which say what is wrong with a recording that is empty or too short.

Files that they write name them: ``AutoFeatureExtractor`` reads them where seqconv is imported, or by the file of code
next to them with ``trust_remote_code=True``. Folders that name transformers' classes are read by those.
"""

import os
from typing import Any, ClassVar

import numpy as np
import transformers
from transformers.feature_extraction_utils import BatchFeature

from seqconv_kernels._core.errors import argument_error

from .saving.remote import MODULE, write_module

WINDOW = 400
"""Samples of the windows of which transformers computes mel features, whatever the sampling rate."""


class _Checked:
    """Mixin that checks the lengths of recordings, and is saved under its own name."""

    least: ClassVar[int]

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoFeatureExtractor") -> None:
        """Nothing is to be copied into saved folders: their file of code imports seqconv."""

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, with the code that reads it."""
        values: dict[str, Any] = super().to_dict()  # type: ignore[misc]
        return {**values, "auto_map": {"AutoFeatureExtractor": f"{MODULE}.{type(self).__name__}"}}

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """As in transformers; the file of code is written too."""
        if not os.path.isfile(save_directory):  # transformers raises
            write_module(save_directory)
        return super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]

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


class SeqConvWaveformFeatureExtractor(_Checked, transformers.Wav2Vec2FeatureExtractor):
    """Normalised and padded waveforms."""

    least = 1


class SeqConvMelFeatureExtractor(_Checked, transformers.Speech2TextFeatureExtractor):
    """Logarithms of energies in mel bands, of any length, normed over each recording; silence gives zeros."""

    least = WINDOW

    @staticmethod
    def utterance_cmvn(x: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, which divides by the deviation of silence, 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            normed = transformers.Speech2TextFeatureExtractor.utterance_cmvn(x, *args, **kwargs)
        return np.where(np.isfinite(x) & ~np.isfinite(normed), np.zeros_like(normed), normed)


class SeqConvSpectrogramFeatureExtractor(_Checked, transformers.ASTFeatureExtractor):
    """Logarithms of energies in mel bands, padded or cut to a number of frames."""

    least = WINDOW
