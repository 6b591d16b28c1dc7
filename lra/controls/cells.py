"""The reduced protocol: models and tasks at sizes that two processor cores train in well under an hour.

Sizes and learning rates were chosen on validation splits, those of the mixers in :data:`TUNED`. Nothing here may be
compared with published numbers: small ListOps has expressions of 17 to 95 tokens, Pathfinder short curves read as 64
patches of 4 x 4 pixels, the synthetic tasks are short. Negative controls (:mod:`~lra.controls.negative_controls`) run
on small ListOps next to the correct model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from seqconv_kernels._core.errors import unknown_name

from ..recipes.catalog import create_recipe
from ..recipes.recipe import Recipe
from ..recipes.reduced import small
from .negative_controls import OPTIONS

Options = Mapping[str, Any]

TUNED = ("s4d", "mamba", "hyena", "gla", "attention", "s4", "sgconv", "mega")
LATER = ("gated_deltanet", "kda", "mamba3", "rwkv7", "rg_lru", "gated_short_conv")
"""Mixers of today's language models, at the rates of the reduced recipes, which were not chosen for them."""
MIXERS = (*TUNED, *LATER)
CONTROLLED, CONTROLLED_TASK = "s4d", "listops-small"
"""The mixer that has negative controls, and their task, whose rows differ in length."""
COMPARED, COMPARED_SEEDS = ("s4", "s4d"), 2
"""Mixers that train from several seeds on that task, as the negative controls do, to be compared seed by seed."""
TASKS: Mapping[str, Options] = {
    "listops-small": {},
    "pathfinder": {
        "task.images": 20_000,
        "task.difficulty": "curv_baseline",
        "patch_size": 4,
        "steps": 1200,
        "eval_every": 200,
    },
    "recall": {"task.vocab": 12, "task.length": 24, "steps": 500, "warmup_steps": 50, "lr": 8e-3},
    "induction": {
        "task.vocab": 12,
        "task.length": 32,
        "steps": 300,
        "warmup_steps": 30,
        "eval_every": 100,
        "batch_size": 128,
        "lr": 4e-3,
    },
    "selective-copying": {
        "task.vocab": 8,
        "task.length": 48,
        "task.memory": 6,
        "steps": 400,
        "warmup_steps": 40,
        "lr": 8e-3,
    },
}
"""What each task changes in the recipe of a mixer."""
BIDIRECTIONAL = ("listops-small", "pathfinder")
"""Tasks with one label for the whole sequence; on the others, models are causal."""
SHORT = ("recall", "induction", "selective-copying")
OWN: Mapping[tuple[str, str], Options] = {
    **{("pathfinder", mixer): {"lr": 1e-2} for mixer in ("s4", "s4d", "sgconv")},
    **{(task, "attention"): {"lr": 4e-3, "position_embedding": "learned"} for task in SHORT},
    **{(task, mixer): {"mixer.l_max": 64} for task in SHORT for mixer in ("hyena", "sgconv")},
    ("recall", "hyena"): {"lr": 4e-3},
}
"""What a mixer changes on a task."""
QUICK: Options = {"d_model": 8, "n_layers": 1, "batch_size": 4, "steps": 2, "warmup_steps": 1, "eval_every": 1}
"""For tests of the protocol itself."""
QUICK_SIZES: Mapping[str, Options] = {"pathfinder": {"task.images": 50}}
FEW: Options = {"task.train": 16, "task.val": 8, "task.test": 8}


@dataclass(frozen=True)
class Cell:
    """One training: a model on a task from a seed.

    Attributes:
        task, mixer: as :func:`~lra.recipes.catalog.create_recipe`.
        seed: of the parameters and the order of the data.
        control: of :data:`~lra.controls.negative_controls.OPTIONS`, or ``None``.
    """

    task: str
    mixer: str
    seed: int
    control: str | None = None

    @property
    def model(self) -> str:
        """Name in the tables."""
        return self.mixer if self.control is None else f"{self.mixer}, {self.control}"

    @property
    def folder(self) -> str:
        """Name of the run's folder."""
        return f"{self.task}/{self.model.replace(', ', '-').replace(' ', '-')}-{self.seed}"

    def recipe(self, quick: bool = False) -> Recipe:
        """The recipe; with ``quick`` for tests of the protocol."""
        changes = {**TASKS[self.task], **OWN.get((self.task, self.mixer), {}), "seed": self.seed}
        if self.control is not None:
            changes |= {f"mixer.{name}": value for name, value in OPTIONS[self.control].items()}
        if quick:
            changes |= {**QUICK, **QUICK_SIZES.get(self.task, FEW)}
        make = small if self.task in BIDIRECTIONAL else create_recipe
        recipe = make(self.task, self.mixer).override(changes)
        return replace(recipe, name=f"{self.task}/{self.model}", reduced=True, source=self._source())

    def _source(self) -> str:
        known = "" if self.control is None else f"; negative control: {self.control}"
        return f"reduced protocol for two processor cores, our own{known}"


def cells(tasks: Sequence[str] = tuple(TASKS), mixers: Sequence[str] = MIXERS, seeds: int = 1) -> list[Cell]:
    """All trainings: seed by seed, on each seed task by task, the negative controls after the correct models.

    Args:
        tasks, mixers: which of the protocol's.
        seeds: trainings of every model; those that are compared with negative controls have :data:`COMPARED_SEEDS` at
            least, as the controls do.

    Raises:
        ValueError: a task or mixer that is not part of the protocol; the nearest are named.
    """
    for kind, given, known in (("task", tasks, tuple(TASKS)), ("mixer", mixers, MIXERS)):
        for name in given:
            if name not in known:
                raise unknown_name("small", kind, name, known)
    found = []
    for seed in range(max(seeds, COMPARED_SEEDS)):
        for task in tasks:
            compared = COMPARED if task == CONTROLLED_TASK else ()
            found += [Cell(task, mixer, seed) for mixer in mixers if seed < seeds or mixer in compared]
            if task == CONTROLLED_TASK:
                found += [Cell(task, CONTROLLED, seed, control) for control in OPTIONS]
    return found
