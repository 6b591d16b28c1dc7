"""Records of PhysioNet's WaveForm DataBase: a text header, and interleaved 16-bit samples (format 16).

``value = (sample - baseline) / gain`` in the header's unit. Source: the header(5) and signal(5) pages of the WFDB
Applications Guide.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqconv_kernels._core.errors import argument_error

from ...data.files import FRESH, require_inside, text_lines

SIGNAL = re.compile(r"(\S+) 16 ([0-9.eE+-]+)(?:\((-?\d+)\))?(?:/\S+)?(?: \d+(?: (-?\d+))?.*)?")
"""File, gain, baseline and ADC zero; the baseline is the ADC zero where it is not written."""


class Header(NamedTuple):
    """What the header says.

    Attributes:
        file: of the samples.
        rate, length: samples per second, and in all.
        gain, baseline: of each signal.
    """

    file: Path
    rate: float
    length: int
    gain: NDArray[np.float64]
    baseline: NDArray[np.float64]


def read_header(path: Path) -> Header:
    """The header of a record, ``path`` with ``.hea`` after it.

    Raises:
        ValueError: missing, cut off, or of another form than one file in format 16.
    """
    place = path.with_name(path.name + ".hea")
    if not place.is_file():
        raise argument_error(f"read {place}", "no such file", "a header of the record", FRESH)
    lines = [line for _, line in text_lines(place) if line.strip() and not line.startswith("#")]
    first = lines[0].split() if lines else []
    signals = [SIGNAL.fullmatch(line.strip()) for line in lines[1:]]
    known = len(first) >= 4 and first[1].isdecimal() and first[3].isdecimal() and len(signals) == int(first[1])
    files = {match[1] for match in signals if match}
    if not known or not all(signals) or len(files) != 1:
        wanted = "one line 'name signals rate samples', then one line per signal of one file in format 16"
        raise argument_error(f"read {place}", f"{len(lines)} lines, the first {first}", wanted, FRESH)
    numbers = [(float(m[2]), float(m[3] or m[4] or 0)) for m in signals if m]
    gain, baseline = np.array(numbers).T
    file = require_inside(place.with_name(files.pop()), place.parent)
    return Header(file, float(first[2].partition("/")[0]), int(first[3]), gain, baseline)


def read_record(path: Path, rate: float, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Values (length, signals) of a record.

    Raises:
        ValueError: as :func:`read_header`; another rate or shape than wanted, or fewer samples than the header says.
    """
    head = read_header(path)
    if (head.rate, head.length, len(head.gain)) != (rate, *shape):
        got = f"{len(head.gain)} signals of {head.length} samples at {head.rate:g} Hz"
        raise argument_error(f"read {path}.hea", got, f"{shape[1]} signals of {shape[0]} at {rate:g} Hz", FRESH)
    content = head.file.read_bytes() if head.file.is_file() else b""
    if len(content) != 2 * shape[0] * shape[1]:
        got = f"{len(content)} bytes"
        raise argument_error(f"read {head.file}", got, f"{2 * shape[0] * shape[1]} bytes", FRESH)
    samples = np.frombuffer(content, "<i2").reshape(shape).astype(np.float64)
    return ((samples - head.baseline) / head.gain).astype(np.float32)
