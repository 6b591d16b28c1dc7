"""Language models of S4 and MEGA; values and what differs in ``published/s4_language.toml``, ``mega_language.toml``.

Batches are those of all GPUs together: S4's eight have one row each, MEGA's 24 or 8 as many tokens as fit.
"""

from .mega import BETA2
from .recipe import Options, Recipe
from .s4 import kernel_rates


def s4_words(task: str) -> Recipe:
    """S4 on WikiText-103: 16 times two layers of S4 and a feed-forward network, adaptive softmax with four bands."""
    options: Options = {
        "d_state": 64, "dt_transform": "exp", "l_max": 8192, "n_ssm": 1, "lr": kernel_rates(5e-4), "dropout": 0.25,
        "tie_dropout": False,
    }  # fmt: skip
    bands: Options = {
        "factor": 4.0, "head_projection": True, "tie_projections": True, "bias": True, "dropout": 0.25,
        "embedding_dropout": 0.25, "init": "transformer_xl", "init_scale": 0.5, "bias_scale": 1.0,
    }  # fmt: skip
    model: Options = {"embedding_scale": 32.0, "adaptive_cutoffs": [19997, 39997, 199_997], "adaptive_options": bands}
    return Recipe(
        f"{task}/s4", task, "s4", task_options={"length": 8192}, mixer_options=options, model_options=model,
        n_layers=32, mlp_every=2, d_model=1024, norm="layer", norm_placement="pre", mlp="gelu", mlp_ratio=4.0,
        dropout=0.25, mlp_dropout=0.25, batch_size=8, steps=800_000, warmup_steps=1000, lr=5e-4, weight_decay=0.1,
        precision="float16", seed=1111,
    )  # fmt: skip


def mega_text(task: str) -> Recipe:
    """MEGA on WikiText-103, with adaptive softmax, and on EnWik8."""
    words = task == "wikitext103"
    width, keys, chunk, dropout, inner = (1024, 256, 1024, 0.3, 0.1) if words else (512, 128, 2048, 0.1, 0.0)
    options: Options = {
        "d_state": 16, "d_k": keys, "d_v": 2 * width, "attention": "softmax", "position_bias": "rotary",
        "attention_chunk_size": chunk, "truncation": 8192, "norm": "layer", "prenorm": True, "dropout": dropout,
        "attention_dropout": inner, "hidden_dropout": inner,
    }  # fmt: skip
    model: Options = {"embedding_scale": width**0.5, "final_norm_options": {"affine": False}}
    bands: Options = {"factor": 4.0, "tie_projections": True, "dropout": 0.2, "hidden_dropout": 0.2}
    if words:
        model |= {"adaptive_cutoffs": [20_000, 60_000], "adaptive_options": bands}
    else:
        model |= {"initializer_range": width**-0.5}
    return Recipe(
        f"{task}/mega", task, "mega", task_options={"length": 6144 if words else 8192}, mixer_options=options,
        model_options=model, n_layers=16 if words else 12, d_model=width, norm="layer", norm_placement="pre",
        mlp="silu", mlp_ratio=2.0, mlp_dropout=inner, dropout=dropout, input_dropout=dropout,
        batch_size=24 if words else 8, steps=400_000, warmup_steps=24_000, lr=5e-3, weight_decay=0.1, decay_all=True,
        schedule="linear", beta2=BETA2, max_grad_norm=0.25,
    )  # fmt: skip
