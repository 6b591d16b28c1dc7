"""Train a byte-level Hyena language model, distil it, and compare its ways of writing.

python examples/hyena_distillation.py --out outputs/hyena

Trains on the Python standard library. Three other parts of the text follow. On the first, distillation is calibrated,
at several orders and within a state budget; on the second, the fewest states within 0.2 % of the exact perplexity are
chosen; all figures reported are of the third: perplexity, divergence, how often the most likely byte is the same, and
after how many bytes greedy texts part. Order 8 is also trained on after the fit, and methods are compared at equal
order. Then it checks that exact online generation and recomputation write the same tokens, and times decoding at
growing contexts against GPT-2 of the same size with its key-value cache. Writes checkpoints, results.json, report.md,
speed.png.
"""

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer
from torch import Tensor
from train_causal_lm import Windows, standard_library
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from seqconv import SeqConvConfig, SeqConvForCausalLM, parameter_groups
from seqconv.distill import DistilledModel, distill, fine_tune
from seqconv.distill.checkpoint import save_distilled
from seqconv.distill.fitting.sensitivity import measured_divergence
from seqconv.distill.task import Method
from seqconv.hf.tokenizer import byte_tokenizer

CLOSE = 0.002
"""Share by which the perplexity of a distilled model may exceed the exact one's to be chosen."""

PROMPTS = 8
"""Texts that both models continue until they part."""

METHODS: tuple[Method, ...] = ("best", "kung-varpro", "balanced", "era", "aaa", "gradient")


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


def distillations(
    model: SeqConvForCausalLM, calibration: Tensor, orders: list[int], method: str
) -> dict[str, DistilledModel]:
    """Equal orders, a budget of the middle one, and an order after an exact head."""
    middle = orders[len(orders) // 2]
    channels = model.config.hidden_size * model.config.num_hidden_layers
    options: dict[str, Any] = {"calibration": calibration, "method": method}
    made = {f"order {d}": distill(model, d, **options) for d in orders}
    made[f"budget of {middle} a channel"] = distill(model, state_budget=middle * channels, **options)
    head = calibration.shape[1] // 8
    made[f"order {middle}, {head} exact taps"] = distill(model, middle, fir_head=head, **options)
    return made


def chosen(model: torch.nn.Module, made: dict[str, DistilledModel], choice: Tensor) -> str:
    """The fewest states whose perplexity on a part of its own is within a share of the exact model's; else the best."""
    exact = loss(model, choice)
    above = {name: loss(d.model, choice) - exact for name, d in made.items()}
    enough = [name for name, nats in above.items() if nats <= math.log(1 + CLOSE)]
    return min(enough, key=lambda name: made[name].states) if enough else min(above, key=lambda name: above[name])


@torch.no_grad()
def agreement(model: torch.nn.Module, other: torch.nn.Module, rows: Tensor) -> float:
    """Share of places where the most likely next byte is the same."""
    same = [(model(input_ids=r).logits.argmax(-1) == other(input_ids=r).logits.argmax(-1)) for r in rows.split(4)]
    return float(torch.cat(same).double().mean())


def parting(model: SeqConvForCausalLM, other: torch.nn.Module, prompts: Tensor, count: int) -> float:
    """Median over prompts of the greedy bytes before the texts of both models part; ``count`` if they do not."""
    settings: dict[str, Any] = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
    texts = [m.generate(prompts, **settings)[:, prompts.shape[1] :] for m in (model, cast(Any, other))]
    equal = (texts[0] == texts[1]).int().cumprod(dim=1).sum(1)
    return float(equal.double().quantile(0.5))


def evaluated(
    model: SeqConvForCausalLM, made: dict[str, DistilledModel], rows: Tensor, count: int
) -> dict[str, dict[str, Any]]:
    """Everything that is reported, of the exact model and of each distilled one, on a part of its own."""
    models: dict[str, torch.nn.Module] = {"exact": model} | {name: d.model for name, d in made.items()}
    entries: dict[str, dict[str, Any]] = {}
    for name, other in models.items():
        nats = loss(other, rows)
        entry = {"states": "-", "bits_per_byte": nats / math.log(2), "perplexity": math.exp(nats)}
        entry |= dict.fromkeys(("predicted_kl", "kl", "agreement", "parting"))
        if name in made:
            entry |= {"states": made[name].states, "predicted_kl": made[name].predicted_kl}
            entry |= {"kl": measured_divergence(model, other, rows), "agreement": agreement(model, other, rows)}
            entry["parting"] = parting(model, other, rows[:PROMPTS, : rows.shape[1] // 4], count)
        entries[name] = entry
    return entries


def by_method(model: SeqConvForCausalLM, rows: Tensor, order: int, methods: Sequence[Method]) -> dict[str, Any]:
    """Every method at equal order on the trained filters: proven error, squared error, divergence."""
    found: dict[str, Any] = {}
    for method in methods:
        begun = time.process_time()
        made = distill(model, order, method=method)
        seconds = time.process_time() - begun
        bounds = torch.cat([c.hinf_bound / c.norm_hinf for c in made.certificates.values()])
        squared = torch.cat([c.l2 / c.norm_l2 for c in made.certificates.values()])
        found[method] = {
            "hinf_bound": float(bounds.median()), "l2": float(squared.median()),
            "kl": measured_divergence(model, made.model, rows), "cpu_seconds": seconds,
        }  # fmt: skip
    return found


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
    names = ("states", "bits per byte", "perplexity", "KL predicted", "KL", "same most likely byte", "texts part after")
    lines += [f"| filters | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for name, row in results["models"].items():
        keys = ("predicted_kl", "kl", "agreement", "parting")
        shown = ["-" if row[key] is None else f"{row[key]:.4g}" for key in keys]
        quality = f"{row['bits_per_byte']:.4f} | {row['perplexity']:.4f}"
        lines.append(f"| {name} | {row['states']} | {quality} | {' | '.join(shown)} |")
    lines += ["", f"Chosen on a part of its own: {results['chosen']}.", ""]
    lines += ["| method, order 16 | H-infinity error, proven | l2 error | KL | CPU seconds |", "|---|---|---|---|---|"]
    lines += [
        f"| {name} | {row['hinf_bound']:.3g} | {row['l2']:.3g} | {row['kl']:.3g} | {row['cpu_seconds']:.1f} |"
        for name, row in results["methods"].items()
    ]
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
    tuning_steps: Annotated[int, typer.Option(help="Steps of training on after the fit.")] = 300,
    tuning_lr: Annotated[float, typer.Option(help="Learning rate of these steps, relative to each value.")] = 1e-3,
    method: Annotated[str, typer.Option(help="Of all distillations but those that are compared.")] = "best",
    methods: Annotated[str, typer.Option(help="Compared at order 16.")] = ",".join(METHODS),
    out: Annotated[Path, typer.Option(help="Folder of everything written.")] = Path("outputs/hyena"),
) -> dict[str, Any]:
    """Train, distil, compare, generate, time."""
    begun = time.perf_counter()
    set_seed(0)
    tokenizer = byte_tokenizer()
    tokens = torch.tensor(tokenizer(standard_library(characters))["input_ids"])
    rows = tokens[: len(tokens) // length * length].view(-1, length)
    training_rows, calibration, choice, held_out = rows[:-48], rows[-48:-32], rows[-32:-16], rows[-16:]
    model = build(width, layers, length)
    start = time.perf_counter()
    train(model, training_rows, steps, batch_size, out)
    training = time.perf_counter() - start
    model.save_pretrained(out / "exact")
    tokenizer.save_pretrained(out / "exact")
    made = distillations(model, calibration, [4, 8, 16, 64], method)
    order = torch.randperm(len(training_rows))[: tuning_steps * batch_size]
    batches = training_rows[order].split(batch_size)
    made["order 8, trained on"] = fine_tune(made["order 8"], model, batches, lr=tuning_lr)
    for name, distilled in made.items():
        save_distilled(distilled, out / name.replace(" ", "-").replace(",", ""), tokenizer=tokenizer)
    entries = evaluated(model, made, held_out, min(new_tokens, length))
    equal, budget = entries["order 16"]["kl"], entries["budget of 16 a channel"]["kl"]
    contexts = [n for n in (256, 512, 1024, 2048, 4096, 8192, 16384) if n <= longest]
    count = min(new_tokens, length)
    results: dict[str, Any] = {
        "steps": steps,
        "models": entries,
        "budget_over_equal_orders": budget / equal,
        "chosen": chosen(model, made, choice),
        "methods": by_method(model, held_out, 16, methods.split(",")),
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
