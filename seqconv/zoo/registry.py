"""Names of published models of images, videos and sound: ``create_model`` builds one, ``list_models`` shows them.

A variant is one function of options of its backbone, entered by ``@register_model``; a family of variants is one file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import wraps
from importlib import import_module
from inspect import signature
from typing import Any, TypeVar, get_type_hints

from seqconv_kernels._core.errors import argument_error, unknown_name

from ..vision.backbones.backbone import (
    ImageBackbone,
    ImageClassifier,
    SpectrogramClassifier,
    TokenLabelClassifier,
)
from ..vision.video.backbone import VideoBackbone, VideoClassifier
from ..vision.weight_decay import follow_training_code
from .sashimi import SASHIMI

FAMILIES = (
    "affnet",
    "attention.ecoformer",
    "attention.slab",
    "attention.slab_pvt",
    "attention.slab_stages",
    "attention.twins_pvt",
    "convnext_dcls",
    "gfnet",
    "hornet",
    "parcnetv2",
    "rmt",
    "sequencer",
    "spanet",
    "spectformer",
    "state_space.audio_mamba",
    "state_space.efficient_vmamba",
    "state_space.mobile_mamba",
    "state_space.msvmamba",
    "state_space.plain_mamba",
    "state_space.videomamba",
    "state_space.videomamba_images",
    "state_space.videomamba_tasks",
    "state_space.vim",
    "state_space.vmamba",
    "vig",
    "vision_lstm",
    "xcit",
)


@dataclass(frozen=True)
class ModelEntry:
    """A published model.

    Attributes:
        build: options of the backbone to the backbone.
        top1: published accuracy in percent: on ImageNet-1K without extra data, unless ``measure`` says otherwise;
            ``None`` where the source gives none, as the docstring of the variant says.
        millions: published number of parameters, in millions, with ``num_classes`` classes.
        source: where both are published.
        original: name of the importer that reads its checkpoints, see :func:`~seqconv.interop.from_original`.
        measure: what ``top1`` is.
        image_size: pixels a side of the images, or frames, that it is of.
        num_classes: of the published model.
        classifier: makes the classifier of a backbone and a number of classes.
    """

    build: Callable[..., ImageBackbone | VideoBackbone]
    top1: float | None
    millions: int | float
    source: str
    original: str
    measure: str = "top-1 on ImageNet-1K"
    image_size: int = 224
    num_classes: int = 1000
    classifier: Callable[[Any, int], ImageClassifier | VideoClassifier] = ImageClassifier

    @property
    def takes_images(self) -> bool:
        """Whether the model is one of images, or of spectrograms as images, and not of videos."""
        return self.classifier in (ImageClassifier, TokenLabelClassifier, SpectrogramClassifier)


BuilderT = TypeVar("BuilderT", bound=Callable[..., ImageBackbone | VideoBackbone])
_MODELS: dict[str, ModelEntry] = {}


def register_model(
    *, top1: float | None, millions: int | float, source: str, original: str, **other: Any
) -> Callable[[BuilderT], BuilderT]:
    """Decorator: enter a function that builds a backbone under the function's name; see :class:`ModelEntry`."""

    def enter(build: BuilderT) -> BuilderT:
        @wraps(build)
        def built(**options: Any) -> ImageBackbone | VideoBackbone:
            backbone = build(**options)
            follow_training_code(backbone, original)
            return backbone

        _MODELS[build.__name__] = ModelEntry(built, top1, millions, source, original, **other)
        return build

    return enter


def model_entry(name: str) -> ModelEntry:
    """The entry of a model.

    Raises:
        ValueError: an unknown name; the nearest are named.
    """
    models = _models()
    if name in SASHIMI:
        got, wanted = f"model {name!r}", "a model of images, videos or spectrograms"
        remedy = f"it writes waveforms: seqconv.to_transformers({name!r}) is its language model of samples"
        raise argument_error("create_model", got, wanted, remedy)
    if name not in models:
        raise unknown_name("create_model", "model", name, models)
    return models[name]


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models that match a shell pattern, sorted; :func:`~seqconv.zoo.sashimi.list_sashimi` has SaShiMi's.

    >>> list_models("vim_*")
    ['vim_base', 'vim_small', 'vim_small_plus', 'vim_tiny', 'vim_tiny_plus']
    """
    return sorted(name for name in _models() if fnmatch(name, pattern))


def create_model(
    name: str, num_classes: int | None = None, *, features_only: bool = False, **options: Any
) -> ImageClassifier | ImageBackbone | VideoClassifier | VideoBackbone:
    """Build a published model of images, videos or sound by name, freshly initialised.

    Args:
        name: one of :func:`list_models`.
        num_classes: logits; as many as the published model has by default, 0 for the pooled features.
        features_only: the backbone alone, which returns a feature map per stage.
        **options: of the backbone: ``drop_path``, ``in_channels``, ``gradient_checkpointing`` and those of
            :class:`~seqconv.vision.backbones.hierarchical.HierarchicalBackbone`,
            :class:`~seqconv.vision.backbones.plain.PlainBackbone` or
            :class:`~seqconv.vision.video.backbone.VideoBackbone` that the variant does not fix.

    Returns:
        A module of ``(batch, channels, height, width)`` images, of ``(batch, channels, frames, height, width)`` videos
        or, of audio models, of ``(batch, frames, bands)`` spectrograms.

    Raises:
        ValueError: unknown names or options (the nearest are named), options that the variant fixes, a number of
            classes that is no integer from 0.
    """
    entry = model_entry(name)
    num_classes = entry.num_classes if num_classes is None else num_classes
    if not isinstance(num_classes, int) or num_classes < 0:
        wanted = "an integer, 0 or more"
        raise argument_error("create_model", f"num_classes={num_classes!r}", wanted, "pass 0 for features")
    backbone = _build(name, entry, options)
    backbone.published = (name, options)
    if features_only:
        return backbone
    classifier = entry.classifier(backbone, num_classes)
    follow_training_code(classifier, entry.original)  # its own layers, too
    return classifier


def _build(name: str, entry: ModelEntry, options: dict[str, Any]) -> ImageBackbone | VideoBackbone:
    """The backbone; what Python says of options that it does not take is said as for all other options."""
    try:
        return entry.build(**options)
    except TypeError as error:
        option = next((option for option in options if f"'{option}'" in str(error)), None)
        if option is None:
            raise
        known = signature(get_type_hints(entry.build)["return"]).parameters
        if option not in known:
            raise unknown_name("create_model", "option", option, [*known]) from error
        wanted, remedy = f"an option that {name} leaves open", "leave it out, or build the backbone's class yourself"
        raise argument_error("create_model", f"{option}={options[option]!r}", wanted, remedy) from error


def _models() -> dict[str, ModelEntry]:
    for family in FAMILIES:
        import_module(f"{__package__}.{family}")
    return _MODELS
