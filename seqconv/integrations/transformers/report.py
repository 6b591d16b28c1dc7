"""What :func:`accelerate` replaced, in words and as data."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from .call import takes_part
from .families import FAMILIES
from .patching import PatchedFile


@dataclass(frozen=True)
class FamilyReport:
    """One family of models.

    Attributes:
        family: its name in transformers.
        layers: classes of the layers that run on seqconv, and how many of them (0 where no model was given).
        functions: kernels of the original packages, and what runs instead.
        corrected: what differs from transformers, because it is wrong there.
        checked: whether the family was checked against transformers.
    """

    family: str
    layers: dict[str, int]
    functions: dict[str, str]
    corrected: tuple[str, ...]
    checked: bool

    def __str__(self) -> str:
        """Several lines."""
        layers = ", ".join(f"{name} × {count}" if count else name for name, count in self.layers.items())
        lines = [f"{self.family}{'' if self.checked else ' (not checked against transformers)'}: {layers or 'nothing'}"]
        lines += [f"  {kernel}: {what}" for kernel, what in self.functions.items()]
        lines += [f"  corrected: {text}" for text in self.corrected]
        return "\n".join(lines)


def report(
    files: Iterable[PatchedFile], modules: Iterable[nn.Module] | None, override: bool
) -> tuple[FamilyReport, ...]:
    """The report of patched files, counting the layers among ``modules``."""
    counts = None if modules is None else Counter(type(m).__name__ for m in modules if takes_part(m))
    return tuple(_family(file, counts, override) for file in files)


def _family(file: PatchedFile, counts: Counter[str] | None, override: bool) -> FamilyReport:
    known = FAMILIES.get(file.family)
    names = [layer.__name__ for layer in file.layers]
    layers = {name: 0 if counts is None else counts[name] for name in names if counts is None or counts[name]}
    functions = {
        f.kernel: f"seqconv, {f.package} on GPUs" if f.installed() and not override else "seqconv"
        for f in file.functions.values()
    }
    return FamilyReport(
        file.family,
        layers,
        functions,
        known.corrected if known else (),
        known is not None,
    )
