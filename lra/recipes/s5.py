"""S5: commands of lindermanlab/S5; values in ``published/s5.toml``.

The rates come as S5's ``opt_config``: "standard" trains A, B and the steps at a small rate without decay; with
"BandCdecay" B decays, with "BfastandCdecay" it also trains at the rate of all other parameters, as the steps do with
``dt_global``; with "noBCdecay" C trains as A does.
"""

from collections.abc import Mapping

from .recipe import Options, Recipe

Row = tuple[int, int, int, int, float, float, float, float, int, int, int, int]


def s5(task: str) -> Recipe:
    """S5, pre-norm, with batch norm."""
    table: Mapping[str, Row] = {
        "listops": (8, 128, 16, 8, 0.0, 3e-3, 1e-3, 0.04, 50, 76_800, 1_920, 6554595),
        "text": (6, 256, 192, 12, 0.1, 4e-3, 1e-3, 0.07, 50, 17_500, 0, 8825365),
        "retrieval": (6, 128, 256, 16, 0.0, 2e-3, 1e-3, 0.05, 32, 91_920, 4_596, 5464368),
        "image": (6, 512, 384, 3, 0.1, 4.5e-3, 1e-3, 0.07, 50, 225_000, 900, 16416),
        "pathfinder": (6, 192, 256, 8, 0.05, 4.5e-3, 9e-4, 0.03, 64, 500_000, 2_500, 8180844),
        "pathx": (6, 128, 256, 16, 0.0, 1.8e-3, 6e-4, 0.06, 32, 375_000, 5_000, 6429262),
        "sc35": (6, 96, 128, 16, 0.1, 8e-3, 2e-3, 0.04, 16, 212_080, 5_302, 4062966),
    }
    layers, width, states, blocks, dropout, rate, own_rate, decay, batch, steps, warmup, seed = table[task]
    fast_B, decaying_B, global_dt = task in ("listops", "image"), task == "pathx", task in ("text", "retrieval")
    steps_of = () if global_dt else ("dt",)
    slow_C = ("C",) if task == "sc35" else ()
    own = ("A", *steps_of, *(() if fast_B else ("B",)), *slow_C)
    undecayed = ("A", *steps_of, *(() if fast_B or decaying_B else ("B",)), *slow_C)
    options: Options = {
        "bidirectional": True, "d_state": states, "num_blocks": blocks, "dropout": dropout, "tie_dropout": True,
        "gate": "half_glu2" if task in ("listops", "text") else "half_glu1",
        "C_init": _C_INIT[task], "clip_eigs": task == "image", "dt_min": 1e-4 if task == "pathx" else 1e-3,
        "lr": dict.fromkeys(own, own_rate), "wd": dict.fromkeys(undecayed, 0.0),
    }  # fmt: skip
    paths = {"convention": "mega"} if task.startswith("path") else {}
    return Recipe(
        f"{task}/s5", task, "s5", task_options=paths, mixer_options=options, n_layers=layers, d_model=width,
        norm="batch", norm_placement="pre", mask_padding="pooling", batch_size=batch, steps=steps,
        warmup_steps=warmup, lr=rate, special_lr=own_rate, weight_decay=decay, seed=seed,
    )  # fmt: skip


_C_INIT = {
    "listops": "lecun_normal", "text": "lecun_normal", "image": "lecun_normal", "pathx": "complex_normal",
    "retrieval": "trunc_standard_normal", "pathfinder": "trunc_standard_normal", "sc35": "lecun_normal",
}  # fmt: skip
