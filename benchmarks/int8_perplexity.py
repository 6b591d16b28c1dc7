"""What int8 weights cost in perplexity: ``python -m benchmarks.int8_perplexity --threads 2``.

Byte-level language models are trained for a few minutes on the interpreter's own sources, and read files that they
have not seen: in float32, then with int8 weights of a scale per row and per group. Perplexity is per byte,
``exp(mean of -log p(byte))``, every window from an empty state. Writes ``benchmarks/results/int8_perplexity.json`` and
``.md``.
"""

import argparse
import copy
import json
import math
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqconv import SeqConvConfig, SeqConvForCausalLM, parameter_groups, quantize

from .measure import Machine, record

RESULT = Path(__file__).parent / "results" / "int8_perplexity"
MIXERS = ("mamba", "gated_deltanet", "attention")
GROUPS: tuple[int | None, ...] = (None, 64)
"""Inputs that share a scale; ``None``: the whole row. A group that does not divide a layer's inputs is left out."""
HELD_OUT = 8
"""One file in this many is kept for the test."""


def texts() -> tuple[Tensor, Tensor]:
    """Bytes of the standard library's modules to train on, and of those that are held out."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for i, file in enumerate(files):
        parts[i % HELD_OUT == 0].append(file.read_bytes())
    train, held = (torch.frombuffer(bytearray(b"\n".join(part)), dtype=torch.uint8) for part in parts)
    return train, held


def train(mixer: str, text: Tensor, steps: int, *, length: int, batch: int, width: int, layers: int) -> Any:
    """A byte-level model after ``steps`` steps of AdamW with a cosine schedule."""
    torch.manual_seed(0)
    config = SeqConvConfig(vocab_size=256, hidden_size=width, num_hidden_layers=layers, mixer=mixer, mlp="swiglu")
    model: Any = SeqConvForCausalLM(config)
    groups = parameter_groups(model, lr=2e-3, weight_decay=0.1)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    rates = [group["lr"] for group in optimizer.param_groups]
    warmup = max(1, steps // 10)
    for step in range(steps):
        share = min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * share
        starts = torch.randint(len(text) - length, (batch,))
        ids = torch.stack([text[start : start + length] for start in starts.tolist()]).long()
        loss = model(ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def nats(model: Any, text: Tensor, *, length: int, windows: int) -> Tensor:
    """Mean -log p per byte of each window."""
    ids = text[: windows * length].view(-1, length).long()
    found = []
    for rows in ids.split(16):
        logits = model(rows, use_cache=False).logits[:, :-1]
        found.append(F.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none").mean(1))
    return torch.cat(found)


def compare(mixer: str, steps: int, *, windows: int, **sizes: int) -> list[dict[str, object]]:
    """One row per precision: perplexity, its loss against float32 and the error of that difference."""
    text, held = texts()
    began = time.process_time()
    model = train(mixer, text, steps, **sizes)
    seconds = time.process_time() - began
    exact = nats(model, held, length=sizes["length"], windows=windows)
    common = {"mixer": mixer, "parameters": sum(p.numel() for p in model.parameters()), "steps": steps}
    perplexity = exact.mean().exp().item()
    rows: list[dict[str, object]] = [
        {**common, "training cpu s": round(seconds), "weights": "float32", "perplexity": perplexity}
    ]
    inputs = {layer.in_features for layer in model.modules() if isinstance(layer, torch.nn.Linear)}
    for group in GROUPS:
        if group is not None and any(size % group for size in inputs):
            continue
        small = quantize(copy.deepcopy(model), group_size=group)
        difference = nats(small, held, length=sizes["length"], windows=windows) - exact
        name = "int8, scale per row" if group is None else f"int8, scale per {group}"
        error = difference.std().item() / len(difference) ** 0.5
        change = {"loss %": 100 * math.expm1(difference.mean().item()), "± %": 100 * error}
        rows.append({**common, "weights": name, "perplexity": perplexity * difference.mean().exp().item(), **change})
    return rows


def report(measured: dict[str, Any]) -> str:
    """The record as a Markdown page."""
    machine = ", ".join(f"{key} {value}" for key, value in measured["machine"].items())
    lines = ["# int8 weights in perplexity", "", f"`{measured['command']}`", "", machine, ""]
    lines += [
        f"Held-out bytes: {measured['held_out_bytes']}. The loss is the change of the perplexity per byte against the "
        "same model in float32, with the standard error over windows.", "",
        "| mixer | parameters | weights | perplexity per byte | loss |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in measured["rows"]:
        loss = f"{row['loss %']:+.3f} ± {row['± %']:.3f} %" if "loss %" in row else "-"
        counted = f"{row['parameters']:,}"
        lines.append(f"| {row['mixer']} | {counted} | {row['weights']} | {row['perplexity']:.4f} | {loss} |")
    return "\n".join([*lines, ""])


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Train, quantize, measure and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8_perplexity", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--windows", type=int, default=256, help="of the held-out text")
    parser.add_argument("--mixers", nargs="+", default=list(MIXERS))
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    sizes = {name: getattr(options, name) for name in ("length", "batch", "width", "layers", "windows")}
    rows = [row for mixer in options.mixers for row in compare(mixer, options.steps, **sizes)]
    given = " ".join(sys.argv[1:] if arguments is None else arguments)
    command = f"python -m benchmarks.int8_perplexity {given}".strip()
    measured: dict[str, Any] = {"command": command, "held_out_bytes": options.windows * options.length}
    measured |= record(Machine.here(), rows)
    options.out.with_suffix(".json").write_text(json.dumps(measured, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(report(measured))
    print(report(measured))
    return measured


if __name__ == "__main__":
    main()
