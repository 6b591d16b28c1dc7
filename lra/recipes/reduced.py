"""Recipes for two processor cores: seqconv's own, for small tasks and for the synthetic companions."""

from collections.abc import Mapping

from .recipe import Options, Recipe

RECURRENT = ("mamba", "mamba3", "gated_deltanet", "kda", "rwkv7", "rg_lru", "gated_short_conv")
"""Mixers at a lower rate: at 4e-3 Mamba without a norm in front diverges; the others were not tried there."""
LENGTHS = {"sc35": 16_000, "sc10": 16_000, "ptbxl": 5000}
"""Inputs of the longest companions; others have at most 4,096."""
PROBE = "reduced protocol for two processor cores, seqconv's own"


def small(task: str, mixer: str) -> Recipe:
    """Small tasks with one label per sequence: four bidirectional layers of width 64, 600 steps, a few minutes."""
    special: Mapping[str, Options] = {
        "s4": {"d_state": 16},
        "s4d": {"d_state": 16, "init": "lin"},
        "sgconv": {"l_max": 128, "kernel_dim": 8},
        "hyena": {"l_max": 128},
        "mega": {"max_positions": 128},
        "mamba3": {"d_state": 16},
    }
    training = {"norm": "batch", "norm_placement": "post", "batch_size": 64, "steps": 600, "warmup_steps": 100}
    rate = 1e-3 if mixer in RECURRENT else 4e-3
    training |= {"d_model": 64, "n_layers": 4, "lr": rate, "max_grad_norm": 1.0, "eval_every": 100}
    options = {"bidirectional": True, **special.get(mixer, {})}
    return _reduced(task, mixer, options, training)


def companion(task: str, mixer: str) -> Recipe:
    """Synthetic tasks, signals and text: two causal layers of width 64 with an MLP."""
    length = LENGTHS.get(task, 4096)
    special: Mapping[str, Options] = {
        "sgconv": {"l_max": length, "kernel_dim": 16},
        "hyena": {"l_max": length},
        "mega": {"max_positions": length},
        "mamba3": {"d_state": 16},
    }
    training = {"norm": "layer", "norm_placement": "pre", "mlp": "swiglu", "batch_size": 64, "steps": 2000}
    training |= {"d_model": 64, "n_layers": 2, "lr": 2e-3, "weight_decay": 0.1, "warmup_steps": 200, "eval_every": 200}
    return _reduced(task, mixer, dict(special.get(mixer, {})), training | {"max_grad_norm": 1.0})


def _reduced(task: str, mixer: str, options: Options, training: Options) -> Recipe:
    return Recipe(f"{task}/{mixer}", task, mixer, mixer_options=options, source=PROBE, reduced=True, **training)
