"""A finished run measured again: its checkpoint on a whole split, or on other data than it was trained on."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from seqconv_kernels._core.errors import argument_error, unknown_name

from ..models.build import MODELS
from ..models.rates import at_rate
from ..tasks import create_task
from .checkpoints import damaged_file
from .metrics import metrics_of
from .run import read_recipe
from .trainer import make_trainer


def evaluate(folder: Path, split: str = "test", checkpoint: str = "best", **options: Any) -> float:
    """Accuracy of a run's checkpoint, or what its task has instead; all else as :func:`evaluate_metrics`."""
    return evaluate_metrics(folder, split, checkpoint, **options)["accuracy"]


def evaluate_metrics(
    folder: Path,
    split: str = "test",
    checkpoint: str = "best",
    *,
    overrides: Mapping[str, Any] | None = None,
    data_root: Path | None = None,
    quiet: bool = False,
) -> dict[str, float]:
    """The metrics of a run's checkpoint, read back from its folder, on the whole of a split.

    Args:
        folder, split, checkpoint: which run, ``val`` or ``test``, ``best`` or ``last``.
        overrides: other data than it was trained on, by ``task.<option>``, for example longer rows; also
            ``batch_size``. They are prepared if they are not there. At another sampling rate (``task.rate``) the model
            runs as its mixers' ``at_rate`` makes it.
        data_root: of the prepared data.
        quiet: no progress bars.

    Raises:
        ValueError: no run there, an unknown split or checkpoint, or a checkpoint that is missing or damaged; another
            sampling rate for a mixer that is not a function of time.
    """
    _check_overrides(overrides or {})
    trained = replace(read_recipe(folder), parallel="ddp", compile=False)
    recipe = trained.override(overrides or {})
    task = create_task(recipe.task, recipe.task_options)
    spacing = task.spacing / create_task(recipe.task, trained.task_options).spacing
    if overrides:
        task.prepare(data_root, quiet=quiet)
    data = task.load(data_root)
    for name, value, known in (("split", split, list(data.splits)), ("checkpoint", checkpoint, ["best", "last"])):
        if value not in known:
            raise unknown_name("evaluate", name, value, known)
    damage = damaged_file(folder / checkpoint)
    if damage is not None:
        remedy = "take a finished run, or finish this one with 'python -m lra resume'"
        raise argument_error("evaluate", f"{folder / checkpoint}: {damage}", "an intact checkpoint", remedy)
    model = MODELS[data.kind].from_pretrained(folder / checkpoint)
    if spacing != 1:
        at_rate(model, spacing)
    with TemporaryDirectory() as scratch:
        trainer = make_trainer(recipe, model, data, Path(scratch), quiet=quiet)
        return metrics_of(trainer.predict(data.splits[split]).metrics)


def _check_overrides(overrides: Mapping[str, Any]) -> None:
    for name in overrides:
        if not name.startswith("task.") and name != "batch_size":
            wanted = "task.<option> or batch_size: the model is trained"
            raise argument_error("evaluate", f"an override of {name}", wanted, "train another run for it")
