"""A training step of the ListOps S4D recipe (fewer layers, batch 16) against the same model in plain PyTorch.

Forward, backward and AdamW on 16 sequences of 2,048 random tokens, float32, with the recipe's optimiser groups. The
peer's weights are copied first, and logits and gradients must agree.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lra.models.build import build_config, parameter_groups
from lra.recipes.catalog import create_recipe
from lra.recipes.recipe import Recipe
from lra.tasks import TaskData
from seqconv import SeqConvForSequenceClassification

from .measure import check_close, interleaved
from .plain_s4d import PlainClassifier, PlainS4D

BATCH, LENGTH, LAYERS, TOKENS, CLASSES = 16, 2048, 4, 18, 10


def measure(seconds: float) -> list[dict[str, object]]:
    """One row for causal and one for bidirectional mixers: milliseconds of a step, and tokens per second."""
    rows: list[dict[str, object]] = []
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(TOKENS, (BATCH, LENGTH), generator=generator)
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)
    for bidirectional in (False, True):
        recipe = create_recipe("listops", "s4d").override(
            {"mixer.bidirectional": bidirectional, "n_layers": LAYERS, "batch_size": BATCH}
        )
        seqconv_model, plain = build(recipe)
        losses = {
            "seqconv": lambda seqconv_model=seqconv_model: seqconv_model(ids, torch.ones_like(ids), labels=labels).loss,  # type: ignore[misc]
            "plain PyTorch": lambda plain=plain: nn.functional.cross_entropy(plain(ids), labels),  # type: ignore[misc]
        }
        check(seqconv_model, plain, losses)
        models: dict[str, nn.Module] = {"seqconv": seqconv_model, "plain PyTorch": plain}
        steps = {name: step(model, losses[name], recipe) for name, model in models.items()}
        ms = interleaved(steps, seconds=seconds)
        shape = f"S4D recipe, {LAYERS} layers of {recipe.d_model}, batch {BATCH}, {LENGTH} tokens"
        shape += ", bidirectional" if bidirectional else ""
        rate = {name: round(1000 * BATCH * LENGTH / value) for name, value in ms.items()}
        rows.append({"shape": shape, "direction": "training step", "ms": ms, "tokens per s": rate})
    return rows


def build(recipe: Recipe) -> tuple[SeqConvForSequenceClassification, PlainClassifier]:
    """The recipe's model, and the plain one with its weights."""
    torch.manual_seed(0)
    data = TaskData({}, dict, "sequence", CLASSES, TOKENS, 0, 2, LENGTH, {}, "", "")
    seqconv_model = SeqConvForSequenceClassification(build_config(recipe, data)).train()
    pairs, bidirectional = recipe.mixer_options["d_state"] // 2, recipe.mixer_options["bidirectional"]
    plain = PlainClassifier(TOKENS, CLASSES, recipe.d_model, recipe.n_layers, pairs, bidirectional=bidirectional)
    copy_weights(seqconv_model, plain)
    return seqconv_model, plain


@torch.no_grad()
def copy_weights(seqconv_model: SeqConvForSequenceClassification, plain: PlainClassifier) -> None:
    """Give the plain model our weights; it has no B, which therefore goes into C."""
    plain.embedding.load_state_dict(seqconv_model.model.embed_tokens.state_dict())
    plain.classifier.load_state_dict(seqconv_model.classifier.output.state_dict())
    for block, layer, norm in zip(seqconv_model.model.backbone.layers, plain.layers, plain.norms, strict=True):
        norm.load_state_dict(block.mixer_norm.tokens.state_dict())
        _copy_layer(block.mixer, layer)


def _copy_layer(mixer: Any, layer: Any) -> None:
    assert isinstance(layer, PlainS4D)
    space = mixer.convolution.filter.state_space()
    values: dict[str, Tensor] = {
        "log_dt": space.dt[:, 0].log(),
        "log_decay": (-space.A.real).log(),
        "frequency": space.A.imag,
        "C": torch.view_as_real(space.C * space.B),
        "D": mixer.D[0],
        "output.weight": mixer.out_proj.weight[..., None],
        "output.bias": mixer.out_proj.bias,
    }
    layer.load_state_dict(values)


def check(
    seqconv_model: SeqConvForSequenceClassification, plain: PlainClassifier, losses: dict[str, Callable[[], Tensor]]
) -> None:
    """Stop unless the losses and the gradients of the embeddings and of the first time scales agree."""
    (block, *_), (layer, *_) = seqconv_model.model.backbone.layers, plain.layers
    seqconv_weights = [seqconv_model.model.embed_tokens.weight, block.mixer.convolution.filter.inv_dt]
    plain_weights = [plain.embedding.weight, layer.log_dt]
    got, want = losses["seqconv"](), losses["plain PyTorch"]()
    check_close("S4D classifier, loss", got.detach(), want.detach())
    pairs = zip(torch.autograd.grad(got, seqconv_weights), torch.autograd.grad(want, plain_weights), strict=True)
    for name, (a, b) in zip(("embeddings", "time scales"), pairs, strict=True):
        check_close(f"S4D classifier, gradients of the {name}", a.view(b.shape), b, tolerance=2e-3)


def step(model: nn.Module, loss: Callable[[], Tensor], recipe: Recipe) -> Callable[[], None]:
    """Forward, backward, optimiser."""
    groups = parameter_groups(model, recipe)
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2))

    def run() -> None:
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return run
