"""Quality of distilled language models against the exact one, and the report of examples/hyena_distillation.py."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from seqconv import SeqConvForCausalLM
from seqconv.distill import DistilledModel, distill
from seqconv.distill.fitting.sensitivity import measured_divergence
from seqconv.distill.task import Method

CLOSE = 0.002
"""Share by which the perplexity of a distilled model may exceed the exact one's to be chosen."""

PROMPTS = 8
"""Texts that both models continue until they part."""


@torch.no_grad()
def loss(model: torch.nn.Module, rows: Tensor) -> float:
    """Mean cross-entropy of the next byte, in nats."""
    return statistics.fmean(float(model(input_ids=row, labels=row).loss) for row in rows.split(4))


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


def table(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The lines of a Markdown table of :func:`evaluated`."""
    names = ("states", "bits per byte", "perplexity", "KL predicted", "KL", "same most likely byte", "texts part after")
    lines = [f"| filters | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for name, row in models.items():
        keys = ("predicted_kl", "kl", "agreement", "parting")
        shown = ["-" if row[key] is None else f"{row[key]:.4g}" for key in keys]
        quality = f"{row['bits_per_byte']:.4f} | {row['perplexity']:.4f}"
        lines.append(f"| {name} | {row['states']} | {quality} | {' | '.join(shown)} |")
    return lines


def report(results: dict[str, Any]) -> str:
    """The results as a Markdown page."""
    minutes = {name: f"{seconds / 60:.1f} min" for name, seconds in results["seconds"].items()}
    lines = ["# A byte-level Hyena and its distillations", ""]
    lines += [f"Training: {results['steps']} steps, {minutes['training']}; everything: {minutes['all']}.", ""]
    lines += table(results["models"])
    if ready := results.get("distillable"):
        share = f"the penalty (weight {ready['weight']:g}) fell to {ready['penalty']:.3g}"
        lines += ["", f"Trained for distillability: {ready['steps']} further steps, in which {share}.", ""]
        lines += table(ready["models"])
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
