"""From a recipe and its data to a model and its optimiser groups."""

from collections.abc import Mapping
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from seqconv import (
    SeqConvConfig,
    SeqConvForAudioClassification,
    SeqConvForCausalLM,
    SeqConvForImageClassification,
    SeqConvForSequenceClassification,
    SeqConvForTokenClassification,
)
from seqconv import parameter_groups as groups_of

from ..recipes.recipe import Recipe
from ..tasks import Kind, TaskData
from .autoencoder import AutoEncoder
from .pairs import PairClassifier
from .regression import SignalRegressor

MODELS: Mapping[Kind, type[PreTrainedModel]] = {
    "sequence": SeqConvForSequenceClassification,
    "token": SeqConvForTokenClassification,
    "image": SeqConvForImageClassification,
    "pair": PairClassifier,
    "compression": AutoEncoder,
    "signal": SignalRegressor,
    "recording": SeqConvForAudioClassification,
    "language": SeqConvForCausalLM,
}


def build_config(recipe: Recipe, data: TaskData) -> SeqConvConfig:
    """The configuration of a recipe's model for given data."""
    head: dict[str, Any] = {"num_labels": data.classes, "problem_type": "single_label_classification", **data.facts}
    if data.kind == "image":
        head = {"num_channels": 1} | head | {"patch_size": recipe.patch_size}
    kind = cast(type[SeqConvConfig], MODELS[data.kind].config_class)
    return kind(
        vocab_size=data.vocab_size,
        hidden_size=recipe.d_model,
        num_hidden_layers=recipe.n_layers,
        **_layers(recipe),
        norm=recipe.norm,
        norm_placement=recipe.norm_placement,
        mlp_ratio=recipe.mlp_ratio,
        dropout=recipe.dropout,
        tie_dropout=recipe.tie_dropout,
        input_dropout=recipe.input_dropout,
        mlp_dropout=recipe.mlp_dropout,
        position_embedding=recipe.position_embedding,
        max_position_embeddings=data.max_length,
        pooling=recipe.pooling,
        mask_padding=recipe.mask_padding,
        classifier_hidden=recipe.classifier_hidden or None,
        classifier_dropout=recipe.classifier_dropout,
        pad_token_id=data.pad_id,
        eos_token_id=data.eos_id,
        **head,
        **recipe.model_options,
    )


def _layers(recipe: Recipe) -> dict[str, Any]:
    """One mixer for all blocks, or a pattern of blocks of which only the last has a per-token network."""
    mixer, options = recipe.mixer, dict(recipe.mixer_options)
    if recipe.mlp_every == 1:
        return {"mixer": mixer, "mixer_options": options, "mlp": recipe.mlp}
    networks = ["none"] * (recipe.mlp_every - 1) + [recipe.mlp]
    return {"layer_pattern": [{"mixer": mixer, "options": options, "mlp": network} for network in networks]}


def build_model(recipe: Recipe, data: TaskData) -> PreTrainedModel:
    """The model of a recipe, freshly initialised, for what a label of the task belongs to."""
    return MODELS[data.kind](build_config(recipe, data))


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Optimiser groups: the rates that mixers set, at most ``special_lr``; the recipe's for all other parameters.

    With ``decay_all`` every parameter has the recipe's weight decay.
    """
    groups = groups_of(model, lr=recipe.lr, weight_decay=recipe.weight_decay)
    for group in groups:
        if group.get("lr", recipe.lr) != recipe.lr:
            group["lr"] = min(group["lr"], recipe.special_lr)
        if recipe.decay_all:
            group["weight_decay"] = recipe.weight_decay
    return groups
