"""Image models on backbones with feature maps: the model itself, a backbone for other models, a classifier."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_outputs import (
    BackboneOutput,
    BaseModelOutputWithPooling,
    ImageClassifierOutputWithNoAttention,
)

from seqconv_kernels._core.errors import argument_error

from ...layers.norms import LayerNorm
from ...vision.backbones.backbone import add_cell_logits
from ..arguments.checks import require_tensor
from ..base import SeqConvPreTrainedModel
from .configuration import SeqConvVisionConfig
from .nested_names import keep_own_names

WITHOUT_EFFECT = ("output_attentions", "interpolate_pos_encoding")
"""Arguments of transformers' image models: there are no attention maps, and positions are always interpolated."""


class SeqConvVisionPreTrainedModel(SeqConvPreTrainedModel):
    """Base of the image models; checkpoints of each are read by the others, with a fresh head."""

    config_class = SeqConvVisionConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = "image"
    _no_split_modules = ["Block", "Block2d"]  # noqa: RUF012  (transformers declares it so)

    def get_input_embeddings(self) -> nn.Module:
        """The module that makes the first map of the images: the embedding of patches, or the stem."""
        inner: Any = self._modules.get("backbone")
        if inner is not None:
            return cast(nn.Module, inner.get_input_embeddings())
        model: Any = self.model
        return cast(nn.Module, model.patch_embedding if hasattr(model, "patch_embedding") else model.stem)

    def _check_call(self, pixel_values: Tensor | None, arguments: dict[str, Any]) -> Tensor:
        """The images, in the dtype of the backbone, as transformers' ViT takes them.

        Raises:
            ValueError: no images, no tensor, unknown arguments.
        """
        unknown = {name for name, value in arguments.items() if name not in WITHOUT_EFFECT and value is not None}
        if unknown or pixel_values is None:
            got = f"the arguments {', '.join(sorted(unknown))}" if unknown else "no pixel_values"
            wanted = "pixel_values (batch, num_channels, height, width)"
            raise argument_error(type(self).__name__, got, wanted, "pass what the image processor returns")
        require_tensor(type(self).__name__, "pixel_values", pixel_values)
        return pixel_values.to(self.dtype)


class SeqConvVisionModel(SeqConvVisionPreTrainedModel):
    """Features of images, without a head."""

    def __init__(self, config: SeqConvVisionConfig) -> None:
        super().__init__(config)
        self.model = make_image_backbone(config)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling | tuple[Any, ...]:
        """``last_hidden_state`` (batch, d_model, rows, columns), the last map; ``pooler_output`` (batch, d_model).

        ``hidden_states`` are the maps of ``config.out_features``, in the same layout.
        """
        images = self._check_call(pixel_values, kwargs)
        maps, _, pooled = self.model(images, pooled=True)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        hidden = channels_first(maps)
        output = BaseModelOutputWithPooling(
            last_hidden_state=hidden[-1], pooler_output=pooled, hidden_states=hidden if wanted else None
        )
        return output if self._wants_dict(return_dict) else output.to_tuple()


class SeqConvBackbone(BackboneMixin, SeqConvVisionPreTrainedModel):
    """A backbone for transformers' models of other tasks (``AutoBackbone``): the normed maps of ``out_features``."""

    has_attentions = False
    _keys_to_ignore_on_load_missing = [r"norms\."]  # noqa: RUF012  (checkpoints of classifiers have one norm alone)

    def __init__(self, config: SeqConvVisionConfig) -> None:
        super().__init__(config)
        self.model = make_image_backbone(config)
        self.num_features = self._stage_widths()
        with torch.device("meta"):
            # The last stage is normed by the backbone's own norm.
            found, last = zip(self.model.out_indices, self.model.dims, strict=True), self.model.num_stages - 1
            self.norms = nn.ModuleDict({self.stage_names[i]: LayerNorm(dim) for i, dim in found if i != last})
        keep_own_names(self)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BackboneOutput | tuple[Any, ...]:
        """``feature_maps``, (batch, width, rows, columns) for each of ``out_features``, normed over their channels.

        ``hidden_states`` are the same without norms.
        """
        maps = self.model(self._check_call(pixel_values, kwargs))
        normed = [
            self.norms[name](x) if name in self.norms else self.model.norm(x)
            for name, x in zip(self.out_features, maps, strict=True)
        ]
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        hidden_states = channels_first(maps) if wanted else None
        output = BackboneOutput(feature_maps=cast(Any, channels_first(normed)), hidden_states=hidden_states)
        return output if self._wants_dict(return_dict) else output.to_tuple()

    def _stage_widths(self) -> list[int]:
        """The width of every stage; those that are not returned count as the last."""
        widths = dict(zip(self.model.out_indices, self.model.dims, strict=True))
        return [widths.get(index, self.model.dims[-1]) for index in range(self.model.num_stages)]


class SeqConvVisionForImageClassification(SeqConvVisionPreTrainedModel):
    """A classifier of images: a linear layer on the pooled features, and one on cells for some published models."""

    accepts_loss_kwargs = False

    def __init__(self, config: SeqConvVisionConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.backbone = SeqConvVisionModel(config)
        with torch.device("meta"):
            self.dropout = nn.Dropout(config.classifier_dropout)
            backbone, classes = self.backbone.model, cast(int, config.num_labels)
            self.classifier = nn.Linear(backbone.d_model, classes)
            self.cell_classifier = nn.Linear(backbone.d_cell, classes) if config.reads_cells else None
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutputWithNoAttention | tuple[Any, ...]:
        """Logits (batch, num_labels); ``labels`` as in transformers' image classifiers, they add ``loss``."""
        images = self._check_call(pixel_values, kwargs)
        found = self.backbone(images, output_hidden_states=output_hidden_states, return_dict=True)
        logits = self.classifier(self.dropout(found.pooler_output))
        if self.cell_classifier is not None:
            last = found.last_hidden_state.movedim(1, -1)
            logits = add_cell_logits(logits, self.cell_classifier(self.dropout(self.backbone.model.norm(last))))
        loss = None
        if labels is not None:
            loss = self._loss(labels=labels, pooled_logits=logits, config=self.config)
        output = ImageClassifierOutputWithNoAttention(loss=loss, logits=logits, hidden_states=found.hidden_states)
        return output if self._wants_dict(return_dict) else output.to_tuple()


def make_image_backbone(config: SeqConvVisionConfig) -> Any:
    """The backbone of a configuration, on the meta device: ``post_init`` gives it values."""
    with torch.device("meta"):
        backbone = config.build_backbone()
    for module in backbone.modules():
        module.__dict__["_part_of_backbone"] = True
    return backbone


def channels_first(maps: list[Tensor]) -> tuple[Tensor, ...]:
    """(batch, rows, columns, width) to (batch, width, rows, columns)."""
    return tuple(x.movedim(-1, 1) for x in maps)
