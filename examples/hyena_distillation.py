"""Train a byte-level Hyena language model, distil it, and compare its ways of writing.

python examples/hyena_distillation.py --out outputs/hyena

Trains on the Python standard library. Three other parts of the text follow. On the first, distillation is calibrated,
at several orders and within a state budget; on the second, the fewest states within 0.2 % of the exact perplexity are
chosen; all figures reported are of the third: perplexity, divergence, how often the most likely byte is the same, and
after how many bytes greedy texts part. Order 8 is also trained on after the fit, and methods are compared at equal
order. A copy of the model is trained for distillability and distilled to order 8; another is trained for as many steps
without the penalty, which shows what it costs. Then it checks that exact online generation and recomputation write the
same tokens, and times decoding at growing contexts against GPT-2 of the same size with its key-value cache. Writes
checkpoints, results.json, report.md, speed.png.
"""

import copy
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from distillation_quality import by_method, chosen, evaluated, report, same_tokens
from torch import Tensor
from train_causal_lm import Windows, standard_library
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments, set_seed

from seqconv import SeqConvConfig, SeqConvForCausalLM, parameter_groups
from seqconv.distill import DistilledModel, distill, fine_tune
from seqconv.distill.callback import RegularizerCallback
from seqconv.distill.checkpoint import save_distilled
from seqconv.distill.task import Method
from seqconv.hf.tokenizer import byte_tokenizer

ORDER = 8
"""Order that a model is trained to be distillable to."""

METHODS: tuple[Method, ...] = ("best", "kung-varpro", "balanced", "era", "aaa", "gradient")


def build(width: int, layers: int, context: int) -> SeqConvForCausalLM:
    """A Hyena language model that reads bytes."""
    options = {"l_max": context, "emb_dim": 33, "w": 10.0}
    config = SeqConvConfig(
        vocab_size=258, hidden_size=width, num_hidden_layers=layers, mixer="hyena", mixer_options=options, mlp="gelu",
        mlp_ratio=2.0, eos_token_id=256, pad_token_id=257,
    )  # fmt: skip
    return SeqConvForCausalLM(config)


def train(
    model: SeqConvForCausalLM, rows: Tensor, steps: int, batch_size: int, out: Path, *,
    lr: float = 3e-3, callbacks: Sequence[TrainerCallback] = (),
) -> SeqConvForCausalLM:  # fmt: skip
    """Train with transformers' Trainer."""
    arguments = TrainingArguments(
        str(out / "runs"), max_steps=steps, per_device_train_batch_size=batch_size, warmup_steps=max(1, steps // 10),
        lr_scheduler_type="cosine", logging_steps=max(1, steps // 20), save_strategy="no", report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=lr, weight_decay=0.05))
    text, schedule = Windows(rows.flatten(), rows.shape[1]), (optimizer, None)
    Trainer(model, arguments, train_dataset=text, optimizers=schedule, callbacks=list(callbacks)).train()
    return model.eval()


def trained_for_distillability(
    model: SeqConvForCausalLM, settings: dict[str, Any], fit: dict[str, Any], tuning: dict[str, Any],
    held_out: Tensor, count: int,
) -> tuple[dict[str, Any], DistilledModel]:  # fmt: skip
    """Train on with the penalty, distil to :data:`ORDER`, train the filters on; next to as many steps without it.

    Args:
        settings: of :func:`train`.
        fit: options of ``distill``.
        tuning: batches and learning rate of the steps after the fit.
    """
    steps, penalty = settings["steps"], RegularizerCallback(ORDER)
    without = train(copy.deepcopy(model), **settings)
    ready = train(copy.deepcopy(model), **settings, callbacks=[penalty])
    ready.save_pretrained(settings["out"] / "distillable")
    fitted = distill(ready, ORDER, **fit)
    tuned = fine_tune(fitted, ready, **tuning)
    before = {f"exact, {steps} steps without the penalty": evaluated(without, {}, held_out, count)["exact"]}
    after = evaluated(ready, {f"order {ORDER}": fitted, f"order {ORDER}, trained on": tuned}, held_out, count)
    after = {f"exact, {steps} steps with it" if name == "exact" else name: row for name, row in after.items()}
    return {"steps": steps, "weight": penalty.weight, "penalty": penalty.penalty, "models": before | after}, tuned


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


@torch.no_grad()
def seconds_per_token(model: Any, context: int, tokens: int = 128) -> float:
    """Mean time of a decoded token after a prompt of ``context`` tokens; enough of them that some carry tiles."""
    ids = torch.randint(0, 256, (1, context), generator=torch.Generator().manual_seed(0))
    cache = model(input_ids=ids, use_cache=True).past_key_values
    start = time.perf_counter()
    for _ in range(tokens):
        cache = model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True).past_key_values
    return (time.perf_counter() - start) / tokens


def speed(width: int, layers: int, contexts: list[int], method: str) -> dict[str, list[float]]:
    """Tokens per second at each context; fresh weights and the method of distillation do not change the work."""
    size = max(contexts) + 128
    exact = build(width, layers, size).eval()
    shape = {"n_embd": width, "n_layer": layers, "n_head": max(1, width // 64), "n_inner": 2 * width}
    gpt2 = GPT2LMHeadModel(
        GPT2Config(vocab_size=258, n_positions=size, bos_token_id=256, eos_token_id=256, **shape)
    ).eval()
    options: dict[str, Any] = {"method": method}
    distilled = distill(exact, 16, **options).model
    rows: dict[str, Callable[[int], float]] = {
        "Hyena, exact online": lambda n: seconds_per_token(exact, n),
        "Hyena, distilled to order 16": lambda n: seconds_per_token(distilled, n),
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


def parts_of(tokens: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Windows (rows, length) to train on, to calibrate on, to choose by and to report on."""
    rows = tokens[: len(tokens) // length * length].view(-1, length)
    return rows[:-48], rows[-48:-32], rows[-32:-16], rows[-16:]


def write(results: dict[str, Any], contexts: list[int], out: Path) -> None:
    """The results as JSON, as a report, which is also printed, and their speeds as a picture."""
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (out / "report.md").write_text(report(results))
    plot(out / "speed.png", contexts, results["tokens_per_second"])
    print(report(results))


def main(
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 3000,
    length: Annotated[int, typer.Option(help="Bytes per window, and the reach of the filters.")] = 512,
    batch_size: Annotated[int, typer.Option(help="Windows per step.")] = 8,
    width: Annotated[int, typer.Option(help="d_model.")] = 128,
    layers: Annotated[int, typer.Option(help="Blocks.")] = 3,
    longest: Annotated[int, typer.Option(help="Longest context that decoding is timed at.")] = 8192,
    characters: Annotated[int, typer.Option(help="How much text.")] = 5_000_000,
    new_tokens: Annotated[int, typer.Option(help="Tokens that both exact modes must agree on.")] = 512,
    distillable: Annotated[int, typer.Option(help="Steps of training for distillability; 0 leaves it out.")] = 300,
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
    training_rows, calibration, choice, held_out = parts_of(tokens, length)
    model = build(width, layers, length)
    start = time.perf_counter()
    train(model, training_rows, steps, batch_size, out)
    training = time.perf_counter() - start
    model.save_pretrained(out / "exact")
    tokenizer.save_pretrained(out / "exact")
    made = distillations(model, calibration, [4, 8, 16, 64], method)
    order = torch.randperm(len(training_rows))[: tuning_steps * batch_size]
    batches = training_rows[order].split(batch_size)
    tuning: dict[str, Any] = {"batches": batches, "lr": tuning_lr}
    made["order 8, trained on"] = fine_tune(made["order 8"], model, **tuning)
    for name, distilled in made.items():
        save_distilled(distilled, out / name.replace(" ", "-").replace(",", ""), tokenizer=tokenizer)
    count = min(new_tokens, length)
    entries = evaluated(model, made, held_out, count)
    equal, budget = entries["order 16"]["kl"], entries["budget of 16 a channel"]["kl"]
    contexts = [n for n in (256, 512, 1024, 2048, 4096, 8192, 16384) if n <= longest]
    results: dict[str, Any] = {
        "steps": steps,
        "models": entries,
        "budget_over_equal_orders": budget / equal,
        "chosen": chosen(model, made, choice),
        "methods": by_method(model, held_out, 16, methods.split(",")),
        "same_tokens": [same_tokens(model, training_rows[0][None, : length // 4], count), count],
        "contexts": contexts,
        "tokens_per_second": speed(width, layers, contexts, method),
    }
    if distillable:
        settings: dict[str, Any] = {"rows": training_rows, "steps": distillable, "batch_size": batch_size, "out": out}
        fit = {"calibration": calibration, "method": method}
        results["distillable"], tuned = trained_for_distillability(
            model, settings | {"lr": 1e-3}, fit, tuning, held_out, count
        )
        save_distilled(tuned, out / "distillable-order-8", tokenizer=tokenizer)
    results["seconds"] = {"training": training, "all": time.perf_counter() - begun}
    results |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    write(results, contexts, out)
    return results


if __name__ == "__main__":
    typer.run(main)
