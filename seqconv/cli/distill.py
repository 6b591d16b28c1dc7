"""``seqconv distill``: a checkpoint in, a checkpoint of recurrences with its certificates out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from seqconv_kernels._core.errors import argument_error


def distill_command(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a causal language model.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")],
    tolerance: Annotated[float | None, typer.Option(help="Relative H-infinity error allowed.")] = None,
    order: Annotated[int | None, typer.Option(help="Real order of every recurrence.")] = None,
    state_budget: Annotated[int | None, typer.Option(help="Real states of all recurrences together.")] = None,
    calibrate: Annotated[Path | None, typer.Option(help="Text file to predict and measure the KL on.")] = None,
    calibration_tokens: Annotated[int, typer.Option(min=64, help="Tokens taken from that file.")] = 4096,
    within: Annotated[int | None, typer.Option(min=2, help="Longest context that the bounds cover.")] = None,
    recurrent: Annotated[bool, typer.Option(help="Reduce filters that have a recurrence too.")] = False,
    length: Annotated[int | None, typer.Option(min=2, help="Taps that are fitted.")] = None,
    fir_head: Annotated[
        int | None, typer.Option(min=1, help="Leading taps kept exactly; 1, or more if needed.")
    ] = None,
    strict: Annotated[bool, typer.Option(help="Fail unless every channel was distilled.")] = False,
    write_unchanged: Annotated[bool, typer.Option(help="Write the model even if no channel was distilled.")] = False,
    plots: Annotated[bool, typer.Option(help="Plot the worst channel of every filter.")] = True,
) -> None:
    """Distil the long convolutions of a language model into recurrences with proven errors."""
    from rich.progress import track

    from ..distill import distill
    from ..distill.checkpoint import TABLE, save_distilled
    from .app import clear_errors, load_language_model

    with clear_errors():
        _check_choice(tolerance, order, state_budget, output, calibrate)
        model, tokenizer = load_language_model("seqconv distill", checkpoint, "auto", tokenizer=calibrate is not None)
        ids = None if calibrate is None else _tokens(calibrate, tokenizer, calibration_tokens, model)
        distilled = distill(
            model,
            order,
            tolerance,
            state_budget=state_budget,
            calibration=ids,
            fir_head=fir_head,
            within=within,
            length=length,
            recurrent=recurrent,
            progress=lambda names: track(list(names), description="distilling", transient=True),
        )
        written = distilled.channels[0] > 0 or write_unchanged
        if written:
            save_distilled(distilled, output, tokenizer=tokenizer)
            if plots:
                _plot(model, distilled, output, [n for n in (length, within) if n is not None])
    print_summary(distilled)
    if written:
        typer.echo(f"written to {output}; every channel is in {output / TABLE}")
    else:
        typer.echo("nothing was distilled, so nothing is written (--write-unchanged writes the model as it is)")
    convolutions, channels = distilled.convolutions, distilled.channels
    typer.echo(
        f"{convolutions[0]} of {convolutions[1]} convolutions, {channels[0]} of {channels[1]} channels distilled"
    )
    if strict and channels[0] < channels[1]:
        raise typer.Exit(1)


def print_summary(distilled: Any) -> None:
    """A line per filter: what became of it, the states of its distilled channels, and the worst error of one."""
    import torch

    for name, c in distilled.certificates.items():
        shown = c.met if bool(c.met.any()) else torch.ones_like(c.met)
        error = f"worst relative error {float((c.hinf_bound / c.norm_hinf.clamp_min(1e-300))[shown].max()):.2g}"
        within = "" if c.tolerance is None else f", {int(c.met.sum())} of {len(c.met)} channels within {c.tolerance:g}"
        order = c.order[shown]
        states = f"{int(order.sum())} states, {int(order.min())} to {int(order.max())} a channel"
        fate = "kept exact" if name in distilled.kept else states
        typer.echo(f"{name or 'the module itself'}: {fate}, {error}{within}")
    if distilled.predicted_kl is not None:
        kl = f"predicted {distilled.predicted_kl:.3g} nats, measured {distilled.measured_kl:.3g} nats"
        typer.echo(f"KL per token: {kl}")


def _plot(model: Any, distilled: Any, output: Path, lengths: list[int]) -> None:
    from ..convolution.replacement import long_convolutions
    from ..distill.plot import plot_certificate

    before: Any = long_convolutions(model)
    after: Any = long_convolutions(distilled.model)
    (output / "plots").mkdir(exist_ok=True)
    for name in set(distilled.certificates) - set(distilled.kept):
        filter = before[name].filter
        taps = filter(min(n for n in (*lengths, filter.max_length) if n is not None))
        plot_certificate(output / "plots" / f"{name}.png", taps, after[name].filter, distilled.certificates[name])


def _check_choice(
    tolerance: float | None, order: int | None, budget: int | None, output: Path, calibrate: Path | None
) -> None:
    if sum(choice is not None for choice in (tolerance, order, budget)) != 1:
        got = f"--tolerance {tolerance}, --order {order}, --state-budget {budget}"
        raise argument_error("seqconv distill", got, "exactly one of them", "choose how the orders are found")
    if budget is not None and calibrate is None:
        got, wanted = f"--state-budget {budget} without --calibrate", "a text on which to share the states out"
        raise argument_error("seqconv distill", got, wanted, "pass --calibrate FILE")
    if output.exists() and any(output.iterdir()):
        raise argument_error(
            "seqconv distill", f"the folder {output} with files in it", "a new folder", "choose another -o"
        )


def _tokens(path: Path, tokenizer: Any, count: int, model: Any) -> Any:
    import torch

    if not path.is_file():
        raise argument_error(
            "seqconv distill", f"no calibration file {str(path)!r}", "a text file", "correct --calibrate"
        )
    ids = tokenizer(path.read_text(errors="replace"), return_tensors="pt")["input_ids"][0, :count]
    length = min(512, len(ids))
    if length == 0:
        raise argument_error(
            "seqconv distill", f"the empty file {str(path)!r}", "a text to calibrate on", "fill the file"
        )
    rows = len(ids) // length
    return torch.as_tensor(ids[: rows * length]).reshape(rows, length).to(model.device)
