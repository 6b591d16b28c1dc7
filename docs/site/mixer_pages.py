"""A page per mixer, made from the registry, the docstrings and the mixer itself."""

import dataclasses
import inspect
import io
import sys
from functools import cache

import torch

from seqconv import create_mixer, list_mixers, mixer_config
from seqconv.cli.tables import FAMILIES, Row, rows
from seqconv.registry import mixer_entry

WIDTH, LENGTH, PROBES = 64, 256, 4


FAMILY_PAGES = [f"families/{family}" for family in FAMILIES]


def pages() -> dict[str, str]:
    """Path and text of the page of every family and mixer."""
    made = {f"families/{family}.md": _family(family) for family in FAMILIES}
    return made | {f"mixers/{row.name}.md": _page(row) for row in _rows()}


def _family(family: str) -> str:
    members = [row for row in _rows() if row.family == family]
    lines = "".join(f"- [`{row.name}`](../mixers/{row.name}.md): {row.summary}\n" for row in members)
    tree = "```{toctree}\n:hidden:\n\n" + "\n".join(f"../mixers/{row.name}" for row in members) + "\n```\n"
    return f"# {family.replace('_', ' ').capitalize()}\n\n{lines}\n{tree}"


@cache
def _rows() -> list[Row]:
    return rows()


def _page(row: Row) -> str:
    kind = mixer_entry(row.name).mixer
    parts = [
        f"# `{row.name}`",
        row.summary,
        f'```python\nfrom seqconv import create_mixer\n\nmixer = create_mixer("{row.name}", d_model={WIDTH})\n```',
        _facts(row),
        "## Equation and source",
        _rst(inspect.getdoc(inspect.getmodule(kind)) or ""),
        "## Dependence on earlier tokens",
        _about_the_plot(row),
        _plot(row.name),
        "## Options",
        _options(row.name),
        _rst("\n\n".join(f".. autoclass:: {path}" for path in _classes(row.name))),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _rst(text: str) -> str:
    return f"````{{eval-rst}}\n{text}\n````"


def _classes(name: str) -> list[str]:
    """The mixer's class, and on the page of the first mixer of a file the other public classes of the file."""
    module = mixer_entry(name).mixer.__module__
    mixers = {mixer_entry(n).mixer for n in list_mixers() if mixer_entry(n).mixer.__module__ == module}
    first = min(n for n in list_mixers() if mixer_entry(n).mixer in mixers) == name
    defined = [
        v
        for n, v in vars(sys.modules[module]).items()
        if isinstance(v, type) and v.__module__ == module and n[0] != "_"
    ]
    own = mixer_entry(name).mixer
    return [f"{module}.{kind.__name__}" for kind in defined if kind is own or (first and kind not in mixers)]


def _facts(row: Row) -> str:
    facts = {
        "family": row.family.replace("_", " "),
        "cost in the length": row.cost,
        "state, in numbers per channel": row.state,
        "bidirectional": row.bidirectional,
        "ops": ", ".join(f"`{op}`" for op in row.ops) or "PyTorch's own operations",
        "papers": ", ".join(f"[{paper}](https://arxiv.org/abs/{paper})" for paper in row.papers) or "–",
        "equal to the stored outputs of": ", ".join(f"`{name}`" for name in row.originals) or "–",
        "published result": row.published or "–",
    }
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {fact.replace('|', '/')} |\n" for name, fact in facts.items())


def _options(name: str) -> str:
    lines = ["| option | type | default |", "|---|---|---|"]
    for field in dataclasses.fields(mixer_config(name)):
        kind = field.type if isinstance(field.type, str) else inspect.formatannotation(field.type)
        kind = kind.replace("|", "\\|")
        lines.append(f"| `{field.name}` | {kind} | `{field.default!r}` |")
    return "\n".join(lines)


def _about_the_plot(row: Row) -> str:
    token = "middle" if row.state == "none" else "last"
    return (
        f"Size of the gradient of the {token} of {LENGTH} outputs with respect to each input, of a mixer with default "
        f"options and initial values on random input (width {WIDTH}, mean of {PROBES} random directions of the output)."
    )


def _plot(name: str) -> str:
    """The picture as it goes into the page."""
    from matplotlib.figure import Figure

    lags, sizes = _dependence(name)
    figure = Figure(figsize=(6.4, 2.4), layout="constrained")
    axis = figure.subplots()
    axis.plot(lags, sizes.clamp(min=1e-12), linewidth=1.2)
    axis.set(yscale="log", xlabel="tokens before the output", ylabel="size of the gradient")
    axis.set_ylim(bottom=max(float(sizes.max()) * 1e-8, 1e-12))
    axis.grid(alpha=0.3)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None}, transparent=True)
    svg = drawn.getvalue()
    return f'```{{raw}} html\n<div class="plot">{svg[svg.index("<svg") :]}</div>\n```'


def _dependence(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Lags, and the mean size of the gradient of one output over random directions."""
    torch.manual_seed(0)
    mixer = create_mixer(name, WIDTH).eval()
    at = LENGTH // 2 if mixer.state_kind == "none" else LENGTH - 1
    x = torch.randn(1, LENGTH, WIDTH, requires_grad=True)
    y = mixer(x)[0, at]
    total = torch.zeros(LENGTH)
    for _ in range(PROBES):
        (gradient,) = torch.autograd.grad(y @ torch.randn(WIDTH), x, retain_graph=True)
        total += gradient[0].norm(dim=-1)
    return at - torch.arange(LENGTH), total / PROBES
