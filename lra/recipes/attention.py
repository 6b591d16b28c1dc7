"""The benchmark's own transformer: google-research/long-range-arena; values in ``published/attention.toml``."""

from collections.abc import Mapping

from .recipe import Options, Recipe

TEXT: Options = {"n_layers": 4, "batch_size": 32, "weight_decay": 0.1, "schedule": "rsqrt", "dropout": 0.1}
RATE = 0.05
"""Of the text tasks, to be divided by the square root of the step, or of the warm-up while it lasts."""
SIZES: Mapping[str, tuple[int, int, int, int]] = {
    "listops": (512, 8, 512, 1024),
    "text": (256, 4, 256, 1024),
    "retrieval": (128, 4, 128, 512),
    "image": (128, 8, 64, 128),
    "pathfinder": (32, 4, 16, 32),
    "pathfinder64": (32, 4, 32, 32),
    "pathx": (32, 2, 16, 32),
    "path256": (32, 4, 32, 32),
}
"""Width, heads, width of queries, keys and values, hidden width of the MLP and of the head."""


def attention(task: str) -> Recipe:
    """A transformer over the task's tokens: bytes, symbols, or grey values."""
    image: Options = {
        "schedule": "cosine",
        "weight_decay": 0.0,
        "dropout": 0.1,
        "lr": 1e-3,
        "position_embedding": "learned",
    }
    table: Mapping[str, Options] = {
        "listops": {**TEXT, "steps": 5_000, "warmup_steps": 1_000, "pooling": "cls"},
        "text": {**TEXT, "steps": 20_000, "warmup_steps": 8_000, "pooling": "cls"},
        "retrieval": {**TEXT, "steps": 5_000, "warmup_steps": 8_000, "pooling": "first"},
        "image": {**image, "n_layers": 1, "batch_size": 256, "lr": 5e-4, "dropout": 0.3, "pooling": "cls"}
        | {"steps": 35_000, "warmup_steps": 175},
        "pathfinder": {**image, "n_layers": 4, "batch_size": 512, "dropout": 0.2, "position_embedding": "sinusoidal"}
        | {"steps": 62_400, "warmup_steps": 312},
        "pathfinder64": {**image, "n_layers": 2, "batch_size": 256, "pooling": "cls"}
        | {"steps": 125_000, "warmup_steps": 625},
        "pathx": {**image, "n_layers": 1, "batch_size": 64, "max_grad_norm": 1.0}
        | {"steps": 500_000, "warmup_steps": 2_500},
        "path256": {**image, "n_layers": 2, "batch_size": 32, "pooling": "cls"}
        | {"steps": 500_000, "warmup_steps": 5_000},
    }
    width, heads, inner, hidden = SIZES[task]
    training = {"position_embedding": "sinusoidal", **table[task]}
    dropout = training["dropout"]
    options: Options = {"num_heads": heads, "head_dim": inner // heads, "rotary": False, "bidirectional": True}
    options |= {"dropout": 0.2 if task == "image" else 0.1}
    training |= {"d_model": width, "norm": "layer", "norm_placement": "pre", "classifier_hidden": hidden}
    training |= {"mlp": "gelu_tanh", "mlp_ratio": hidden / width, "mlp_dropout": dropout, "input_dropout": dropout}
    training |= {"beta2": 0.98, "eps": 1e-9, "decay_all": True}
    if training["schedule"] == "rsqrt":
        training["lr"] = RATE / training["warmup_steps"] ** 0.5
    data = {"convention": "jax"}
    return Recipe(f"{task}/attention", task, "attention", task_options=data, mixer_options=options, **training)
