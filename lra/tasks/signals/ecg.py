"""PTB-XL: which statements does an electrocardiogram of twelve leads and ten seconds bear? Several labels a recording.

Folds 1 to 8 train, 9 validates, 10 tests. ``labels`` names a group of statements: the 71 of all, 44 of diagnosis,
its 23 subclasses or 5 superclasses, 19 of form, 12 of rhythm; recordings without any of the group are left out, and a
statement counts whatever likelihood is noted. Values are scaled by one mean and one deviation over all leads of the
training folds. The score is the mean over the labels of the area under the receiver operating characteristic.
Source: ``code/utils/utils.py`` and ``code/experiments/scp_experiment.py`` of helme/ecg_ptbxl_benchmarking at cdbf4e6
(Strodthoff et al. 2020, arXiv 2004.13701); the data set: Wagner et al. 2020.
"""

import ast
import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from seqconv_kernels._core.errors import argument_error

from ...data.files import FRESH, require_inside
from ...data.layouts import find
from ...data.recordings import RecordingCollate, Recordings, channel_statistics
from ...data.store import Manifest, allocate
from ..base import Task, TaskData, one_of
from .wfdb import read_record

GROUPS = ("all", "diagnostic", "subdiagnostic", "superdiagnostic", "form", "rhythm")
COLUMNS = {"subdiagnostic": "diagnostic_subclass", "superdiagnostic": "diagnostic_class"}
"""Columns of the statements that a group's labels are in; of the other groups the labels are the codes."""
SPLITS = {"train": range(1, 9), "val": range(9, 10), "test": range(10, 11)}
LEADS, SECONDS = 12, 10
RECORDS = {100: "filename_lr", 500: "filename_hr"}
DATABASE, STATEMENTS, NOTES = "ptbxl_database.csv", "scp_statements.csv", "notes.json"
RELEASE = "ptb-xl-a-large-publicly-available-electrocardiography-dataset-"
LAYOUTS = ("", "ptbxl", *(f"{RELEASE}{version}" for version in ("1.0.1", "1.0.2", "1.0.3")))
REMEDY = f"give the folder of {DATABASE} with source=FOLDER; get PTB-XL (https://physionet.org/content/ptb-xl/)"


@dataclass(frozen=True)
class PTBXL(Task):
    """PTB-XL.

    Attributes:
        labels: ``all``, ``diagnostic``, ``subdiagnostic``, ``superdiagnostic``, ``form`` or ``rhythm``.
        rate: 100 or 500 samples per second.
        source: folder of the release.
    """

    summary: ClassVar[str] = "statements on electrocardiograms, 5 to 71 labels, 1,000 or 5,000 samples of 12 leads"

    labels: str = "superdiagnostic"
    rate: int = 100
    source: str = ""

    def __post_init__(self) -> None:
        one_of("ptbxl", "labels", self.labels, GROUPS)
        one_of("ptbxl", "rate", str(self.rate), tuple(map(str, RECORDS)))

    @property
    def name(self) -> str:
        return "ptbxl"

    @property
    def spacing(self) -> float:
        return 100 / self.rate

    def parameters(self) -> dict[str, Any]:
        return {"source": str(Path(self.source).resolve()), "labels": self.labels, "rate": self.rate}

    def total(self) -> int:
        return 21_837

    def _bytes(self) -> int:
        return self.total() * SECONDS * self.rate * LEADS * 4

    def _write(self, folder: Path, workers: int, advance: Callable[[int], None]) -> Mapping[str, int]:
        if not self.source:
            raise argument_error("prepare ptbxl", "no source", "the recordings in a folder", REMEDY)
        root = find("ptbxl", Path(self.source), LAYOUTS, DATABASE, REMEDY).parent
        rows, classes = labelled_rows(root, self.labels, RECORDS[self.rate])
        orders = {s: [i for i, (_, fold, _) in enumerate(rows) if fold in folds] for s, folds in SPLITS.items()}
        if not all(orders.values()):
            got = f"{len(rows)} recordings with labels, none in a split"
            raise argument_error(f"read {root / DATABASE}", got, "recordings in folds 1 to 10", FRESH)
        samples = allocate(folder / "samples.npy", np.float32, (len(rows), SECONDS * self.rate, LEADS))
        for place, (path, _, _) in enumerate(rows):
            samples[place] = read_record(path, self.rate, samples.shape[1:])
            advance(1)
        labels = np.array([[name in found for name in classes] for _, _, found in rows], np.float32)
        np.save(folder / "labels.npy", labels, allow_pickle=False)
        flat = samples.reshape(len(rows), -1, 1)
        mean, deviation = channel_statistics(flat, np.array(orders["train"], np.int64))
        notes = {"origin": str(root.resolve()), "classes": classes, "orders": orders}
        samples.flush()  # type: ignore[attr-defined]  # it is a memory map
        (folder / NOTES).write_text(json.dumps(notes | {"mean": mean[0], "deviation": deviation[0]}))
        return {split: len(order) for split, order in orders.items()}

    def _read(self, folder: Path, manifest: Manifest) -> TaskData:
        notes = json.loads((folder / NOTES).read_text())
        samples = np.load(folder / "samples.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        return TaskData(
            splits={s: Recordings(samples, labels, np.array(notes["orders"][s], np.int64)) for s in SPLITS},
            collate=RecordingCollate((notes["mean"],), (notes["deviation"],)),
            kind="recording",
            classes=len(notes["classes"]),
            vocab_size=1,
            pad_id=None,
            eos_id=None,
            max_length=SECONDS * self.rate,
            baselines={split: {"equal scores": 0.5} for split in ("val", "test")},
            fingerprint=manifest.fingerprint,
            origin=notes["origin"],
            facts={
                **{"modality": "audio", "audio_input": "features", "num_audio_features": LEADS},
                "problem_type": "multi_label_classification",
            },
            score="macro AUROC",
        )


def labelled_rows(root: Path, group: str, column: str) -> tuple[list[tuple[Path, int, set[str]]], list[str]]:
    """Record, fold and labels of every recording that has a label of the group; and all labels, sorted.

    Raises:
        ValueError: a missing file or column, a row that cannot be read, or a record outside the folder.
    """
    known = _labels_of_codes(find("ptbxl", root, ("",), STATEMENTS, REMEDY), group)
    rows = []
    for place, row in _table(root / DATABASE, ("scp_codes", "strat_fold", column)):
        try:
            codes, fold = ast.literal_eval(row["scp_codes"]), int(float(row["strat_fold"]))
            found = set(codes) if group == "all" else {known[code] for code in codes if code in known}
        except (ValueError, SyntaxError, TypeError) as error:
            got = f"{row['scp_codes'][:40]!r}, {row['strat_fold']!r}"
            raise argument_error(f"read {place}", got, "a dictionary of codes, and a fold", FRESH) from error
        if found:
            rows.append((require_inside(root / row[column], root), fold, found))
    return rows, sorted({name for _, _, found in rows for name in found})


def _labels_of_codes(path: Path, group: str) -> dict[str, str]:
    """What each statement of the group counts as."""
    if group == "all":
        return {}
    member, column = ("diagnostic" if "diagnostic" in group else group), COLUMNS.get(group)
    found = {}
    for _, row in _table(path, ("", member, *([column] if column else []))):
        if row[member].strip() in ("1", "1.0"):
            name = row[column].strip() if column else row[""]
            if name:
                found[row[""]] = name
    return found


def _table(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Place and row of a table; the unnamed first column of the statements is the code."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise argument_error(f"read {path}", str(error), "a CSV file", FRESH) from error
    missing = [name for name in columns if not rows or name not in rows[0]]
    if missing:
        got = f"{len(rows)} rows without the columns {', '.join(map(repr, missing))}"
        raise argument_error(f"read {path}", got, f"the columns {', '.join(map(repr, columns))}", FRESH)
    for number, row in enumerate(rows, 2):
        yield f"{path}, row {number}", {name: value or "" for name, value in row.items() if isinstance(name, str)}
