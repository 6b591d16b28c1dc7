"""The ``seqconv`` command: ``list``, ``doctor``, ``generate``, ``distill``, ``convert``."""

import dataclasses
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from seqconv_kernels._core.errors import argument_error

from ..options import type_text
from .convert import convert_command
from .distill import distill_command
from .printing import names_table, pairs_table, print_parts

if TYPE_CHECKING:
    from ..registry import MixerEntry
    from .doctor import OpChoice


def _show_version(wanted: bool) -> bool:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"seqconv {version('seqconv')}")
        raise typer.Exit
    return wanted


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def seqconv_(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Long-sequence models from the command line."""


app.command("distill", short_help="Distil long convolutions into recurrences.")(distill_command)
app.command("convert", short_help="Read a checkpoint of another project.")(convert_command)


def main() -> None:
    """Entry point of the console script."""
    app()


@app.command("list", short_help="Show mixers, options of one, published models, originals.")
def list_(
    mixer: Annotated[
        str,
        typer.Argument(
            help="A name, or a shell pattern such as 'mamba*'; 'models' for published models, '2d' for 2-D mixers. "
            "With --originals or --checkpoints: a part of a name."
        ),
    ] = "*",
    pattern: Annotated[str, typer.Argument(help="After 'models' or '2d': a name or a shell pattern.")] = "*",
    originals: Annotated[bool, typer.Option(help="Show the layers of other projects that can be imported.")] = False,
    checkpoints: Annotated[bool, typer.Option(help="Show the kinds of checkpoints that can be imported.")] = False,
) -> None:
    """Show the mixers, or the options of one; or the published image models; or the 2-D mixers."""
    from ..interop import list_checkpoints, list_originals
    from ..registry import list_mixers, mixer_config, mixer_entry

    with clear_errors():
        if originals or checkpoints:
            names = [*(list_originals() if originals else []), *(list_checkpoints() if checkpoints else [])]
            typer.echo("\n".join(_matching(names, mixer)))
            return
        if mixer in ("models", "2d"):
            (_show_models if mixer == "models" else _show_mixers_2d)(pattern)
            return
        if pattern != "*":
            got, remedy = f"{mixer!r} and {pattern!r}", "write 'seqconv list models PATTERN', or one pattern alone"
            raise argument_error("seqconv list", got, "one name or pattern of mixers", remedy)
        names = list_mixers(mixer)
        if names == [mixer] or not names:
            _show_options(mixer_entry(mixer), mixer_config(mixer))
        else:
            _show_mixers(names)


@app.command(short_help="Show versions, the machine, and the implementation of each op.")
def doctor(
    device: Annotated[
        str | None, typer.Option(help="Device of the example calls; cuda if there is one, else cpu.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Dtype of the example calls.")] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Show versions, the machine, and which implementation each op takes and why the others are unsupported."""
    import torch

    from ..integrations.transformers import overview
    from . import doctor as facts

    with clear_errors():
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        versions, machine, ops = facts.versions(), facts.machine(), facts.choices(device, dtype_of(dtype))
        models = overview()
    if as_json:
        report: dict[str, Any] = {"versions": versions, "machine": machine, "accelerate": models}
        report["ops"] = [dataclasses.asdict(choice) for choice in ops]
        typer.echo(json.dumps(report, indent=2))
        return
    tables = (_pairs("versions", versions), _pairs("machine", machine), _pairs("accelerate", models))
    print_parts(*tables, _op_table(ops, f"ops on {device}, {dtype}"))


@app.command(short_help="Continue a prompt with a causal language model.")
def generate(
    checkpoint: Annotated[Path, typer.Argument(help="Folder written by save_pretrained, tokenizer included.")],
    prompt: Annotated[str, typer.Option(help="Text to continue.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Largest number of new tokens.")] = 100,
    temperature: Annotated[float, typer.Option(min=0.0, help="Temperature of sampling; 0 is greedy decoding.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Probability mass of nucleus sampling.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda …")] = "cpu",
    dtype: Annotated[str | None, typer.Option(help="Dtype of the weights; by default as they were saved.")] = None,
) -> None:
    """Continue a prompt with a causal language model, printing the text as it comes."""
    import torch
    from transformers import TextStreamer

    from .doctor import check_device

    with clear_errors():
        check_device("seqconv generate", device)
        model, tokenizer = load_language_model(
            "seqconv generate", checkpoint, "auto" if dtype is None else dtype_of(dtype)
        )
        inputs = tokenizer(prompt, return_tensors="pt").to(device)
        if inputs["input_ids"].shape[1] == 0:
            raise argument_error("seqconv generate", "an empty prompt", "at least one token", "pass a text to --prompt")
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p} if temperature > 0 else {}
        torch.manual_seed(seed)
        typer.echo(prompt, nl=False)
        model.to(device).generate(
            **inputs,
            **sampling,
            max_new_tokens=max_new_tokens,
            streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True),
        )


def load_language_model(command: str, checkpoint: Path, dtype: Any, *, tokenizer: bool = True) -> tuple[Any, Any]:
    """Model and tokenizer of a folder; configurations without a model_type are those of other projects' checkpoints.

    Args:
        tokenizer: whether it must be there; ``None`` is returned for one that is not.

    Raises:
        ValueError: the folder lacks one of them, or does not fit.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import seqconv  # noqa: F401  (registers the Auto classes)

    wanted = {"config.json": "a model"} | ({"tokenizer_config.json": "a tokenizer"} if tokenizer else {})
    for name, holds in wanted.items():
        if not (checkpoint / name).is_file():
            needed = f"a folder with {name}, as save_pretrained writes for {holds}"
            remedy = "save model and tokenizer into one folder and pass that"
            raise argument_error(command, f"{str(checkpoint)!r} without {name}", needed, remedy)
    if "model_type" in json.loads((checkpoint / "config.json").read_text(encoding="utf-8")):
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype, local_files_only=True)
    else:
        from ..interop import load_checkpoint

        model = load_checkpoint(checkpoint, dtype=dtype)
    there = (checkpoint / "tokenizer_config.json").is_file()
    return model.eval(), AutoTokenizer.from_pretrained(checkpoint, local_files_only=True) if there else None


def dtype_of(name: str) -> Any:
    """A floating dtype by its name.

    Raises:
        ValueError: another name.
    """
    import torch

    known = {str(d).removeprefix("torch."): d for d in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}
    if name not in known:
        raise argument_error("--dtype", repr(name), f"one of {', '.join(known)}", "write it in full")
    return known[name]


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn errors that a user can correct into one message and exit status 1; anything else keeps its traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


def _matching(names: list[str], pattern: str) -> list[str]:
    """The names of other projects that contain the pattern, in any case."""
    found = [name for name in names if fnmatch(name.lower(), f"*{pattern.lower()}*")]
    if not found:
        remedy = "leave the pattern out to see all"
        raise argument_error("seqconv list", repr(pattern), "a part of the name of an original", remedy)
    return found


def _show_mixers(names: list[str]) -> None:
    from ..registry import create_mixer, mixer_entry

    table = names_table(
        "mixer", "state", "summary", title="mixers", caption="seqconv list NAME shows the options of one"
    )
    for name in names:
        table.add_row(name, create_mixer(name, 8).state_kind, escape(mixer_entry(name).summary))
    print_parts(table)


def _show_models(pattern: str) -> None:
    from ..zoo import list_models, model_entry

    names = list_models(pattern)
    if not names:
        model_entry(pattern)  # raises, and names the nearest
    title = "published image models (millions of parameters, top-1 on ImageNet-1K in percent)"
    table = names_table("model", "millions", "top-1", "source", title=title)
    for name in names:
        entry = model_entry(name)
        score = "-" if entry.top1 is None else f"{entry.top1:.1f}"
        score += "" if entry.num_classes == 1000 else f" ({entry.measure})"
        table.add_row(name, f"{entry.millions:g}", score, entry.source)
    print_parts(table)


def _show_mixers_2d(pattern: str) -> None:
    from ..vision.registry import list_mixers_2d, mixer_2d_config, mixer_2d_entry

    names = list_mixers_2d(pattern)
    if names == [pattern] or not names:
        _show_options(mixer_2d_entry(pattern), mixer_2d_config(pattern))
        return
    table = names_table(
        "2-D mixer", "summary", title="2-D mixers", caption="seqconv list 2d NAME shows the options of one"
    )
    for name in names:
        table.add_row(name, escape(mixer_2d_entry(name).summary))
    print_parts(table)


def _show_options(entry: "MixerEntry[Any]", config: type[Any]) -> None:
    table = names_table("option", "type", "default", title=f"options of {entry.name}")
    for field in dataclasses.fields(config):
        table.add_row(field.name, escape(type_text(field.type)), escape(repr(field.default)))
    print_parts(escape(inspect.getdoc(entry.mixer) or ""), table)


def _pairs(title: str, rows: dict[str, str]) -> Table:
    return pairs_table(title, [(name, escape(value)) for name, value in rows.items()])


def _op_table(choices: "list[OpChoice]", title: str) -> Table:
    table = names_table("op", "takes", "unsupported", title=title)
    for choice in choices:
        reasons = "\n".join(f"{name}: {why}" for name, why in choice.unsupported.items())
        table.add_row(choice.op, choice.taken, escape(reasons) or "-")
    return table
