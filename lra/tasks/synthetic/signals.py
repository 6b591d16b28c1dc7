"""Continuous memory tasks: a band-limited signal delayed, or its last stretch rebuilt at the end.

Signals are white noise up to ``freq``: Gaussian Fourier coefficients, scaled to an rms of 0.5, shifted to start at 0.
Labels are numbers; the loss is the mean squared error. Source: Gu et al., "How to Train Your HiPPO", 2022, and the code
of S4, whose settings are the defaults.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .base import Numbers, Online, require

RMS = 0.5
Signal = NDArray[np.float32]


def white_signal(stream: Generator, length: int, dt: float, freq: float) -> NDArray[np.float64]:
    """White noise without frequencies above ``freq`` (Hz), ``length`` samples ``dt`` (s) apart, starting at 0."""
    count = -(-length // 2)
    parts = stream.normal(0.0, RMS * 0.5**0.5, (2, count + 1))
    parts[1, -1] = 0
    passed = np.fft.rfftfreq(2 * count, dt) <= freq
    power = 1 - float(np.sum(~passed)) / count
    coefficients = (parts[0] + 1j * parts[1]) * passed * (2 * count / power) ** 0.5
    coefficients[0] = 0
    signal: NDArray[np.float64] = np.fft.irfft(coefficients)[:length]
    signal -= signal[0]
    return signal


@dataclass(frozen=True)
class SignalTask(Online):
    """Base of both tasks.

    Attributes:
        length: samples.
        dt: seconds between samples.
        freq: greatest frequency, in Hz.
    """

    reads: ClassVar[str] = "input_values"

    length: int = 4000
    dt: float = 2.5e-4
    freq: float = 1000.0
    train: int = 16_384
    val: int = 1_000
    test: int = 1_000

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Numbers asked: 1 at every sample, or n after the last."""

    def _check(self) -> None:
        fits = self.length >= 4 and self.dt > 0 and 1 / (self.length * self.dt) <= self.freq <= 0.5 / self.dt
        require(self, fits, "length >= 4, freq from one period in the row to half the sampling rate")
        self._check_memory()

    @abstractmethod
    def _check_memory(self) -> None:
        """Raise if the memory is longer than the signal."""

    def _facts(self, labels: Mapping[str, Numbers]) -> dict[str, Any]:
        known = {"classes": self.outputs, "vocab_size": 1, "pad_id": None, "eos_id": None}
        facts: dict[str, Any] = {"modality": "audio", "frame_size": 1, "frame_stride": 1, "problem_type": "regression"}
        facts["readout"] = "every" if self.outputs == 1 else "last"
        nothing = {split: {"always 0": explained(labels[split], 0 * labels[split])} for split in ("val", "test")}
        return {"kind": "signal", "score": "explained variance", "facts": facts, "baselines": nothing, **known}


def explained(wanted: Numbers, given: Numbers) -> float:
    """Share of the variance that is explained: 1 minus the squared error over the variance."""
    return float(1 - np.mean((wanted - given) ** 2) / np.var(wanted))


@dataclass(frozen=True)
class SignalDelay(SignalTask):
    """Every sample is asked again ``lag`` samples later; before, 0.

    Attributes:
        lag: in samples.
    """

    summary: ClassVar[str] = "delay of a band-limited signal: numbers, not labels"

    lag: int = 1000

    @property
    def name(self) -> str:
        return "signal-delay"

    @property
    def outputs(self) -> int:
        return 1

    def _check_memory(self) -> None:
        require(self, 0 <= self.lag < self.length, "0 <= lag < length")

    def draw(self, stream: Generator, training: bool) -> tuple[Signal, Signal]:
        signal = white_signal(stream, self.length, self.dt, self.freq).astype(np.float32)
        return signal, np.concatenate([np.zeros(self.lag, np.float32), signal[: self.length - self.lag]])


@dataclass(frozen=True)
class SignalReconstruct(SignalTask):
    """After the last sample the last ``memory`` samples are asked, all at once.

    Attributes:
        memory: in samples, at least 2.
    """

    summary: ClassVar[str] = "rebuild the end of a band-limited signal from the last state"

    dt: float = 1e-3
    freq: float = 100.0
    memory: int = 1000

    @property
    def name(self) -> str:
        return "signal-reconstruct"

    @property
    def outputs(self) -> int:
        return self.memory

    def _check_memory(self) -> None:
        require(self, 2 <= self.memory <= self.length, "2 <= memory <= length")

    def draw(self, stream: Generator, training: bool) -> tuple[Signal, Signal]:
        signal = white_signal(stream, self.length, self.dt, self.freq).astype(np.float32)
        return signal, signal[-self.memory :]
