"""The configuration of image models: a published model by name, or a backbone of any 2-D mixer or sequence mixer."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar, cast, no_type_check

from transformers import PreTrainedConfig
from transformers.backbone_utils import BackboneConfigMixin

from seqconv_kernels._core.errors import argument_error, unknown_name

from ..option_values import are_groups, check_json, is_count, is_number, require
from ..saving.remote import auto_map, write_module

GENERIC = ("hierarchical", "plain", "plain_2d")
"""Names of the classes of backbones, which any mixer can be given to."""

PLAIN_MAPS = 4
"""Maps of a plain backbone whose ``out_indices`` are not given, at even distances; the last block is one of them."""


@no_type_check  # a run-time checker would read only the annotated fields; check() raises for wrong types
class SeqConvVisionConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""Options of image models.

    Args:
        backbone_name: a published model, one of :func:`seqconv.list_models`, or ``"hierarchical"``, ``"plain"`` or
            ``"plain_2d"``.
        backbone_options: options of the backbone; for these three all of those of
            :class:`~seqconv.vision.backbones.hierarchical.HierarchicalBackbone`,
            :class:`~seqconv.vision.backbones.plain.PlainBackbone` and
            :class:`~seqconv.vision.backbones.plain_2d.PlainBackbone2d`, ``mixer`` among them.
        num_channels: channels of the images.
        drop_path: rate of the last block; it rises evenly from 0 at the first.
        out_features, out_indices: stages (of a plain backbone: blocks) whose maps are returned, by name (``"stage1"``,
            …) or counted from 0, or backwards from -1; if neither is given, all stages, or four blocks at even
            distances.
        decoder_hidden_size: width of the head of semantic segmentation.
        classifier_dropout: dropout in front of the classifier.
        semantic_loss_ignore_index: label of pixels without a class.
        num_labels, problem_type, id2label, label2id: as in every transformers configuration.
        initializer_range: standard deviation of the weights of fresh heads.
        int8_layers: as in :class:`~seqconv.hf.configuration.SeqConvConfig`.
        training_data: what the weights were trained on, in words, for the model card.

    Raises:
        ValueError: an unknown model or option (the nearest are named), wrong types, stages that do not exist.
    """

    model_type = "seqconv_vision"
    main_input_name: ClassVar[str] = "pixel_values"
    image_processor_type: ClassVar[str] = "ViTImageProcessor"
    """What ``AutoImageProcessor`` builds from a ``preprocessor_config.json`` that names no class."""

    backbone_name: str = "vmamba_tiny"
    backbone_options: dict[str, Any] | None = None
    num_channels: int = 3
    drop_path: float = 0.0
    decoder_hidden_size: int = 256
    classifier_dropout: float = 0.0
    semantic_loss_ignore_index: int = 255
    initializer_range: float = 0.02
    int8_layers: dict[str, int | None] | None = None
    training_data: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        chosen = kwargs.pop("out_features", None), kwargs.pop("out_indices", None)
        super().__post_init__(**kwargs)
        self.auto_map = {**auto_map("SeqConvVisionConfig"), **(getattr(self, "auto_map", None) or {})}
        self.check()
        stages, plain = self._stages()
        self.stage_names = [f"stage{index + 1}" for index in range(stages)]
        if chosen == (None, None):
            count = min(PLAIN_MAPS, stages) if plain else stages
            chosen = None, [stages * (index + 1) // count - 1 for index in range(count)]
        self.set_output_features_output_indices(*chosen)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As in transformers; the file of code that ``auto_map`` names is written too."""
        write_module(save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)

    def check(self) -> None:
        """Raise for options that no model can be built from.

        Raises:
            ValueError: see the class.
        """
        check_json(self)
        for name in ("num_channels", "decoder_hidden_size"):
            require(name, getattr(self, name), is_count, "an integer of at least 1")
        for name in ("drop_path", "classifier_dropout"):
            require(name, getattr(self, name), lambda v: is_number(v) and 0 <= v < 1, "a probability in [0, 1)")
        require("initializer_range", self.initializer_range, lambda v: is_number(v) and v > 0, "a number above 0")
        require("int8_layers", self.int8_layers, are_groups, "None, or names with a group size of at least 1 or None")
        options = self.backbone_options or {}
        for name in ("in_channels", "drop_path", "out_indices"):
            if name in options:
                own = "num_channels" if name == "in_channels" else name
                got, remedy = f"backbone_options with {name!r}", f"pass {own} to the configuration"
                raise argument_error("SeqConvVisionConfig", got, "the configuration's own option", remedy)

    @property
    def reads_cells(self) -> bool:
        """Whether a classifier of the published model adds the logits of single cells."""
        from ...vision.backbones.backbone import TokenLabelClassifier
        from ...zoo import model_entry

        return self.backbone_name not in GENERIC and model_entry(self.backbone_name).classifier is TokenLabelClassifier

    def build_backbone(self) -> Any:
        """A freshly initialised backbone that returns the feature maps of the configuration."""
        chosen = [index % len(self.stage_names) for index in cast(list[int], self.out_indices)]
        return build_backbone(self.backbone_name, {**self._backbone_options(), "out_indices": chosen})

    def _backbone_options(self) -> dict[str, Any]:
        own = {"in_channels": self.num_channels, "drop_path": self.drop_path}
        return {**own, **(self.backbone_options or {})}

    def _stages(self) -> tuple[int, bool]:
        """Stages or blocks, and whether the backbone is a plain one."""
        return _stages(self.backbone_name, json.dumps(self._backbone_options(), sort_keys=True))


def build_backbone(name: str, options: Mapping[str, Any]) -> Any:
    """A backbone by the name of a published model, or of any mixer.

    Raises:
        ValueError: unknown names and options (the nearest are named).
    """
    from ...vision.backbones.hierarchical import HierarchicalBackbone
    from ...vision.backbones.plain import PlainBackbone
    from ...vision.backbones.plain_2d import PlainBackbone2d
    from ...zoo import list_models, model_entry

    if name not in GENERIC:
        images = [known for known in list_models() if model_entry(known).takes_images]
        if name in list_models() and name not in images:
            got, remedy = f"backbone_name={name!r}", "build it by create_model, or take seqconv.to_transformers"
            raise argument_error("SeqConvVisionConfig", got, "a model of images", remedy)
        if name not in images:
            raise unknown_name("SeqConvVisionConfig", "backbone_name", name, [*GENERIC, *images])
        return model_entry(name).build(**options)
    require("backbone_options", options, lambda o: isinstance(o.get("mixer"), str), "options with a 'mixer'")
    kinds: Any = {"hierarchical": HierarchicalBackbone, "plain": PlainBackbone, "plain_2d": PlainBackbone2d}
    return kinds[name](**options)


@lru_cache(64)
def _stages(name: str, options: str) -> tuple[int, bool]:
    import torch

    from ...vision.backbones.plain import PlainBackbone
    from ...vision.backbones.plain_2d import PlainBackbone2d

    with torch.device("meta"):
        backbone = build_backbone(name, json.loads(options))
    return backbone.num_stages, isinstance(backbone, PlainBackbone | PlainBackbone2d)
