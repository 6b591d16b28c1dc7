"""Recipes by task and mixer: published settings, and reduced ones for two processor cores.

The S4 family's numbers are those of state-spaces/s4 (current configurations for S4, third version for S4D), MEGA's
those of its README. Where a mixer has no published setting on a task, its recipe says so in ``source``.
"""

from collections.abc import Callable, Mapping
from typing import Any

from seqconv_kernels.errors import unknown_name

from .recipe import Recipe
from .tasks import TASKS

S4_CURRENT = "state-spaces/s4, current configurations"
S4_V3 = "state-spaces/s4, third version of the configurations"
LRA_JAX = "google-research/long-range-arena, configurations; AdamW with decoupled decay is our reading"
OURS = "no published setting; trained as S4D, options of the mixer our own"
PROBE = "reduced protocol for two processor cores: 20,000 small expressions, 600 steps"

Options = dict[str, Any]


def s4(task: str) -> Recipe:
    """S4: 6 layers, four states per channel on the text tasks, 64 on images."""
    if task in SMALL:
        return reduced(task, "s4", {"bidirectional": True, "d_state": 16})
    text = task in ("listops", "text", "retrieval")
    options: Options = {
        "bidirectional": True,
        "d_state": 4 if text else 64,
        "dt_min": 1e-4 if task == "pathx" else 1e-3,
    }
    if text:
        options |= {"n_ssm": 1, "lr": {"dt": None, "A": 1e-3, "B": 1e-3}}
    table: Mapping[str, Options] = {
        "listops": {"norm_placement": "post", "batch_size": 32, "steps": 120_000, "warmup_steps": 12_000},
        "text": {"norm_placement": "pre", "batch_size": 16, "steps": 50_000, "warmup_steps": 5_000},
        "retrieval": {"norm_placement": "pre", "batch_size": 64, "steps": 50_000, "warmup_steps": 5_000},
        "image": {"norm_placement": "post", "batch_size": 50, "steps": 180_000, "warmup_steps": 18_000, **IMAGE},
        "pathfinder": {"norm_placement": "pre", "batch_size": 64, "steps": 500_000, "warmup_steps": 50_000, "lr": 4e-3},
        "pathx": {"norm_placement": "pre", "batch_size": 16, "steps": 500_000, "warmup_steps": 50_000, "lr": 1e-3},
    }
    training = {"norm": "batch", "seed": 2222 if task == "image" else 3333, "mask_padding": "pooling", **table[task]}
    return Recipe(f"{task}/s4", task, "s4", mixer_options=options, source=S4_CURRENT, **training)


def s4d(task: str) -> Recipe:
    """S4D: the S4D paper trains with S4's third version; its initialisation is HiPPO-LegS by default."""
    if task in SMALL:
        return reduced(task, "s4d", {"bidirectional": True, "d_state": 16, "init": "lin"})
    options: Options = {"bidirectional": True, "d_state": 64, "lr": {"dt": None, "A": 1e-3, "B": 1e-3}}
    if task in ("pathfinder", "pathx"):
        options["lr"] = 1e-3 if task == "pathfinder" else 5e-4
    if task == "pathx":
        options["dt_min"] = 1e-4
    return Recipe(f"{task}/s4d", task, "s4d", mixer_options=options, source=S4_V3, **as_s4d(task))


def sgconv(task: str) -> Recipe:
    """SGConv: filters as long as the task; the paper says that it trains as S4."""
    if task in SMALL:
        return reduced(task, "sgconv", {"bidirectional": True, "l_max": 128, "kernel_dim": 8})
    options = {"bidirectional": True, "l_max": LENGTHS[task], "kernel_dim": 32}
    return Recipe(f"{task}/sgconv", task, "sgconv", mixer_options=options, source=OURS, **as_s4d(task))


def hyena(task: str) -> Recipe:
    """Hyena of order 2, hearing both directions."""
    return own_reading(task, "hyena", {"bidirectional": True})


def tcnca(task: str) -> Recipe:
    """TCNCA, hearing both directions."""
    return own_reading(task, "tcnca", {"bidirectional": True})


def mamba(task: str) -> Recipe:
    """Mamba in both directions."""
    return own_reading(task, "mamba", {"bidirectional": True})


def gla(task: str) -> Recipe:
    """Gated linear attention in both directions."""
    return own_reading(task, "gla", {"bidirectional": True})


def as_s4d(task: str) -> Options:
    """Depth, width, norm and training of S4's third version."""
    table: Mapping[str, Options] = {
        "listops": {"n_layers": 8, "d_model": 128, "norm_placement": "post", "batch_size": 50, "steps": 80_000},
        "text": {"norm_placement": "pre", "batch_size": 16, "steps": 50_000},
        "retrieval": {"norm_placement": "pre", "batch_size": 64, "steps": 50_000, "warmup_steps": 2500},
        "image": {
            "norm": "layer",
            "norm_placement": "post",
            "batch_size": 50,
            "steps": 180_000,
            "warmup_steps": 900,
            **IMAGE,
        },
        "pathfinder": {
            "norm_placement": "pre",
            "batch_size": 64,
            "steps": 500_000,
            "warmup_steps": 2500,
            "lr": 4e-3,
            "weight_decay": 0.03,
            "pooling": "last",
        },
        "pathx": {"norm_placement": "pre", "batch_size": 16, "steps": 500_000, "warmup_steps": 50_000, "lr": 1e-3},
    }
    return {"norm": "batch", "seed": 2222, "mask_padding": "pooling", **table[task]}


def own_reading(task: str, mixer: str, options: Options) -> Recipe:
    """A mixer without published settings, trained as S4D."""
    if task in SMALL:
        return reduced(task, mixer, options)
    return Recipe(f"{task}/{mixer}", task, mixer, mixer_options=options, source=OURS, **as_s4d(task))


def reduced(task: str, mixer: str, options: Options) -> Recipe:
    """Four layers of width 64, some minutes on two cores."""
    return Recipe(
        f"{task}/{mixer}",
        task,
        mixer,
        mixer_options=options,
        d_model=64,
        n_layers=4,
        norm="batch",
        norm_placement="post",
        batch_size=64,
        steps=600,
        warmup_steps=100,
        lr=4e-3,
        max_grad_norm=1.0,
        eval_every=100,
        source=PROBE,
        reduced=True,
    )


IMAGE: Options = {"d_model": 512, "dropout": 0.1, "tied_dropout": True}
LENGTHS = {"listops": 2048, "text": 4096, "retrieval": 4000, "image": 1024, "pathfinder": 1024, "pathx": 16384}
SMALL = ("listops-small",)
FAMILIES: Mapping[str, Callable[[str], Recipe]] = {
    "s4": s4,
    "s4d": s4d,
    "sgconv": sgconv,
    "hyena": hyena,
    "tcnca": tcnca,
    "mamba": mamba,
    "gla": gla,
}


def create_recipe(task: str, mixer: str) -> Recipe:
    """The recipe of a mixer on a task.

    Raises:
        ValueError: unknown task or mixer; the nearest are named.
    """
    if task not in TASKS:
        raise unknown_name("create_recipe", "task", task, TASKS)
    if mixer not in FAMILIES:
        raise unknown_name("create_recipe", "recipe", mixer, FAMILIES)
    return FAMILIES[mixer](task)


def list_recipes() -> list[Recipe]:
    """Every recipe of every task."""
    return [create_recipe(task, mixer) for task in TASKS for mixer in FAMILIES]
