"""From a published model to the same model for transformers: configuration, class and weights."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...vision.backbones.backbone import (
    ImageBackbone,
    ImageClassifier,
    SpectrogramClassifier,
    TokenLabelClassifier,
)
from ...vision.video.backbone import VideoClassifier
from ...zoo import create_model, model_entry
from ...zoo.sashimi import SASHIMI, sashimi_config
from ..configuration import SeqConvConfig
from .configuration import SeqConvVisionConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OWN_OPTIONS: Mapping[str, str] = {"drop_path": "drop_path", "in_channels": "num_channels", "out_indices": "out_indices"}
"""Options of a backbone that the configuration of images has itself, under which name."""


def to_transformers(model: nn.Module | str, name: str | None = None, **config: Any) -> "PreTrainedModel":
    """A published model for transformers, with its weights.

    Args:
        model: what :func:`~seqconv.zoo.create_model` or :func:`~seqconv.interop.from_original` returned, a classifier
            or a backbone, or a name, for fresh weights.
        name: of the published model; needed where ``create_model`` did not build the model.
        **config: options of the configuration: ``id2label``, ``classifier_dropout``, ``backbone_options``, ….

    Returns:
        ``SeqConvVisionForImageClassification``, or ``SeqConvVisionModel`` of a model without a classifier;
        ``SeqConvVisionForAudioClassification`` of a classifier of spectrograms, ``SeqConvForVideoClassification`` of
        one of videos, ``SeqConvForCausalLM`` of the name of a SaShiMi. Its ``config`` builds the same model through
        transformers' Auto classes. Weights are copied.

    Raises:
        ValueError: a model whose name is not known, one of another size than its name says, a backbone of videos.
    """
    if isinstance(model, str) and model in SASHIMI:
        from ..tasks.language import SeqConvForCausalLM

        made: PreTrainedModel = SeqConvForCausalLM(sashimi_config(model, **config))
        made.eval()
        return made
    if isinstance(model, str):
        labels = config.get("num_labels", len(config["id2label"]) if "id2label" in config else None)
        model = create_model(model, labels)
    backbone = model.backbone if isinstance(model, ImageClassifier | VideoClassifier) else model
    if isinstance(model, VideoClassifier) and model.num_classes:
        return _loaded(_video_model(model, config), _video_tensors(model))
    if not isinstance(backbone, ImageBackbone):
        wanted = "a classifier of videos, or a classifier or backbone of images"
        raise argument_error("to_transformers", f"a {type(model).__name__}", wanted, "pass what create_model returns")
    return _loaded(*_image_model(model, backbone, name, config))


def _image_model(
    model: nn.Module, backbone: ImageBackbone, name: str | None, config: Mapping[str, Any]
) -> tuple["PreTrainedModel", dict[str, Tensor]]:
    from .models import SeqConvVisionForImageClassification, SeqConvVisionModel
    from .sound import SeqConvVisionForAudioClassification

    published = backbone.published if name is None else (name, {})
    if published is None:
        wanted = "a model that create_model built, or its name"
        raise argument_error("to_transformers", "a model without a name", wanted, "pass name='vmamba_tiny' or the like")
    model_entry(published[0])
    own = {new: published[1][old] for old, new in OWN_OPTIONS.items() if old in published[1]}
    rest = {k: v for k, v in published[1].items() if k not in OWN_OPTIONS and k != "gradient_checkpointing"}
    own = {"num_channels": backbone.in_channels, **own, "backbone_options": rest or None}
    tensors = {f"backbone.model.{k}": v for k, v in backbone.state_dict().items()}
    if isinstance(model, ImageClassifier) and model.num_classes:
        tensors |= {f"classifier.{k}": v for k, v in model.head.state_dict().items()}
        if isinstance(model, TokenLabelClassifier) and model.cell_head is not None:
            tensors |= {f"cell_classifier.{k}": v for k, v in model.cell_head.state_dict().items()}
        made = SeqConvVisionConfig(backbone_name=published[0], **{**own, **_labels(model.num_classes, config)})
        sound = isinstance(model, SpectrogramClassifier)
        return (SeqConvVisionForAudioClassification if sound else SeqConvVisionForImageClassification)(made), tensors
    made = SeqConvVisionConfig(backbone_name=published[0], **{**own, **config})
    return SeqConvVisionModel(made), {k.removeprefix("backbone."): v for k, v in tensors.items()}


def _labels(classes: int, config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the configuration; as many labels as there are classes, if it names none."""
    return dict(config) if "id2label" in config or "num_labels" in config else {**config, "num_labels": classes}


def _video_model(model: VideoClassifier, config: Mapping[str, Any]) -> "PreTrainedModel":
    from ..tasks.classification import SeqConvForVideoClassification

    b = model.backbone
    own = {
        "modality": "video", "hidden_size": b.d_model, "num_hidden_layers": b.num_stages, "mixer": b.mixer,
        "mixer_options": b.mixer_options, "norm": b.norm_name, "image_size": b.image_size, "patch_size": b.patch_size,
        "num_frames": b.num_frames // b.tubelet_size * b.tubelet_size, "tubelet_size": b.tubelet_size,
        "num_channels": b.in_channels, "pooling": "cls",
        "cls_position": "first", "position_embedding": "learned",
    }  # fmt: skip
    return SeqConvForVideoClassification(SeqConvConfig(**{**own, **_labels(model.num_classes, config)}))


def _video_tensors(model: VideoClassifier) -> dict[str, Tensor]:
    """One table of positions, that of the class token first, for the sum of those of places and of times."""
    tensors = model.state_dict()
    table = tensors["backbone.position_embedding"] + tensors["backbone.time_embedding"][:, None, None]
    table = torch.cat([tensors["backbone.cls_position_embedding"][None], table.flatten(0, 2)])
    found = {
        "pooling.token.weight": tensors["backbone.cls_token"][None],
        "model.positions.table.weight": table,
        "model.embed_pixels.projection.weight": tensors["backbone.patch_embedding.weight"].flatten(1),
        "model.embed_pixels.projection.bias": tensors["backbone.patch_embedding.bias"],
    }
    found |= {f"classifier.output.{kind}": tensors[f"head.{kind}"] for kind in ("weight", "bias")}
    kept = ("backbone.blocks.", "backbone.norm.")
    return found | {f"model.{name}": tensor for name, tensor in tensors.items() if name.startswith(kept)}


def _loaded(made: "PreTrainedModel", tensors: Mapping[str, Tensor]) -> "PreTrainedModel":
    """The model with these weights, of their dtype, on their device, in evaluation mode."""
    like = next(t for t in tensors.values() if t.is_floating_point())
    module: nn.Module = made  # transformers types its own method otherwise
    module.to(like.device, like.dtype)
    try:
        made.load_state_dict(tensors)
    except RuntimeError as error:
        wanted, remedy = "tensors of the published sizes", "pass the name, options and number of classes of this model"
        raise argument_error("to_transformers", str(error), wanted, remedy) from error
    made.eval()
    return made
