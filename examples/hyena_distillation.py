"""Train a byte-level Hyena language model, distil it, and compare its ways of writing.

python examples/hyena_distillation.py --out outputs/hyena

Trains on the Python standard library, distils at several orders and within a state budget, compares perplexity and
divergence, checks that exact online generation and recomputation write the same tokens, and times decoding at growing
contexts against GPT-2 of the same size with its key-value cache. Writes checkpoints,
results.json, report.md, speed.png.
"""

import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from train_causal_lm import Windows, standard_library
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from seqconv import SeqConvConfig, SeqConvForCausalLM, parameter_groups
from seqconv.distill import DistilledModel, distill
from seqconv.distill.checkpoint import save_distilled
from seqconv.hf.tokenizer import byte_tokenizer


def build(width: int, layers: int, context: int) -> SeqConvForCausalLM:
    """A Hyena language model that reads bytes."""
    options = {"l_max": context, "emb_dim": 33, "w": 10.0}
    config = SeqConvConfig(
        vocab_size=258, hidden_size=width, num_hidden_layers=layers, mixer="hyena", mixer_options=options, mlp="gelu",
        mlp_ratio=2.0, eos_token_id=256, pad_token_id=257,
    )  # fmt: skip
    return SeqConvForCausalLM(config)


def train(model: SeqConvForCausalLM, rows: Tensor, steps: int, batch_size: int, out: Path) -> None:
    """Train with transformers' Trainer."""
    arguments = TrainingArguments(
        str(out / "runs"), max_steps=steps, per_device_train_batch_size=batch_size, warmup_steps=max(1, steps // 10),
        lr_scheduler_type="cosine", logging_steps=max(1, steps // 20), save_strategy="no", report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=3e-3, weight_decay=0.05))
    Trainer(
        model, arguments, train_dataset=Windows(rows.flatten(), rows.shape[1]), optimizers=(optimizer, None)
    ).train()
    model.eval()


@torch.no_grad()
def loss(model: torch.nn.Module, rows: Tensor) -> float:
    """Mean cross-entropy of the next byte, in nats."""
    return statistics.fmean(float(model(input_ids=row, labels=row).loss) for row in rows.split(4))


def distillations(model: SeqConvForCausalLM, held_out: Tensor, orders: list[int]) -> dict[str, DistilledModel]:
    """Equal orders, a budget of the middle one, and an order after an exact head."""
    middle = orders[len(orders) // 2]
    channels = model.config.hidden_size * model.config.num_hidden_layers
    made = {f"order {d}": distill(model, d, calibration=held_out) for d in orders}
    made[f"budget of {middle} a channel"] = distill(model, state_budget=middle * channels, calibration=held_out)
    head = held_out.shape[1] // 8
    made[f"order {middle}, {head} exact taps"] = distill(model, middle, calibration=held_out, fir_head=head)
    return made


def same_tokens(model: SeqConvForCausalLM, prompt: Tensor, count: int) -> int:
    """Greedy tokens in float64 on which exact online generation and recomputation agree."""
    wide = SeqConvForCausalLM(model.config).double().eval()
    wide.load_state_dict(model.state_dict())
    settings: dict[str, Any] = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
    online, recomputed = (wide.generate(prompt, use_cache=cache, **settings)[0] for cache in (True, False))
    return int((online == recomputed)[prompt.shape[1] :].sum())


@torch.no_grad()
def seconds_per_token(model: Any, context: int, tokens: int = 128) -> float:
    """Mean time of a decoded token after a prompt of ``context`` tokens; enough of them that some carry tiles."""
    ids = torch.randint(0, 256, (1, context), generator=torch.Generator().manual_seed(0))
    cache = model(input_ids=ids, use_cache=True).past_key_values
    start = time.perf_counter()
    for _ in range(tokens):
        cache = model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True).past_key_values
    return (time.perf_counter() - start) / tokens


def speed(width: int, layers: int, contexts: list[int]) -> dict[str, list[float]]:
    """Tokens per second at each context; fresh weights, which do not change the work."""
    size = max(contexts) + 128
    exact = build(width, layers, size).eval()
    shape = {"n_embd": width, "n_layer": layers, "n_head": max(1, width // 64), "n_inner": 2 * width}
    gpt2 = GPT2LMHeadModel(
        GPT2Config(vocab_size=258, n_positions=size, bos_token_id=256, eos_token_id=256, **shape)
    ).eval()
    rows: dict[str, Callable[[int], float]] = {
        "Hyena, exact online": lambda n: seconds_per_token(exact, n),
        "Hyena, distilled to order 16": lambda n, model=distill(exact, 16).model: seconds_per_token(model, n),
        "GPT-2, key-value cache": lambda n: seconds_per_token(gpt2, n),
    }
    measured: dict[str, list[list[float]]] = {name: [[] for _ in contexts] for name in rows}
    for _ in range(3):  # interleaved, so that other load on the machine meets all alike
        for column, context in enumerate(contexts):
            for name, run in rows.items():
                measured[name][column].append(1 / run(context))
    return {name: [statistics.median(values) for values in columns] for name, columns in measured.items()}


def plot(path: Path, contexts: list[int], rates: dict[str, list[float]]) -> None:
    """Tokens per second against the context."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, values in rates.items():
        axes.loglog(contexts, values, marker="o", label=name)
    axes.set(xlabel="context, tokens", ylabel="tokens per second, one sequence")
    axes.legend()
    figure.savefig(path)


def report(results: dict[str, Any]) -> str:
    """The results as a Markdown page."""
    minutes = {name: f"{seconds / 60:.1f} min" for name, seconds in results["seconds"].items()}
    lines = ["# A byte-level Hyena and its distillations", ""]
    lines += [f"Training: {results['steps']} steps, {minutes['training']}; everything: {minutes['all']}.", ""]
    lines += [
        "| filters | states | bits per byte | perplexity | KL predicted | KL measured |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in results["models"].items():
        shown = ["-" if value is None else f"{value:.4g}" for value in (row["predicted_kl"], row["measured_kl"])]
        quality = f"{row['bits_per_byte']:.4f} | {row['perplexity']:.4f}"
        lines.append(f"| {name} | {row['states']} | {quality} | {shown[0]} | {shown[1]} |")
    lines += ["", f"KL of the budget over that of equal orders: {results['budget_over_equal_orders']:.2f}."]
    agreed, asked = results["same_tokens"]
    lines += ["", f"Exact online generation and recomputation agree on {agreed} of {asked} greedy tokens.", ""]
    lines += ["| tokens per second at context |" + "".join(f" {n} |" for n in results["contexts"])]
    lines += ["|---|" + "---|" * len(results["contexts"])]
    lines += [f"| {n} |" + "".join(f" {v:.1f} |" for v in vs) for n, vs in results["tokens_per_second"].items()]
    return "\n".join([*lines, "", f"torch {torch.__version__}, {torch.get_num_threads()} threads.", ""])


def main(
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 3000,
    length: Annotated[int, typer.Option(help="Bytes per window, and the reach of the filters.")] = 512,
    batch_size: Annotated[int, typer.Option(help="Windows per step.")] = 8,
    width: Annotated[int, typer.Option(help="d_model.")] = 128,
    layers: Annotated[int, typer.Option(help="Blocks.")] = 3,
    longest: Annotated[int, typer.Option(help="Longest context that decoding is timed at.")] = 8192,
    characters: Annotated[int, typer.Option(help="How much text.")] = 5_000_000,
    new_tokens: Annotated[int, typer.Option(help="Tokens that both exact modes must agree on.")] = 512,
    out: Annotated[Path, typer.Option(help="Folder of everything written.")] = Path("outputs/hyena"),
) -> dict[str, Any]:
    """Train, distil, compare, generate, time."""
    begun = time.perf_counter()
    set_seed(0)
    tokenizer = byte_tokenizer()
    tokens = torch.tensor(tokenizer(standard_library(characters))["input_ids"])
    rows = tokens[: len(tokens) // length * length].view(-1, length)
    held_out = rows[-16:]
    model = build(width, layers, length)
    start = time.perf_counter()
    train(model, rows[:-16], steps, batch_size, out)
    training = time.perf_counter() - start
    model.save_pretrained(out / "exact")
    tokenizer.save_pretrained(out / "exact")
    made = distillations(model, held_out, [4, 16, 64])
    equal, budget = "order 16", "budget of 16 a channel"
    entries = {"exact": {"states": "-", "predicted_kl": None, "measured_kl": None, "model": model}}
    for name, distilled in made.items():
        folder = out / name.replace(" ", "-").replace(",", "")
        save_distilled(distilled, folder, tokenizer=tokenizer)
        states = sum(int(c.order.sum()) for c in distilled.certificates.values())
        loaded = AutoModelForCausalLM.from_pretrained(folder)
        kl = {"predicted_kl": distilled.predicted_kl, "measured_kl": distilled.measured_kl}
        entries[name] = {"states": states, "model": loaded, **kl}
    for entry in entries.values():
        nats = loss(entry.pop("model"), held_out)
        entry |= {"bits_per_byte": nats / math.log(2), "perplexity": math.exp(nats)}
    contexts = [n for n in (256, 512, 1024, 2048, 4096, 8192, 16384) if n <= longest]
    count = min(new_tokens, length)
    results: dict[str, Any] = {
        "steps": steps,
        "models": entries,
        "budget_over_equal_orders": made[budget].measured_kl / made[equal].measured_kl,
        "same_tokens": [same_tokens(model, rows[0][None, : length // 4], count), count],
        "contexts": contexts,
        "tokens_per_second": speed(width, layers, contexts),
    }
    results["seconds"] = {"training": training, "all": time.perf_counter() - begun}
    results |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (out / "report.md").write_text(report(results))
    plot(out / "speed.png", contexts, results["tokens_per_second"])
    print(report(results))
    return results


if __name__ == "__main__":
    typer.run(main)
