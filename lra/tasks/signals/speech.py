"""Speech Commands: which word is spoken in a second of sound? Samples, or mel-frequency cepstral coefficients.

Channels are scaled by mean and deviation of the training split (deviation plus 1e-5). With 35 words the splits are
those of the release's lists, and shorter recordings are padded with zeros. With 10 words recordings that are not one
second long are left out; 70, 15 and 15 % of each word are drawn by a seed, from the recordings in the order of their
names: the original's draw depends on the order in which its file system lists them, and is read from
``processed_data``, where that folder is given. ``rate=8000`` takes every second sample after scaling, without a filter
in front.
Source: ``src/dataloaders/basic.py``, ``base.py`` and ``datasets/sc.py`` of state-spaces/s4 at e757cef, after
Romero et al. (CKConv) and Kidger et al. (Neural CDE).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from seqconv_kernels._core.errors import argument_error

from ...data.files import FRESH, require_inside, require_label, text_lines
from ...data.layouts import find
from ...data.recordings import RecordingCollate, Recordings, channel_statistics
from ...data.store import Manifest, allocate
from ..base import Task, TaskData
from .features import COEFFICIENTS, FRAMES, FULL_SCALE, RATE, mfcc, read_wav

TEN = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
WORDS = (
    *("bed", "cat", "down", "five", "forward", "go", "house", "left", "marvin", "no", "on", "right", "sheila", "tree"),
    *("up", "visual", "yes", "backward", "bird", "dog", "eight", "follow", "four", "happy", "learn", "nine", "off"),
    *("one", "seven", "six", "stop", "three", "two", "wow", "zero"),
)
"""In the order of their labels."""
SPLITS = ("train", "val", "test")
LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}
LAYOUTS = ("", "SpeechCommands", "speech_commands_v0.02", "SpeechCommands/speech_commands_v0.02")
ARCHIVE = "speech_commands_v0.02.tar.gz (http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz)"
REMEDY = f"give the folder of the words, or of S4's processed_data, with source=FOLDER; get {ARCHIVE}"
EPSILON = 1e-5
SEED = 0
NOTES = "notes.json"


class Listed(NamedTuple):
    """Recordings by split, each with its label."""

    files: Mapping[str, Sequence[tuple[Path, int]]]
    origin: str


@dataclass(frozen=True)
class SpeechCommands(Task):
    """Speech Commands.

    Attributes:
        words: 35 or 10.
        features: ``raw`` or ``mfcc``.
        rate: samples per second that are read, a divisor of 16,000; of raw samples only.
        source: folder of the unpacked archive, or one with ``processed_data`` of S4's or MEGA's code.
    """

    summary: ClassVar[str] = "which word is spoken? 35 or 10 classes, 16,000 samples or 161 frames"

    words: int = 35
    features: str = "raw"
    rate: int = RATE
    source: str = ""

    def __post_init__(self) -> None:
        known = self.words in (10, 35) and self.features in ("raw", "mfcc")
        if not known or self.rate < 1 or RATE % self.rate or (self.features == "mfcc" and self.rate != RATE):
            got = f"words={self.words}, features={self.features!r}, rate={self.rate}"
            wanted = f"10 or 35 words; raw, at a rate that divides {RATE}, or mfcc at {RATE}"
            raise argument_error("speech commands", got, wanted, "correct the options")

    @property
    def name(self) -> str:
        return f"sc{self.words}" + ("-mfcc" if self.features == "mfcc" else "")

    @property
    def spacing(self) -> float:
        return RATE / self.rate

    @property
    def shape(self) -> tuple[int, int]:
        """Steps and channels of a recording at 16 kHz."""
        return (FRAMES, COEFFICIENTS) if self.features == "mfcc" else (RATE, 1)

    def parameters(self) -> dict[str, Any]:
        return {"source": str(Path(self.source).resolve()), "words": self.words, "features": self.features}

    def total(self) -> int:
        return 106_000 if self.words == 35 else 35_000

    def _bytes(self) -> int:
        return self.total() * self.shape[0] * self.shape[1] * (4 if self.features == "mfcc" else 2)

    def _write(self, folder: Path, workers: int, advance: Callable[[int], None]) -> Mapping[str, int]:
        if not self.source:
            raise argument_error(f"prepare {self.name}", "no source", "the recordings in a folder", REMEDY)
        done = processed_folder(Path(self.source), self.words, self.features)
        if done is not None:
            return self._copy(done, folder, advance)
        listed = list_recordings(self.name, Path(self.source), self.words)
        empty = [split for split in SPLITS if not listed.files[split]]
        if empty:
            raise argument_error(f"prepare {self.name}", f"no recordings of {', '.join(empty)}", "some", REMEDY)
        pairs = [pair for split in SPLITS for pair in listed.files[split]]
        kind: type[Any] = np.float32 if self.features == "mfcc" else np.int16
        samples = allocate(folder / "samples.npy", kind, (len(pairs), *self.shape))
        for place, (path, _) in enumerate(pairs):
            samples[place] = self._represent(one_second(read_wav(path)))
            advance(1)
        bounds = np.cumsum([0, *(len(listed.files[split]) for split in SPLITS)])
        return self._finish(folder, samples, [label for _, label in pairs], bounds, listed.origin)

    def _represent(self, samples: NDArray[np.int16]) -> NDArray[Any]:
        if self.features == "raw":
            return samples[:, None]
        coefficients: NDArray[Any] = mfcc(torch.from_numpy(samples / FULL_SCALE).float()).numpy()
        return coefficients

    def _copy(self, source: Path, folder: Path, advance: Callable[[int], None]) -> Mapping[str, int]:
        """Splits and scaled values as S4's and MEGA's code store them."""
        parts = {split: read_processed(source, split, self.shape, self.words) for split in SPLITS}
        bounds = np.cumsum([0, *(len(parts[split][1]) for split in SPLITS)])
        samples = allocate(folder / "samples.npy", np.float32, (int(bounds[-1]), *self.shape))
        for number, split in enumerate(SPLITS):
            samples[bounds[number] : bounds[number + 1]] = parts[split][0].transpose(1, 2).numpy()
            advance(len(parts[split][1]))
        labels = [int(y) for split in SPLITS for y in parts[split][1]]
        return self._finish(folder, samples, labels, bounds, str(source.resolve()), scaled=True)

    def _finish(
        self, folder: Path, samples: Any, labels: Sequence[int], bounds: Any, origin: str, scaled: bool = False
    ) -> Mapping[str, int]:
        channels = self.shape[1]
        scale = ([0.0] * channels, [1.0] * channels)
        if not scaled:
            unit = 1.0 if self.features == "mfcc" else float(FULL_SCALE)
            mean, deviation = channel_statistics(samples, np.arange(bounds[1]))
            scale = (mean, [d + EPSILON * unit for d in deviation])
        samples.flush()
        np.save(folder / "labels.npy", np.array(labels, np.int64), allow_pickle=False)
        notes = {"origin": origin, "bounds": [int(b) for b in bounds], "mean": scale[0], "deviation": scale[1]}
        (folder / NOTES).write_text(json.dumps(notes))
        return {split: int(bounds[i + 1] - bounds[i]) for i, split in enumerate(SPLITS)}

    def _read(self, folder: Path, manifest: Manifest) -> TaskData:
        notes = json.loads((folder / NOTES).read_text())
        samples = np.load(folder / "samples.npy", mmap_mode="r", allow_pickle=False)
        labels, bounds = np.load(folder / "labels.npy", allow_pickle=False), notes["bounds"]
        splits = {s: Recordings(samples, labels, np.arange(bounds[i], bounds[i + 1])) for i, s in enumerate(SPLITS)}
        majority = np.bincount(labels[: bounds[1]], minlength=self.words).argmax()
        return TaskData(
            splits=splits,
            collate=RecordingCollate(tuple(notes["mean"]), tuple(notes["deviation"]), RATE // self.rate),
            kind="recording",
            classes=self.words,
            vocab_size=1,
            pad_id=None,
            eos_id=None,
            max_length=-(-self.shape[0] * self.rate // RATE),
            baselines={
                split: {
                    "chance": 1 / self.words,
                    "majority class": float(np.mean(labels[splits[split].order] == majority)),
                }
                for split in ("val", "test")
            },
            fingerprint=manifest.fingerprint,
            origin=notes["origin"],
            facts={"modality": "audio", "audio_input": "features", "num_audio_features": self.shape[1]},
        )


def one_second(samples: NDArray[np.int16]) -> NDArray[np.int16]:
    """Padded with zeros, or cut."""
    return np.pad(samples[:RATE], (0, max(0, RATE - len(samples))))


def list_recordings(task: str, source: Path, words: int) -> Listed:
    """The recordings of each split.

    Raises:
        ValueError: a word's folder or a list is missing, a word has no recording, a recording is a link out of its
            folder, or a list names a file that is not there.
    """
    first = WORDS[0] if words == len(WORDS) else TEN[0]
    root = find(task, source, LAYOUTS, first, REMEDY).parent
    if words == len(TEN):
        return Listed(_drawn(task, root), f"{root.resolve()}; split by seed {SEED}")
    chosen: dict[str, str] = {}
    for split, name in LISTS.items():
        for number, line in text_lines(find(task, root, ("",), name, REMEDY)):
            if not (root / line.strip()).is_file():
                got = f"line {number}: {line!r}, which is not there"
                raise argument_error(f"read {root / name}", got, "files of the archive", "unpack the archive again")
            chosen[line.strip()] = split
    found: dict[str, list[tuple[Path, int]]] = {split: [] for split in SPLITS}
    for label, word in enumerate(WORDS):
        for path in _files(task, root, word):
            found[chosen.get(f"{word}/{path.name}", "train")].append((path, label))
    return Listed(found, str(root.resolve()))


def _drawn(task: str, root: Path) -> Mapping[str, Sequence[tuple[Path, int]]]:
    stream, found = np.random.default_rng(SEED), {split: list[tuple[Path, int]]() for split in SPLITS}
    for label, word in enumerate(TEN):
        whole = [path for path in _files(task, root, word) if len(read_wav(path)) == RATE]
        order = stream.permutation(len(whole))
        bounds = [0, round(0.7 * len(whole)), round(0.85 * len(whole)), len(whole)]
        for number, split in enumerate(SPLITS):
            found[split] += [(whole[place], label) for place in order[bounds[number] : bounds[number + 1]]]
    return found


def _files(task: str, root: Path, word: str) -> Iterator[Path]:
    folder = find(task, root, ("",), word, REMEDY)
    there = sorted(folder.glob("*.wav"))
    if not there:
        raise argument_error(f"prepare {task}", f"no recording in {folder}", "recordings of every word", REMEDY)
    yield from (require_inside(path, folder) for path in there)


def processed_folder(source: Path, words: int, features: str) -> Path | None:
    """The folder of S4's processed tensors for these options, if there is one."""
    name = features + ("_all_classes" if words == len(WORDS) else "")
    for layout in ("SpeechCommands/processed_data", "processed_data", ""):
        if (source / layout / name / "train_X.pt").is_file():
            return source / layout / name
    return None


def read_processed(folder: Path, split: str, shape: tuple[int, int], words: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values (recordings, channels, steps) and labels of a split.

    Raises:
        ValueError: damaged, or of other shapes.
    """
    found = []
    for part in ("X", "y"):
        path = folder / f"{split}_{part}.pt"
        try:
            found.append(torch.load(path, weights_only=True, mmap=path.stat().st_size > 0))
        except Exception as error:
            raise argument_error(f"read {path}", f"no readable tensor ({error})", "a tensor", FRESH) from error
    values, labels = found
    wanted = (len(labels), shape[1], shape[0])
    if tuple(values.shape) != wanted:
        raise argument_error(f"read {folder}", f"{split}_X of shape {tuple(values.shape)}", str(wanted), FRESH)
    for number, label in enumerate(labels.tolist()):
        require_label(label, words, f"{folder}, {split} label {number}")
    return values, labels
