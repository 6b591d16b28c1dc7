"""``seqconv convert``: a checkpoint of another project in, a checkpoint of seqconv out."""

from pathlib import Path
from typing import Annotated

import typer


def convert_command(
    source: Annotated[str, typer.Argument(help="A folder, a repository of the hub, or a file of weights.")],
    dest: Annotated[Path, typer.Argument(help="Folder to write, new or empty.")],
    dtype: Annotated[str | None, typer.Option(help="Dtype of the weights; by default as they were saved.")] = None,
    verify: Annotated[bool, typer.Option(help="First compare the logits with the original's in transformers.")] = False,
    tokenizer: Annotated[bool, typer.Option(help="Write the original's tokenizer, if it has one.")] = True,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a repository.")] = None,
    ignore_option: Annotated[list[str] | None, typer.Option(help="A name in the configuration to ignore.")] = None,
    local_files_only: Annotated[bool, typer.Option(help="Take what is in the cache; fetch nothing.")] = False,
) -> None:
    """Write a checkpoint of another project as one of seqconv, whole or not at all; 'seqconv list --checkpoints'
    shows the kinds.
    """
    from ..interop.conversion import convert
    from .app import clear_errors, dtype_of

    with clear_errors():
        hub = {"local_files_only": local_files_only} | ({} if revision is None else {"revision": revision})
        asked = None if dtype is None else dtype_of(dtype)
        ignored = ignore_option or ()
        done = convert(source, dest, dtype=asked, verify=verify, tokenizer=tokenizer, ignored_options=ignored, **hub)
    if done.difference is not None:
        typer.echo(f"logits as the original's, but for {done.difference:.1e} of the largest")
    words = "with its tokenizer" if done.tokenizer else "without a tokenizer"
    kind = str(done.dtype).removeprefix("torch.")
    typer.echo(f"{done.kind}: {done.parameters:,} parameters in {kind}, {words}, written to {done.folder}")
