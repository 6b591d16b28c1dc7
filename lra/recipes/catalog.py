"""Recipes by task and mixer: published settings, and reduced ones for two processor cores.

The S4 family's numbers are those of state-spaces/s4 (current configurations for S4, third version for S4D), MEGA's
those of its README, attention's those of the benchmark itself. A mixer without a published setting on a task trains
as S4D, and its recipe says so in ``source``.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from seqconv_kernels._core.errors import unknown_name

from ..tasks import TASKS
from .recipe import Recipe

S4_CURRENT = "state-spaces/s4, current configurations"
S4_V3 = "state-spaces/s4, third version of the configurations"
MEGA_README = "facebookresearch/mega, README and architecture defaults"
LRA_JAX = "google-research/long-range-arena, configurations; AdamW and mean pooling are our reading"
UNPUBLISHED = "no published setting; trained as S4D with seqconv's own mixer options"
PROBE = "reduced protocol for two processor cores, our own"

Options = dict[str, Any]
LENGTHS = {"listops": 2048, "text": 4096, "retrieval": 4000, "image": 1024, "pathfinder": 1024, "pathx": 16384}
ALIKE = {"pathfinder64": ("pathfinder", 4096), "path256": ("pathx", 65536)}
"""Sizes without published settings of their own: whose settings they take, and their length."""
OWN_RATES: Options = {"lr": {"A": 1e-3, "B": 1e-3, "P": 1e-3}, "wd": {"A": 0.0, "B": 0.0, "P": 0.0}}
"""The time scale trains like any other parameter, the state matrices at their own rate without decay."""
IMAGE: Options = {"d_model": 512, "dropout": 0.1, "tied_dropout": True}


def s4(task: str) -> Recipe:
    """S4: four states per channel on the text tasks, 64 on images."""
    text = task in ("listops", "text", "retrieval")
    options: Options = {
        "bidirectional": True,
        "d_state": 4 if text else 64,
        "dt_min": 1e-4 if task == "pathx" else 1e-3,
    }
    if text:
        options |= {"n_ssm": 1, **OWN_RATES}
    pre, post = {"norm_placement": "pre"}, {"norm_placement": "post"}
    table: Mapping[str, Options] = {
        "listops": {**post, "batch_size": 32, "steps": 120_000, "warmup_steps": 12_000},
        "text": {**pre, "batch_size": 16, "steps": 50_000, "warmup_steps": 5_000},
        "retrieval": {**pre, "batch_size": 64, "steps": 50_000, "warmup_steps": 5_000},
        "image": {**post, "batch_size": 50, "steps": 180_000, "warmup_steps": 18_000, **IMAGE},
        "pathfinder": {**pre, "batch_size": 64, "steps": 500_000, "warmup_steps": 50_000, "lr": 4e-3},
        "pathx": {**pre, "batch_size": 16, "steps": 500_000, "warmup_steps": 50_000, "lr": 1e-3},
    }
    training = {"norm": "batch", "seed": 2222 if task == "image" else 3333, "mask_padding": "pooling", **table[task]}
    return Recipe(f"{task}/s4", task, "s4", mixer_options=options, source=S4_CURRENT, **training)


def s4d(task: str) -> Recipe:
    """S4D with its default initialisation, HiPPO-LegS: its paper trains as the third version of S4's code."""
    options: Options = {"bidirectional": True, "d_state": 64, **OWN_RATES}
    if task in ("pathfinder", "pathx"):
        options |= {"lr": 1e-3 if task == "pathfinder" else 5e-4, "wd": 0.0}
    if task == "pathx":
        options["dt_min"] = 1e-4
    return Recipe(f"{task}/s4d", task, "s4d", mixer_options=options, source=S4_V3, **as_s4d(task))


def mega(task: str) -> Recipe:
    """MEGA, one chunk as long as the sequence."""
    options, training = _mega(task)
    return Recipe(f"{task}/mega", task, "mega", mixer_options=options, source=MEGA_README, **training)


def attention(task: str) -> Recipe:
    """The benchmark's own transformer."""
    table: Mapping[str, Options] = {
        "listops": {"d_model": 512, "heads": 8, "steps": 5_000, "warmup_steps": 1_000, "mlp_ratio": 2.0},
        "text": {"d_model": 256, "heads": 4, "steps": 20_000, "warmup_steps": 8_000, "mlp_ratio": 4.0},
        "retrieval": {"d_model": 128, "heads": 4, "steps": 5_000, "warmup_steps": 8_000, "mlp_ratio": 4.0},
    }
    if task not in table:
        return unpublished(task, "attention")
    training = dict(table[task])
    options = {"num_heads": training.pop("heads"), "rotary": False, "bidirectional": True, "qkv_bias": True}
    training |= {"n_layers": 4, "norm": "layer", "norm_placement": "pre", "mlp": "gelu", "batch_size": 32}
    training |= {"lr": 0.05 / training["warmup_steps"] ** 0.5, "weight_decay": 0.1, "schedule": "rsqrt"}
    training |= {"position_embedding": "sinusoidal"}
    return Recipe(f"{task}/attention", task, "attention", mixer_options=options, source=LRA_JAX, **training)


def unpublished(task: str, mixer: str) -> Recipe:
    """A mixer without published settings, trained as S4D."""
    long: Mapping[str, Options] = {
        "sgconv": {"l_max": LENGTHS[task], "kernel_dim": 32},
        "hyena": {"l_max": LENGTHS[task]},
    }
    options = {"bidirectional": True, **long.get(mixer, {})}
    return Recipe(f"{task}/{mixer}", task, mixer, mixer_options=options, source=UNPUBLISHED, **as_s4d(task))


def as_s4d(task: str) -> Options:
    """Depth, width, norm and training of S4's third version."""
    pre, post = {"norm_placement": "pre"}, {"norm_placement": "post"}
    finder = {"batch_size": 64, "steps": 500_000, "warmup_steps": 2500, "lr": 4e-3, "weight_decay": 0.03}
    table: Mapping[str, Options] = {
        "listops": {**post, "n_layers": 8, "d_model": 128, "batch_size": 50, "steps": 80_000},
        "text": {**pre, "batch_size": 16, "steps": 50_000},
        "retrieval": {**pre, "batch_size": 64, "steps": 50_000, "warmup_steps": 2500},
        "image": {**post, "norm": "layer", "batch_size": 50, "steps": 180_000, "warmup_steps": 900, **IMAGE},
        "pathfinder": {**pre, **finder, "pooling": "last"},
        "pathx": {**pre, "batch_size": 16, "steps": 500_000, "warmup_steps": 50_000, "lr": 1e-3},
    }
    return {"norm": "batch", "seed": 2222, "mask_padding": "pooling", **table[task]}


def _mega(task: str) -> tuple[Options, Options]:
    """Options of the layer, and of the training."""
    table: Mapping[str, tuple[Any, ...]] = {
        "listops": (6, 80, 64, "softmax", "layer", "post", 64, 90_000, 3_000, 1e-3, 0.01, 0.1),
        "text": (4, 128, 64, "softmax", "scale", "post", 50, 25_000, 10_000, 4e-3, 0.01, 0.1),
        "retrieval": (6, 128, 64, "softmax", "scale", "post", 64, 91_960, 10_000, 3e-3, 0.04, 0.1),
        "image": (8, 160, 96, "laplace", "batch", "pre", 50, 180_000, 9_000, 1e-2, 0.02, 0.0),
        "pathfinder": (6, 128, 64, "laplace", "batch", "pre", 128, 250_000, 50_000, 1e-2, 0.01, 0.0),
        "pathx": (4, 64, 32, "laplace", "batch", "pre", 128, 125_000, 25_000, 1e-2, 0.01, 0.0),
    }
    layers, width, keys, attends, norm, placement, batch, steps, warmup, rate, decay, dropout = table[task]
    options: Options = {"bidirectional": True, "d_state": 16, "d_k": keys, "d_v": 2 * width, "attention": attends}
    options |= {"norm": norm, "prenorm": placement == "pre", "dropout": dropout, "max_positions": LENGTHS[task]}
    training: Options = {"n_layers": layers, "d_model": width, "norm": norm, "norm_placement": placement}
    training |= {"mlp": "silu", "mlp_ratio": 2.0, "dropout": dropout, "batch_size": batch, "lr": rate}
    training |= {"steps": steps, "warmup_steps": warmup, "weight_decay": decay, "schedule": "linear"}
    return options, training | {"beta2": 0.98, "max_grad_norm": 1.0}


def small(task: str, mixer: str) -> Recipe:
    """Small tasks with one label per sequence: four bidirectional layers of width 64, 600 steps, a few minutes."""
    special: Mapping[str, Options] = {
        "s4": {"d_state": 16},
        "s4d": {"d_state": 16, "init": "lin"},
        "sgconv": {"l_max": 128, "kernel_dim": 8},
        "hyena": {"l_max": 128},
        "mega": {"max_positions": 128},
    }
    training = {"norm": "batch", "norm_placement": "post", "batch_size": 64, "steps": 600, "warmup_steps": 100}
    rate = 1e-3 if mixer == "mamba" else 4e-3  # at 4e-3 Mamba without a norm in front diverges
    training |= {"d_model": 64, "n_layers": 4, "lr": rate, "max_grad_norm": 1.0, "eval_every": 100}
    options = {"bidirectional": True, **special.get(mixer, {})}
    return _reduced(task, mixer, options, training)


def companion(task: str, mixer: str) -> Recipe:
    """Synthetic tasks: two causal layers of width 64 with an MLP."""
    special: Mapping[str, Options] = {
        "sgconv": {"l_max": 4096, "kernel_dim": 16},
        "hyena": {"l_max": 4096},
        "mega": {"max_positions": 4096},
    }
    training = {"norm": "layer", "norm_placement": "pre", "mlp": "swiglu", "batch_size": 64, "steps": 2000}
    training |= {"d_model": 64, "n_layers": 2, "lr": 2e-3, "weight_decay": 0.1, "warmup_steps": 200, "eval_every": 200}
    return _reduced(task, mixer, dict(special.get(mixer, {})), training | {"max_grad_norm": 1.0})


def _reduced(task: str, mixer: str, options: Options, training: Options) -> Recipe:
    return Recipe(f"{task}/{mixer}", task, mixer, mixer_options=options, source=PROBE, reduced=True, **training)


MIXERS = ("s4", "s4d", "sgconv", "hyena", "mega", "tcnca", "mamba", "mamba2", "gla", "attention")
PUBLISHED: Mapping[str, Callable[[str], Recipe]] = {"s4": s4, "s4d": s4d, "mega": mega, "attention": attention}


def create_recipe(task: str, mixer: str) -> Recipe:
    """The recipe of a mixer on a task.

    Raises:
        ValueError: unknown task or mixer; the nearest are named.
    """
    if task not in TASKS:
        raise unknown_name("create_recipe", "task", task, TASKS)
    if mixer not in MIXERS:
        raise unknown_name("create_recipe", "recipe", mixer, MIXERS)
    if task in ALIKE:
        return _alike(task, mixer)
    if task in LENGTHS:
        return PUBLISHED[mixer](task) if mixer in PUBLISHED else unpublished(task, mixer)
    return small(task, mixer) if task.endswith("-small") else companion(task, mixer)


def _alike(task: str, mixer: str) -> Recipe:
    other, length = ALIKE[task]
    recipe = create_recipe(other, mixer)
    longer = {name: length for name in ("l_max", "max_positions") if name in recipe.mixer_options}
    source = f"as {other}: {recipe.source}"
    return replace(
        recipe, name=f"{task}/{mixer}", task=task, mixer_options=recipe.mixer_options | longer, source=source
    )


def list_recipes() -> list[Recipe]:
    """Every recipe of every task."""
    return [create_recipe(task, mixer) for task in TASKS for mixer in MIXERS]
