"""``python -m seqconv.cli.tables`` writes the tables of mixers in README.md and in docs: table_of_mixers.md, vision.md.

Nothing in them is written by hand: families are folders, the states, the ops and the growth with length are measured
on small mixers, originals are read from the importers, published results from the docstrings.
"""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import seqconv
from seqconv_kernels._core.dispatch import Op

from ..interop.importer import get_importer, list_originals
from ..mixer import Mixer
from ..registry import create_mixer, list_mixers, mixer_config, mixer_entry
from ..state import State
from ..vision.registry import list_mixers_2d, mixer_2d_entry

ROOT = Path(seqconv.__file__).parents[1]
BEGIN, END = "<!-- python -m seqconv.cli.tables -->\n", "<!-- end -->\n"
FAMILIES = ("state_space", "linear_attention", "convolution", "recurrent", "attention")
WIDTH = 64
"""Channels of the mixers whose states are measured: their default heads fit into it."""
NARROW, LENGTH = 16, 512
"""Channels and tokens of the mixers whose work is measured: few channels, so that what grows with the length shows."""
QUADRATIC = 3.0
"""Work at twice the length over that at the length: between the 2 of linear and the 4 of quadratic work."""
FFT_OPS = {"fft_conv", "fft_conv2d"}


@dataclasses.dataclass(frozen=True)
class Row:
    """What the tables say of a mixer."""

    family: str
    name: str
    class_name: str
    summary: str
    cost: str
    state: str
    bidirectional: str
    ops: tuple[str, ...]
    originals: tuple[str, ...]
    papers: tuple[str, ...]
    published: str


def tables() -> dict[Path, str]:
    """The files and what they must contain."""
    found = rows()
    texts = {ROOT / "README.md": _short_table(found), ROOT / "docs/table_of_mixers.md": _long_tables(found)}
    of_images: list[tuple[str, ...]] = [(f"`{name}`", mixer_2d_entry(name).summary) for name in list_mixers_2d()]
    texts[ROOT / "docs/vision.md"] = _markdown(("2-D mixer", "what it is"), of_images)
    return {path: _between(path, text) for path, text in texts.items()}


def _between(path: Path, text: str) -> str:
    """The file with another text between the markers."""
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    return before + BEGIN + "\n" + text + "\n" + END + rest.split(END, 1)[1]


def _short_table(found: list[Row]) -> str:
    names = {family: ", ".join(f"`{row.name}`" for row in found if row.family == family) for family in FAMILIES}
    return _markdown(("family", "mixers"), [(_title(family), names[family]) for family in FAMILIES])


def _long_tables(found: list[Row]) -> str:
    parts = []
    for family in FAMILIES:
        members = [row for row in found if row.family == family]
        parts += [
            f"## {_title(family).capitalize()}\n\n`seqconv/mixers/{family}/`\n\n",
            _markdown(
                ("name", "class", "what it is", "cost", "state", "bidirectional", "ops"),
                [
                    (
                        f"`{r.name}`",
                        f"`{r.class_name}`",
                        r.summary.replace("``", "`"),
                        r.cost,
                        r.state,
                        r.bidirectional,
                        _codes(r.ops),
                    )
                    for r in members
                ],
            ),
            "\n",
            _markdown(
                ("name", "originals read", "arXiv", "published result"),
                [(f"`{r.name}`", _codes(r.originals), ", ".join(r.papers), r.published) for r in members],
            ),
            "\n",
        ]
    return "".join(parts).rstrip("\n") + "\n"


def _title(family: str) -> str:
    return family.replace("_", " ")


def _codes(words: tuple[str, ...]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _markdown(header: tuple[str, ...], cells: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *(tuple(cell.replace("|", "\\|") or "-" for cell in row) for row in cells)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def rows() -> list[Row]:
    """One row per registered mixer, by family and name."""
    read = _originals_by_mixer()
    found = [_row(name, read.get(mixer_entry(name).mixer, [])) for name in list_mixers()]
    return sorted(found, key=lambda row: (FAMILIES.index(row.family), row.name))


def _row(name: str, originals: list[str]) -> Row:
    kind = mixer_entry(name).mixer
    docstring = f"{getattr(inspect.getmodule(kind), '__doc__', '')}\n\n{inspect.getdoc(kind)}"
    cost, ops = measure_work(name)
    return Row(
        family=kind.__module__.split(".")[2],
        name=name,
        class_name=kind.__name__,
        summary=mixer_entry(name).summary,
        cost=cost,
        state=describe_state(name),
        bidirectional=_bidirectional(name),
        ops=ops,
        originals=tuple(originals),
        papers=tuple(dict.fromkeys(re.findall(r"\b\d{4}\.\d{5}\b", docstring))),
        published=published(docstring),
    )


def _bidirectional(name: str) -> str:
    if create_mixer(name, WIDTH).state_kind == "none":
        return "always"
    return "own" if "bidirectional" in {f.name for f in dataclasses.fields(mixer_config(name))} else "wrapped"


def describe_state(name: str) -> str:
    """Kind and numbers per channel of the default mixer's state; if it grows, per channel and token."""
    mixer = create_mixer(name, WIDTH).eval()
    kind = mixer.state_kind
    if kind == "none":
        return kind
    first, second = (_numbers(mixer, length) / WIDTH for length in (LENGTH, 2 * LENGTH))
    if second > first:
        return f"{kind}, {_short((second - first) / LENGTH)} per token"
    return f"{kind}, {'up to ' if kind != 'constant' else ''}{_short(second)}"


def _numbers(mixer: Mixer, length: int) -> int:
    """Numbers per row of the batch in a state after ``length`` tokens; a complex one counts twice."""
    total = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel() * (2 if tensor.is_complex() else 1)
        return tensor

    state: State = mixer.init_state(1)
    if mixer.state_kind != "constant":
        with torch.no_grad():
            state = mixer.prefill(torch.zeros(1, length, WIDTH), state)[1]
    state.map(count, batch_free=False)
    return total


def _short(number: float) -> str:
    return f"{number:.3g}" if number < 1000 else f"{number:.0f}"


class _Work(TorchDispatchMode):
    """Numbers that operations write plus operations of matrix products, and whether there is a Fourier transform."""

    def __init__(self) -> None:
        super().__init__()
        self.total, self.transforms = 0, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.total += sum(t.numel() for t in pytree.tree_leaves(out) if isinstance(t, Tensor))
        if (products := flop_registry.get(func.overloadpacket)) is not None:
            self.total += products(*args, **(kwargs or {}), out_val=out)
        self.transforms |= "_fft_" in func.name()
        return out


def measure_work(name: str) -> tuple[str, tuple[str, ...]]:
    """How the work of the default mixer grows with the length, and the ops of seqconv_kernels that it calls."""
    mixer = create_mixer(name, NARROW).eval()
    totals, transforms, called = [], False, set[str]()
    for length in (LENGTH, 2 * LENGTH):
        # The mathematical form of attention is made of operations that can be counted.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _recorded(called), _Work() as work:
            mixer(torch.zeros(1, length, NARROW))
        totals.append(work.total)
        transforms |= work.transforms
    growth = totals[1] / totals[0]
    logarithm = transforms or bool(called & FFT_OPS)
    cost = "n²" if growth > QUADRATIC else "n log n" if logarithm else "n"
    return cost, tuple(sorted(called))


@contextmanager
def _recorded(called: set[str]) -> Iterator[None]:
    """Enter the names of the ops that are called within."""
    call = Op.__call__

    def record(op: Op[Any, Any], *args: Any, **kwargs: Any) -> Any:
        called.add(op.name)
        return call(op, *args, **kwargs)

    with patch.object(Op, "__call__", record):
        yield


PUBLISHED = re.compile(r"\bPublished(?:\s+results?)?((?:,[^:.]*)?:\s.*?(?:\.(?=\s+[A-Z`]|\s*$)|(?=\n\n)))", re.DOTALL)


def published(docstring: str) -> str:
    """The sentence of a docstring that quotes published results, in one line; empty if there is none."""
    match = PUBLISHED.search(docstring)
    return " ".join(match.group(1).lstrip(":, ").split()) if match else ""


def _originals_by_mixer() -> dict[type[Mixer], list[str]]:
    """The original layers that importers turn into a mixer or into a module that holds it."""
    names = {name: mixer_entry(name).mixer for name in list_mixers()}
    found: dict[type[Mixer], list[str]] = {}
    for original in list_originals():
        importer = get_importer(original)
        for kind in _built_by(importer.build, names) | {names[name] for name in importer.mixers}:
            found.setdefault(kind, []).append(original)
    return found


def _built_by(build: Any, names: dict[str, type[Mixer]]) -> set[type[Mixer]]:
    """The registered mixers that a function or the functions of its package that it calls mention."""
    kinds, found, seen = set(names.values()), set[type[Mixer]](), set[int]()
    waiting = [build]
    while waiting:
        item = inspect.unwrap(waiting.pop())
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, partial):
            waiting += [item.func, *item.args, *item.keywords.values()]
        elif isinstance(item, type) and item in kinds:
            found.add(item)
        elif isinstance(item, FunctionType) and item.__module__.startswith("seqconv.interop."):
            mentioned, constants = _mentioned(item.__code__)
            waiting += [item.__globals__[name] for name in mentioned if name in item.__globals__]
            if "create_mixer" in mentioned:
                found |= {names[constant] for constant in constants if constant in names}
    return found


def _mentioned(code: CodeType) -> tuple[set[str], set[str]]:
    """Names and strings in a function, inner functions included."""
    mentioned, constants = set(code.co_names), {c for c in code.co_consts if isinstance(c, str)}
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            more, strings = _mentioned(inner)
            mentioned, constants = mentioned | more, constants | strings
    return mentioned, constants


def main() -> None:
    """Write the tables."""
    for path, text in tables().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
