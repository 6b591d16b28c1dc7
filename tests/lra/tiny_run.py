"""The smallest run that goes through everything, for the tests of runs."""

import torch

from lra.recipes.catalog import create_recipe
from lra.recipes.recipe import Recipe
from lra.training.metrics import read_lines
from lra.training.run import Result

SMALL = {"train": 320, "val": 64, "test": 64}


def tiny(**changes: object) -> Recipe:
    """Four steps of a small S4D on a few expressions."""
    small = {f"task.{name}": size for name, size in SMALL.items()}
    sizes = {"d_model": 8, "n_layers": 1, "steps": 4, "eval_every": 2, "batch_size": 16, "warmup_steps": 1}
    return create_recipe("listops-small", "s4d").override({"mixer.d_state": 4, **small, **sizes, **changes})


def assert_same(resumed: Result, finished: Result) -> None:
    """Two runs have the same accuracies, parameters and logged losses."""
    assert resumed.accuracy == finished.accuracy
    for (name, tensor), reference in zip(
        resumed.model.state_dict().items(), finished.model.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, reference), name
    logged = [[line.get("loss") for line in read_lines(each.folder / "metrics.jsonl")] for each in (resumed, finished)]
    assert logged[0] == logged[1]
