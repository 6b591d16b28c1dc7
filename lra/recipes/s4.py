"""S4, and S4D as its paper trained: the current configurations of state-spaces/s4, and those of its third version.

Values and what differs from them: ``published/s4.toml`` and ``published/s4d.toml``.
"""

from collections.abc import Mapping
from typing import Any

from .recipe import Options, Recipe

IMAGE: Options = {"d_model": 512, "dropout": 0.1}
LENGTHS = {"listops": 2048, "text": 4096, "retrieval": 4000, "image": None, "pathfinder": 1024, "pathx": 16384}
"""``__l_max`` of S4's data sets."""
TEXTS = ("listops", "text", "retrieval")
OWN_RATES: Options = {"A": 1e-3, "B": 1e-3, "P": 1e-3}
"""The time step and C train at the rate of all other parameters, the state matrices at their own."""


def kernel_rates(rate: float) -> Options:
    """A rate given as one number in S4's configurations: that of every parameter of the kernel."""
    return dict.fromkeys(("dt", "A", "B", "C", "P"), rate)


def s4(task: str) -> Recipe:
    """S4: four states per channel on the text tasks, 64 on images."""
    text = task in TEXTS
    options: Options = {
        "bidirectional": True,
        "d_state": 4 if text else 64,
        "dt_min": 1e-4 if task == "pathx" else 1e-3,
        "dt_transform": "softplus",
        "l_max": LENGTHS[task],
        "n_ssm": None if task in ("pathfinder", "pathx") else 1,
        "lr": OWN_RATES if text else kernel_rates(1e-3),
        **_inner_dropout(task),
    }
    pre, post = {"norm_placement": "pre"}, {"norm_placement": "post"}
    table: Mapping[str, Options] = {
        "listops": {**post, "batch_size": 32, "steps": 120_000, "warmup_steps": 12_000},
        "text": {**pre, "batch_size": 16, "steps": 50_000, "warmup_steps": 5_000},
        "retrieval": {**pre, "batch_size": 64, "steps": 50_000, "warmup_steps": 5_000},
        "image": {**post, "batch_size": 50, "steps": 180_000, "warmup_steps": 18_000, **IMAGE},
        "pathfinder": {**pre, "batch_size": 64, "steps": 500_000, "warmup_steps": 50_000, "lr": 4e-3},
        "pathx": {**pre, "batch_size": 16, "steps": 500_000, "warmup_steps": 50_000, "lr": 1e-3},
    }
    training: dict[str, Any] = {"norm": "batch", "tie_dropout": True, **table[task]}
    training["seed"] = 2222 if task == "image" else 3333
    return Recipe(f"{task}/s4", task, "s4", mixer_options=options, **_masking(task), **training)


def further_s4(task: str) -> Recipe:
    """S4 on tasks outside of the benchmark: Speech Commands and CIFAR in colour."""
    speech = task == "sc35"
    options: Options = {
        "bidirectional": True,
        "d_state": 64,
        "dt_transform": "softplus",
        "l_max": 16_000 if speech else None,
        "n_ssm": 2,
        "lr": {"dt": 1e-3, **OWN_RATES},
        "dropout": 0.0 if speech else IMAGE["dropout"],
        "tie_dropout": True,
    }
    table: Mapping[str, Options] = {
        "sc35": {"norm": "batch", "norm_placement": "pre", "d_model": 128, "batch_size": 16, "steps": 200_000},
        "scifar": {
            "norm": "layer",
            "norm_placement": "post",
            "batch_size": 50,
            "steps": 180_000,
            "warmup_steps": 900,
            **IMAGE,
        },
    }
    training: Options = {"tie_dropout": True, "mask_padding": "pooling", "seed": 2222, **table[task]}
    return Recipe(f"{task}/s4", task, "s4", mixer_options=options, **training)


def s4d(task: str) -> Recipe:
    """S4D-LegS."""
    options: Options = {"bidirectional": True, "d_state": 64, "lr": OWN_RATES, **_inner_dropout(task)}
    if task == "image":
        options["n_ssm"] = 2
    if task in ("pathfinder", "pathx"):
        options["lr"] = kernel_rates(1e-3 if task == "pathfinder" else 5e-4)
    if task == "pathx":
        options["dt_min"] = 1e-4
    return Recipe(f"{task}/s4d", task, "s4d", mixer_options=options, **_masking(task), **third_version(task))


def third_version(task: str) -> Options:
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
    return {"norm": "batch", "tie_dropout": True, "seed": 2222, **table[task]}


def _inner_dropout(task: str) -> Options:
    """S4's layers drop inside what their blocks drop outside."""
    return {"dropout": IMAGE["dropout"] if task == "image" else 0.0, "tie_dropout": True}


def _masking(task: str) -> Options:
    """Where S4's loaders pass lengths, its layers zero their inputs at padding; norms and residuals see padding."""
    return {"mask_padding": "mixer_inputs" if task in TEXTS else "pooling"}
