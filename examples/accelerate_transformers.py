"""transformers' models of linear time, as they are and on seqconv: prefill, a training step, decoding, memory.

python examples/accelerate_transformers.py --families mamba,mamba2 --layers 4

Random weights of the published small sizes with fewer layers. Runs with and without seqconv alternate in one process,
and the medians are shown; peak memory of a training step comes from a process of its own for each. Set
MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592, so that page faults are not what is measured.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel, logging

import seqconv

HYBRID = {"intermediate_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64}
GATED_DELTA = {
    **HYBRID,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 256,
    "shared_expert_intermediate_size": 256,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": ("Mamba", {"hidden_size": 768}),
    "falcon_mamba": ("FalconMamba", {"hidden_size": 768}),
    "mamba2": ("Mamba2", {"hidden_size": 768, "num_heads": 24, "head_dim": 64, "n_groups": 1, "state_size": 128}),
    "bamba": ("Bamba", {"hidden_size": 512, "mamba_n_heads": 16, "mamba_d_head": 64, "mamba_d_state": 64, **HYBRID}),
    "qwen3_next": ("Qwen3Next", {"hidden_size": 512, **GATED_DELTA, **EXPERTS}),
    "qwen3_5": ("Qwen3_5", {"hidden_size": 512, **GATED_DELTA}),
    "lfm2": ("Lfm2", {"hidden_size": 512, **HYBRID}),
    "minimax": (
        "MiniMax",
        {"hidden_size": 512, **HYBRID, "num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 256},
    ),
    "recurrent_gemma": ("RecurrentGemma", {"hidden_size": 512, "lru_width": 512, **HYBRID}),
}

HYBRIDS = {"lfm2": "conv", "qwen3_next": "linear_attention", "qwen3_5": "linear_attention"}
"""Families with attention in the fourth and the last layer here, and what they call the others."""


def build(family: str, layers: int, scale: float) -> PreTrainedModel:
    """A model of the family with random weights; ``scale`` shrinks its width and its vocabulary (for a quick look)."""
    name, sizes = MODELS[family]
    config = import_module(f"transformers.models.{family}.configuration_{family}")
    kind = getattr(config, f"{name}TextConfig", None) or getattr(config, f"{name}Config")
    widths = {"hidden_size", "lru_width", "intermediate_size", "num_heads", "mamba_n_heads"}
    sizes = {key: int(value * scale) if key in widths else value for key, value in sizes.items()}
    torch.manual_seed(0)
    model = import_module(f"transformers.models.{family}.modeling_{family}")
    if family in HYBRIDS:
        linear = HYBRIDS[family]
        sizes["layer_types"] = ["full_attention" if layer in (layers - 1, 3) else linear for layer in range(layers)]
    settings = {"vocab_size": int(8192 * scale), "num_hidden_layers": layers, "pad_token_id": 0, "eos_token_id": None}
    built: PreTrainedModel = getattr(model, f"{name}ForCausalLM")(kind(**sizes, **settings))
    return built


def alternate(model: PreTrainedModel, run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of ``run`` as it is and accelerated; once each before, unmeasured."""
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for which, found in enumerate(times):
            with seqconv.accelerate(model) if which else nullcontext():
                start = time.perf_counter()
                run()
                if repeat:
                    found.append(time.perf_counter() - start)
    return median(times[0]), median(times[1])


def measure(
    family: str, layers: int, scale: float, prompt: int, train: int, repeats: int
) -> dict[str, tuple[float, float]]:
    """Seconds as they are and accelerated: prefill, a training step, 16 tokens after a short prompt."""
    model = build(family, layers, scale)
    ids = torch.randint(1, model.config.vocab_size, (1, max(prompt, train)))

    def prefill() -> None:
        with torch.no_grad():
            model.eval()(ids[:, :prompt], use_cache=False)

    def decode() -> None:
        model.eval().generate(ids[:, :8], max_new_tokens=16, min_new_tokens=16, do_sample=False)  # type: ignore[operator]

    return {
        "prefill": alternate(model, prefill, repeats),
        "decoding": alternate(model, decode, repeats),
        "training step": alternate(model, lambda: step(model, ids[:, :train]), repeats),
    }


def step(model: PreTrainedModel, ids: torch.Tensor) -> None:
    """Forward and backward pass of the language-model loss."""
    model.train()
    model.zero_grad()
    model(ids, labels=ids, use_cache=False).loss.backward()


def training_memory(family: str, layers: int, scale: float, train: int, accelerated: bool) -> float:
    """Megabytes that a training step adds to this process, gradients included; called in a fresh one."""
    model = build(family, layers, scale)
    ids = torch.randint(1, model.config.vocab_size, (1, train))
    before = peak_memory()
    with seqconv.accelerate(model) if accelerated else nullcontext():
        step(model, ids)
    return peak_memory() - before


def peak_memory() -> float:
    """Most megabytes that this process has held (Linux); unlike getrusage's, not those of the process before it."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024


def memory(family: str, layers: int, scale: float, train: int) -> tuple[float, float]:
    """Megabytes of a training step as it is and accelerated, each in a process of its own."""
    options = ["--families", family, "--layers", layers, "--scale", scale, "--train", train, "--only-memory-of"]
    command = [sys.executable, __file__, *map(str, options)]
    stock, fast = (
        float(subprocess.run([*command, which], check=True, capture_output=True, text=True).stdout)
        for which in ("transformers", "seqconv")
    )
    return stock, fast


def rows(
    family: str, layers: int, scale: float, prompt: int, train: int, repeats: int, with_memory: bool = True
) -> list[dict[str, Any]]:
    """A row per measurement: milliseconds of transformers and of seqconv, megabytes of the training step."""
    found = [
        {"shape": family, "direction": what, "ms": {"transformers": 1e3 * stock, "seqconv": 1e3 * fast}}
        for what, (stock, fast) in measure(family, layers, scale, prompt, train, repeats).items()
    ]
    if with_memory:
        stock, fast = memory(family, layers, scale, train)
        found[-1]["mb"] = {"transformers": stock, "seqconv": fast}
    return found


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    versions = {package: version(package) for package in ("torch", "transformers")}
    counts = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 1)}
    return {"processor": processor, **counts, "python": platform.python_version(), **versions}


def main(
    families: Annotated[str, typer.Option(help="Names, separated by commas.")] = ",".join(MODELS),
    layers: Annotated[int, typer.Option(min=2, help="Layers of each model.")] = 4,
    scale: Annotated[float, typer.Option(help="Shrinks widths and vocabulary.")] = 1.0,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of the prefill.")] = 2048,
    train: Annotated[int, typer.Option(min=8, help="Tokens of the training step.")] = 512,
    repeats: Annotated[int, typer.Option(min=1, help="Measured runs of each kind.")] = 3,
    with_memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure peak memory too.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write machine, versions and medians.")] = None,
    only_memory_of: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> list[dict[str, Any]]:
    """Print how many times as fast each family is, and its share of the memory."""
    logging.set_verbosity_error()
    if only_memory_of is not None:
        print(training_memory(families, layers, scale, train, only_memory_of == "seqconv"))
        return []
    found: list[dict[str, Any]] = []
    table = Table("family", *WHAT, "training memory")
    for family in families.split(","):
        own = rows(family, layers, scale, prompt, train, repeats, with_memory)
        found += own
        times = [row["ms"] for row in own]
        speeds = [f"{ms['transformers']:.0f} / {ms['seqconv']:.0f} ms = {_ratio(ms):.1f} ×" for ms in times]
        table.add_row(family, *speeds, f"{1 / _ratio(own[-1]['mb']):.2f}" if with_memory else "")
    Console().print(table)
    if json_file is not None:
        json_file.write_text(json.dumps({"machine": machine(), "rows": found}, indent=1) + "\n")
    return found


WHAT = ("prefill", "decoding", "training step")
"""What is measured, in this order."""


def _ratio(of: dict[str, float]) -> float:
    return of["transformers"] / max(of["seqconv"], 1e-3)


if __name__ == "__main__":
    typer.run(main)
