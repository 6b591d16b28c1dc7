"""MEGA: commands of facebookresearch/mega and defaults of its architectures; values in ``published/mega.toml``."""

from collections.abc import Mapping
from typing import Any

from .recipe import Options, Recipe

MAX_POSITIONS = {"listops": 2002, "text": 4002, "retrieval": 4002, "image": 1024, "pathfinder": 1024, "pathx": 16384}
BETA2, CLIP = 0.98, 1.0


def mega(task: str) -> Recipe:
    """MEGA, one chunk as long as the sequence."""
    table: Mapping[str, tuple[Any, ...]] = {
        "listops": (6, 80, 64, "softmax", "layer", "post", 64, 90_000, 3_000, 1e-3, 0.01, 0.1),
        "text": (4, 128, 64, "softmax", "scale", "post", 50, 25_000, 10_000, 4e-3, 0.01, 0.1),
        "retrieval": (6, 128, 64, "softmax", "scale", "post", 64, 91_960, 10_000, 3e-3, 0.04, 0.1),
        "image": (8, 160, 96, "laplace", "batch", "pre", 50, 180_000, 9_000, 1e-2, 0.02, 0.0),
        "pathfinder": (6, 128, 64, "laplace", "batch", "pre", 128, 250_000, 50_000, 1e-2, 0.01, 0.0),
        "pathx": (4, 64, 32, "laplace", "batch", "pre", 128, 125_000, 25_000, 1e-2, 0.01, 0.0),
    }
    layers, width, keys, scores, norm, placement, batch, steps, warmup, rate, decay, dropout = table[task]
    options: Options = {"bidirectional": True, "d_state": 16, "d_k": keys, "d_v": 2 * width, "attention": scores}
    options |= {"norm": norm, "prenorm": placement == "pre", "dropout": dropout, "max_positions": MAX_POSITIONS[task]}
    options |= {"truncation": 4096 if task == "pathx" else 1024}
    training: Options = {"n_layers": layers, "d_model": width, "norm": norm, "norm_placement": placement}
    training |= {"mlp": "silu", "mlp_ratio": 2.0, "dropout": dropout, "input_dropout": dropout, "batch_size": batch}
    training |= {"lr": rate, "steps": steps, "warmup_steps": warmup, "weight_decay": decay, "schedule": "linear"}
    training |= {"classifier_hidden": 2 * width, "classifier_dropout": dropout, "decay_all": True}
    training |= {"beta2": BETA2, "max_grad_norm": CLIP, "warmup_power": 2 if task == "pathx" else 1}
    data = {"convention": "mega"}
    return Recipe(f"{task}/mega", task, "mega", task_options=data, mixer_options=options, **training)
