"""What the kernels are to reach, against what they reached: figures that other projects publish, and shares."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from ..case import DIRECTIONS
from .timed import TIME_DENSE
from .workers import Row

DTYPES = ("bfloat16", "float16")
FFT_CONV = {1024: 7.9, 4096: 6.6, 16384: 2.45, 32768: 3.2}
"""Times faster than torch.fft, by tokens, that FlashFFTConv publishes for a gated batch of 64 with 768 channels."""
PYTORCH_SCAN = 20.0
"""Times faster than a scan in PyTorch that Mamba's paper publishes for its kernel: 20 to 40."""
SHARES_OF_COPY = {
    ("selective_scan", "bfloat16"): 0.45, ("selective_scan", "float32"): 0.6, ("causal_conv1d", "bfloat16"): 0.7,
}  # fmt: skip
"""Parts of the bandwidth of a copy; the scan's exponentials take as long as its bytes in half precision."""


class Target(NamedTuple):
    """One figure.

    Attributes:
        op: rows of this op,
        case: whose case has these words,
        dtype: this dtype,
        direction: and this direction.
        own: the contender of this project.
        peer: whom it is to be faster than, or ``copy``: the bandwidth of a copy that it is to have a share of.
        wanted: times faster, or the share.
    """

    op: str
    case: str
    dtype: str
    direction: str
    own: str
    peer: str
    wanted: float

    def rows(self, rows: list[Row]) -> Iterator[Row]:
        """The rows it is about."""
        for row in rows:
            named = (row["op"], row["dtype"], row.get("direction")) == (self.op, self.dtype, self.direction)
            if named and self.case in row["case"]:
                yield row

    def reached(self, row: Row, ceilings: dict[str, Any]) -> float | str:
        """The figure, or why there is none."""
        ms = row.get("ms", {})
        for name in (self.own, *([self.peer] if self.peer != "copy" else [])):
            if name not in ms:
                return str(row.get("notes", {}).get(name) or f"{name} was not there to be timed")
        if self.peer != "copy":
            return float(ms[self.peer] / ms[self.own])
        return float(1e3 * row["moved"] / ms[self.own] / ceilings["copy"]) if ceilings else "no ceiling was measured"


def targets() -> Iterator[Target]:
    """All of them."""
    for direction in DIRECTIONS:
        for (op, dtype), share in SHARES_OF_COPY.items():
            yield Target(op, "", dtype, direction, "seqconv", "copy", share)
        yield Target("selective_scan", "", "bfloat16", direction, "seqconv", "PyTorch scan", PYTORCH_SCAN)
        yield Target("selective_scan", "", "bfloat16", direction, "seqconv", "mamba-ssm", 1.0)
    for dtype in DTYPES:
        for length, wanted in FFT_CONV.items():
            case = f"batch 64, 768 channels, {length} tokens"
            for layout in ("", TIME_DENSE):
                own, peer = f"seqconv{layout}", f"torch.fft{layout}"
                yield Target("fft_conv", case, dtype, DIRECTIONS[0], own, peer, wanted)
    for op in ("gated_linear_attention", "delta_rule"):
        for direction in DIRECTIONS:
            yield Target(op, "", "bfloat16", direction, "seqconv", "fla", 1.0)


def lines(rows: list[Row], ceilings: dict[str, Any]) -> Iterator[str]:
    """A table of all targets that a row was to answer."""
    yield "| target | wanted | reached | |"
    yield "|---|---|---|---|"
    for target in targets():
        kind = "of copy bandwidth" if target.peer == "copy" else f"times faster than {target.peer}"
        what = f"{target.dtype}, {target.direction}: {target.own}, {kind}"
        found = list(target.rows(rows))
        if not found and any(row["op"] == target.op for row in rows):
            yield f"| {target.op}, {target.case}, {what} | {target.wanted} | – | not timed |"
        for row in found:
            yield f"| {target.op}, {row['case']}, {what} | {target.wanted} | {_verdict(target, row, ceilings)} |"


def _verdict(target: Target, row: Row, ceilings: dict[str, Any]) -> str:
    reached = target.reached(row, ceilings)
    if isinstance(reached, str):
        return f"– | {' '.join(reached.replace('|', '/').split())[:160]}"
    return f"{reached:.2f} | {'reached' if reached >= target.wanted else '**missed**'}"
