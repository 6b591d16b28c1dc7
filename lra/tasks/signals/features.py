"""Waveforms from WAV files, and mel-frequency cepstral coefficients of them.

``c = DCT_II(log(M |STFT(x)|^2 + 1e-6))`` with windows of 200 samples every 100, 64 mel bands (HTK's scale, triangles of
height 1) and 20 coefficients: what torchaudio's ``MFCC`` computes at 16 kHz with ``log_mels=True, n_mfcc=20, n_fft=200,
n_mels=64``, as S4's code calls it. 16,000 samples give 161 frames.
"""

import math
import warnings
import wave
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...data.files import FRESH

RATE, FULL_SCALE = 16_000, 32_768
"""Samples per second, and the integer that stands for 1."""
WINDOW, HOP, BANDS, COEFFICIENTS = 200, 100, 64, 20
FRAMES = RATE // HOP + 1
FLOOR = 1e-6


def read_wav(path: Path) -> NDArray[np.int16]:
    """Samples of a mono 16-bit WAV file at 16 kHz.

    Raises:
        ValueError: damaged, or of another form.
    """
    try:
        with wave.open(str(path), "rb") as file:
            form = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            told = file.getnframes()
            content = file.readframes(told)
    except (wave.Error, EOFError, OSError) as error:
        raise argument_error(f"read {path}", f"no readable WAV file ({error})", "a WAV file", FRESH) from error
    if form != (1, 2, RATE) or len(content) != 2 * told or told == 0:
        got = f"{form[0]} channels of {8 * form[1]} bits at {form[2]} Hz, {len(content)} bytes for {told} samples"
        raise argument_error(f"read {path}", got, f"one channel of 16 bits at {RATE} Hz, at least one sample", FRESH)
    return np.frombuffer(content, "<i2").astype(np.int16)


def mfcc(samples: Float[Tensor, "*batch length"]) -> Float[Tensor, "*batch frames coefficients"]:
    """Coefficients of samples in [-1, 1)."""
    window = torch.hann_window(WINDOW, dtype=samples.dtype)
    padded = torch.nn.functional.pad(samples[None], (WINDOW // 2, WINDOW // 2), mode="reflect")[0]
    power = torch.fft.rfft(padded.unfold(-1, WINDOW, HOP) * window).abs().square()
    bands, cosines = (table.to(samples.dtype) for table in _tables())
    coefficients: Tensor = (power @ bands + FLOOR).log() @ cosines
    return coefficients


@cache
def _tables() -> tuple[Float[Tensor, "bins bands"], Float[Tensor, "bands coefficients"]]:
    """Mel bands, and the orthonormal cosine transform."""
    from transformers.audio_utils import mel_filter_bank

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so narrow a window leaves bands without a bin, in the original too
        bands = mel_filter_bank(WINDOW // 2 + 1, BANDS, 0.0, RATE / 2, RATE, norm=None, mel_scale="htk")
    band, order = torch.arange(BANDS, dtype=torch.float64), torch.arange(COEFFICIENTS, dtype=torch.float64)
    cosines = (math.pi / BANDS * (band[:, None] + 0.5) * order).cos() * math.sqrt(2 / BANDS)
    cosines[:, 0] /= math.sqrt(2)
    return torch.from_numpy(np.asarray(bands)), cosines
