"""SGConv: configurations of ctlllll/SGConv, branch ``preview``; values in ``published/sgconv.toml``."""

from collections.abc import Mapping

from .recipe import Options, Recipe
from .s4 import third_version

LENGTHS = {"listops": 2048, "text": 4096, "retrieval": 4000, "image": 1024, "pathfinder": 1024, "pathx": 16384}


def sgconv(task: str) -> Recipe:
    """SGConv, trained as S4's third version but for what its own configurations change."""
    kernels: Mapping[str, Options] = {
        "listops": {"kernel_dim": 1},
        "text": {"kernel_dim": 2},
        "retrieval": {"kernel_dim": 1},
        "image": {"kernel_dim": 32, "decay": "fixed_power", "decay_min": 1.0, "decay_max": 1.0, "dropout": 0.2},
        "pathfinder": {"kernel_dim": 32, "dropout": 0.2},
        "pathx": {"kernel_dim": 64, "init": "cos", "init_scale": 1, "decay_min": 1.0, "decay_max": 3.0},
    }
    training: Mapping[str, Options] = {
        "image": {"dropout": 0.2, "steps": 180_000, "warmup_steps": 1000},
        "pathfinder": {"dropout": 0.2},
        "pathx": {"batch_size": 64, "steps": 125_000, "warmup_steps": 10_000, "lr": 4e-3, "weight_decay": 0.03},
    }
    options = {"bidirectional": True, "l_max": LENGTHS[task], **kernels[task]}
    values = {**third_version(task), **training.get(task, {}), "mask_padding": "pooling"}
    data = {"convention": "mega"} if task.startswith("path") else {}  # pixels in [-1, 1], where S4 now has [0, 1]
    return Recipe(f"{task}/sgconv", task, "sgconv", task_options=data, mixer_options=options, **values)
