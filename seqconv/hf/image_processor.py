"""What makes pixels of pictures: transformers' processors of ViT and of Segformer, set up for a model.

It resizes to the size that the model was made for, turns grey pictures into colours and normalises. A folder with a
model and a ``preprocessor_config.json`` is read by ``AutoImageProcessor``; a file that names no class is read by the
same one (``image_processor_type`` of the configurations).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from seqconv_kernels._core.errors import argument_error

from .configuration import SeqConvConfig
from .vision.configuration import GENERIC, SeqConvVisionConfig

if TYPE_CHECKING:
    from transformers import BaseImageProcessor

IMAGE_SIZE = 224
"""Pixels a side, for backbones that take any size, unless the caller says otherwise."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the colours of ImageNet's training pictures (transformers' IMAGENET_DEFAULT_MEAN and IMAGENET_DEFAULT_STD)."""


def image_processor(
    config: SeqConvConfig | SeqConvVisionConfig,
    *,
    image_size: int | Sequence[int] | None = None,
    segmentation: bool = False,
    **options: Any,
) -> "BaseImageProcessor":
    """The image processor for models of this configuration.

    Args:
        config: of a model of images in colour. ``image_size``, of itself or in its ``backbone_options``, is the default
            size; without one it is that of the published model, and 224 where there is none.
        image_size: pixels a side, or height and width.
        segmentation: also read maps of labels (``segmentation_maps=``) and resize logits to the images, as
            ``pipeline("image-segmentation")`` needs: Segformer's, with ``do_reduce_labels`` as an option.
        **options: further ones of transformers' class. ``image_mean`` and ``image_std`` are those of ImageNet unless
            given here.

    Returns:
        transformers' ViT or Segformer processor on Pillow, without torchvision; to be saved next to the model.

    Raises:
        ValueError: a model of other inputs than images of three channels.
    """
    from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    modality = config.modality if isinstance(config, SeqConvConfig) else "image"
    if modality not in ("image", None) or config.num_channels != 3:
        got = f"a configuration with num_channels={config.num_channels} of modality {modality!r}"
        raise argument_error("image_processor", got, "images of three channels", "make pixel_values yourself")
    size = _own_size(config) if image_size is None else image_size
    height, width = (size, size) if isinstance(size, int) else size
    given: dict[str, Any] = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD, "do_convert_rgb": True, **options}
    kind = SegformerImageProcessorPil if segmentation else ViTImageProcessorPil
    return cast("BaseImageProcessor", kind(size={"height": height, "width": width}, **given))


def _own_size(config: SeqConvConfig | SeqConvVisionConfig) -> int | Sequence[int]:
    if isinstance(config, SeqConvConfig):
        return config.image_size
    options = config.backbone_options or {}
    return cast("int | Sequence[int]", options["image_size"] if "image_size" in options else _published_size(config))


def _published_size(config: SeqConvVisionConfig) -> int:
    from ..zoo import model_entry

    return IMAGE_SIZE if config.backbone_name in GENERIC else model_entry(config.backbone_name).image_size
