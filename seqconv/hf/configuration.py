"""The configuration of every seqconv model: one flat, JSON-able list of options, checked when it is made."""

from collections.abc import Mapping
from dataclasses import fields
from inspect import signature
from typing import Any, ClassVar, no_type_check

from transformers import PreTrainedConfig

from seqconv_kernels._core.errors import argument_error, unknown_name

from ..blocks import Block
from ..build import parse_layer
from ..registry import check_mixer_options
from .adaptive.options import check_config
from .arguments.checks import MAIN_INPUT
from .option_values import (
    BOOLEANS,
    CHOICES,
    MAPPINGS,
    NAMES,
    POSITIVE,
    PROBABILITIES,
    are_counts,
    are_groups,
    are_sizes,
    are_token_ids,
    check_json,
    check_spelling,
    is_count,
    is_filled_list,
    is_number,
    require,
)
from .saving.remote import auto_map, write_module

_NO_OPTIONS = ("mixer", "d_model", "drop_path", "mask_mixer_inputs", "layer")
BLOCK_OPTIONS = tuple(n for n in signature(Block).parameters if n not in _NO_OPTIONS)


@no_type_check  # a run-time checker would read only the annotated fields; check() raises for wrong types
class SeqConvConfig(PreTrainedConfig):
    r"""Options of the backbone, of the embeddings of each modality, and of the heads.

    Args:
        vocab_size: tokens (text).
        hidden_size: width; also ``d_model``.
        num_hidden_layers: blocks; also ``n_layers``.
        mixer, mixer_options: the mixer of every layer, as :func:`seqconv.create_mixer`.
        layer_pattern: layers that differ, repeated to ``num_hidden_layers``; each a mixer name, ``[name, options]``,
            or a mapping with ``"mixer"``, ``"options"`` and options of :class:`seqconv.blocks.Block`. Instead of
            ``mixer``.
        bidirectional: every mixer depends on the whole sequence, unless its own options say otherwise.
        norm, norm_options, norm_placement, residual, residual_options, dropout, tie_dropout: as in
            :class:`seqconv.blocks.Block`.
        mlp, mlp_ratio, mlp_hidden, mlp_bias, mlp_dropout, mlp_options: as there.
        mlp_norm, mlp_norm_options, mlp_residual_options: as there.
        final_norm, final_norm_options, input_dropout, drop_path, drop_path_schedule: as in
            :func:`seqconv.build.build_backbone`.
        pool_sizes: factors by which the sequence is pooled between levels of ``num_hidden_layers`` layers each
            (SaShiMi, :class:`seqconv.audio.sashimi.Sashimi`), ``None`` for one stack; ``pool_expand`` the width of a
            level over that of the level around it, ``pool_unet`` layers and skip connections before pooling too.
        modality: ``"text"``, ``"image"``, ``"video"`` or ``"audio"``; ``None`` leaves it to the model class.
        position_embedding: ``"none"``, ``"learned"`` or ``"sinusoidal"``, added to the embeddings, for at most
            ``max_position_embeddings`` positions (images and videos: as many as there are patches).
        embedding_scale: multiplies token embeddings, those passed as ``inputs_embeds`` too (Gemma).
        logits_scale: multiplies the logits of the next token (Granite).
        logits_soft_cap: bounds the logits z of the next token, ``c tanh(z / c)``; ``None`` for no bound (Gemma).
        adaptive_cutoffs: ids at which the vocabulary, sorted by falling frequency, is cut into bands with narrower and
            narrower vectors and an adaptive softmax (:mod:`seqconv.hf.adaptive.layers`); ``None`` for one width. The
            logits of such a model are log-probabilities, and training with labels gives a loss alone.
        adaptive_options: as :class:`seqconv.hf.adaptive.options.AdaptiveOptions`.
        embedding_norm: a norm after the embeddings, ``norm`` with ``norm_options``.
        image_size, patch_size, num_channels: pixels a side, pixels of a patch a side, colours. ``patch_size=1`` reads
            an image pixel by pixel through a linear encoder.
        num_frames, tubelet_size: images of a video, and how many of them a patch spans.
        audio_input: ``"waveform"`` cuts ``(batch, samples)`` into frames of ``frame_size`` samples every
            ``frame_stride``; ``"features"`` takes ``(batch, frames, num_audio_features)``, computed every
            ``frame_stride`` samples; ``"spectrogram"`` takes the same in patches of ``patch_size`` frames and bands,
            ``patch_stride`` apart (by default next to each other).
        pooling: how a classifier sums up a sequence: ``"mean"``, ``"last"``, ``"first"``, ``"max"`` over the real
            tokens, or ``"cls"``: a learned token put at ``cls_position`` (``"first"``, ``"middle"``, ``"last"``).
        mask_padding: ``"everywhere"``; ``"pooling"``: mixers and norms see padding as tokens; ``"mixer_inputs"``: they
            do, but what enters mixers is zero at padding (S4 on the text tasks of LRA).
        classifier_hidden: width of a hidden layer of the classifier; ``None`` for a linear one.
        classifier_dropout: dropout before the classifier.
        ctc_loss_reduction, ctc_zero_infinity: as in transformers' Wav2Vec2: how the losses of a batch are reduced
            (``"sum"``, ``"mean"``, ``"none"``), and whether infinite ones (more labels than frames) count as 0.
        num_labels, problem_type, id2label, label2id: as in every transformers configuration.
        tie_word_embeddings: the language model head shares the token embeddings.
        modal_filters: modes, exact taps and exact channels (if any) of each distilled filter, by the name inside the
            backbone; written by :func:`seqconv.distill.distill`.
        int8_layers: group sizes, or ``None``, of the linear layers with int8 weights by their names inside
            ``SeqConvModel``, or, heads, inside the whole model; written where a model is saved after
            :func:`seqconv.quantize`.
        initializer_range: standard deviation of fresh token embeddings and heads. Mixers initialise themselves; maps of
            patches and frames keep the size of their inputs.
        use_cache: causal models return their state.
        training_data: what the weights were trained on, in words, for the model card.

    Raises:
        ValueError: unknown mixer, option or choice (the nearest are named), a wrong type, NaN, sizes below 1.
    """

    model_type = "seqconv"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "cache"]
    attribute_map: ClassVar[dict[str, str]] = {"d_model": "hidden_size", "n_layers": "num_hidden_layers"}

    vocab_size: int = 256
    hidden_size: int = 256
    num_hidden_layers: int = 6
    mixer: str = "s4d"
    mixer_options: dict[str, Any] | None = None
    layer_pattern: list[Any] | None = None
    bidirectional: bool = False
    norm: str = "layer"
    norm_options: dict[str, Any] | None = None
    norm_placement: str = "pre"
    residual: str = "sum"
    residual_options: dict[str, Any] | None = None
    mlp: str = "none"
    mlp_ratio: float = 4.0
    mlp_hidden: int | None = None
    mlp_bias: bool | None = None
    mlp_dropout: float = 0.0
    mlp_options: dict[str, Any] | None = None
    mlp_residual_options: dict[str, Any] | None = None
    mlp_norm: str | None = None
    mlp_norm_options: dict[str, Any] | None = None
    dropout: float = 0.0
    tie_dropout: bool = False
    input_dropout: float = 0.0
    drop_path: float = 0.0
    drop_path_schedule: str = "linear"
    final_norm: bool | None = None
    final_norm_options: dict[str, Any] | None = None
    pool_sizes: list[int] | None = None
    pool_expand: int = 2
    pool_unet: bool = False
    modality: str | None = None
    position_embedding: str = "none"
    max_position_embeddings: int = 2048
    embedding_scale: float = 1.0
    logits_scale: float = 1.0
    logits_soft_cap: float | None = None
    adaptive_cutoffs: list[int] | None = None
    adaptive_options: dict[str, Any] | None = None
    embedding_norm: bool = False
    image_size: int = 32
    patch_size: int = 4
    patch_stride: int | None = None
    num_channels: int = 3
    num_frames: int = 16
    tubelet_size: int = 2
    audio_input: str = "waveform"
    frame_size: int = 400
    frame_stride: int = 160
    num_audio_features: int = 80
    pooling: str = "mean"
    cls_position: str = "last"
    mask_padding: str = "everywhere"
    classifier_hidden: int | None = None
    classifier_dropout: float = 0.0
    ctc_loss_reduction: str = "sum"
    ctc_zero_infinity: bool = False
    modal_filters: dict[str, list[Any]] | None = None
    int8_layers: dict[str, int | None] | None = None
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    use_cache: bool = True
    training_data: str | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        for alias, name in self.attribute_map.items():
            if alias in kwargs:
                setattr(self, name, kwargs.pop(alias))
        check_spelling(kwargs, {f.name for f in fields(type(self))} | set(self.attribute_map))
        super().__post_init__(**kwargs)
        saved = getattr(self, "auto_map", None) or {}  # classes of others stay named
        self.auto_map = {**auto_map("SeqConvConfig"), **saved}
        self.check()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; the configuration of another kind of model raises.

        Raises:
            ValueError: another ``model_type``.
        """
        kind = config_dict.get("model_type", cls.model_type)
        if kind != cls.model_type:
            remedy = "load it with transformers' AutoModel classes, or pass a seqconv checkpoint"
            raise argument_error("SeqConvConfig", f"model_type {kind!r}", f"{cls.model_type!r}", remedy)
        return super().from_dict(config_dict, **kwargs)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As in transformers; the file of code that ``auto_map`` names is written too."""
        write_module(save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """As in transformers; seqconv's own class is named by every configuration, so that nothing is copied."""
        super().register_for_auto_class(auto_class)
        if cls.__module__.startswith("seqconv."):
            cls._auto_class = None

    def check(self) -> None:
        """Raise for options that no model can be built from; called when the configuration and when a model is made.

        Raises:
            ValueError: see the class.
        """
        check_json(self)
        for name in POSITIVE:
            require(name, getattr(self, name), is_count, "an integer of at least 1")
        for name in ("mlp_hidden", "classifier_hidden", "patch_stride"):
            require(name, getattr(self, name), lambda v: v is None or is_count(v), "None or at least 1")
        for name in PROBABILITIES:
            require(name, getattr(self, name), lambda v: is_number(v) and 0 <= v < 1, "a probability in [0, 1)")
        require("logits_soft_cap", self.logits_soft_cap, lambda v: v is None or (is_number(v) and v > 0), "above 0")
        for name in ("mlp_ratio", "initializer_range", "embedding_scale", "logits_scale"):
            require(name, getattr(self, name), lambda v: is_number(v) and v > 0, "a number above 0")
            setattr(self, name, float(getattr(self, name)))
        for name in BOOLEANS:
            require(name, getattr(self, name), lambda v: isinstance(v, bool), "True or False")
        require("mlp_bias", self.mlp_bias, lambda v: v is None or isinstance(v, bool), "None, True or False")
        for name in NAMES:
            require(name, getattr(self, name), lambda v: isinstance(v, str), "a name")
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            require(name, getattr(self, name), are_token_ids, "a token id, or None")
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in known and not (name == "modality" and value is None):
                raise unknown_name("SeqConvConfig", name, str(value), known)
        require("pool_sizes", self.pool_sizes, lambda v: v is None or are_counts(v), "None, or integers of at least 1")
        require("int8_layers", self.int8_layers, are_groups, "None, or names with a group size of at least 1 or None")
        require("modal_filters", self.modal_filters, are_sizes, "None, or names with [modes, taps] of at least 1")
        if self.audio_input == "spectrogram":
            require("patch_size", self.patch_size, lambda v: v <= self.num_audio_features, "at most num_audio_features")
        elif self.image_size % self.patch_size:
            got = f"image_size={self.image_size} and patch_size={self.patch_size}"
            raise argument_error("SeqConvConfig", got, "a patch size that divides the image size", "change one of them")
        if self.modality == "video" and self.num_frames % self.tubelet_size:
            got = f"num_frames={self.num_frames} and tubelet_size={self.tubelet_size}"
            raise argument_error("SeqConvConfig", got, "a tubelet size that divides the frames", "change one of them")
        self._check_layers()
        check_config(self)

    @property
    def layers(self) -> list[Any]:
        """The layer pattern, with ``mixer`` as the only layer if there is none."""
        if self.layer_pattern is not None:
            return list(self.layer_pattern)
        return [[self.mixer, self.mixer_options or {}]]

    @property
    def block_options(self) -> dict[str, Any]:
        """What every block takes over from this configuration."""
        return {name: getattr(self, name) for name in BLOCK_OPTIONS}

    @property
    def main_input_name(self) -> str:
        """The argument that models of this configuration read."""
        features = self.modality == "audio" and self.audio_input != "waveform"
        return "input_features" if features else MAIN_INPUT[self.modality or "text"]

    @property
    def image_processor_type(self) -> str | None:
        """What ``AutoImageProcessor`` builds from a ``preprocessor_config.json`` that names no class."""
        return "ViTImageProcessor" if self.modality == "image" else None

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples from one frame of sound to the next, by which pipelines count time."""
        return int(self.frame_stride)

    @property
    def num_patches(self) -> int:
        """Tokens of an image or a video."""
        times = self.num_frames // self.tubelet_size if self.modality == "video" else 1
        return int(times * (self.image_size // self.patch_size) ** 2)

    def _check_layers(self) -> None:
        for name in MAPPINGS:
            require(name, getattr(self, name), lambda v: v is None or isinstance(v, Mapping), "a mapping or None")
        if self.layer_pattern is not None and self.mixer_options:
            got = "a layer_pattern and mixer_options"
            raise argument_error("SeqConvConfig", got, "one of them", "write the options into the pattern")
        if self.layer_pattern is not None:
            require("layer_pattern", self.layer_pattern, is_filled_list, "a list of layers")
        for layer in self.layers:
            mixer, options, _ = parse_layer(layer)
            if mixer != "none":
                check_mixer_options(mixer, options)
