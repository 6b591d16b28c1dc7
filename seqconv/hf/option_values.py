"""Checks of single options of the configuration: kinds of values, spelling, what a JSON file can hold."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, cast

from transformers import PreTrainedConfig

from seqconv_kernels._core.errors import argument_error, unknown_name

MODALITIES = ("text", "image", "video", "audio")
CHOICES: Mapping[str, Sequence[str]] = {
    "modality": MODALITIES,
    "norm_placement": ("pre", "post"),
    "pooling": ("mean", "last", "first", "max", "cls"),
    "cls_position": ("first", "middle", "last"),
    "mask_padding": ("everywhere", "mixer_inputs", "pooling"),
    "position_embedding": ("none", "learned", "sinusoidal"),
    "drop_path_schedule": ("linear", "constant"),
    "audio_input": ("waveform", "features", "spectrogram"),
    "ctc_loss_reduction": ("sum", "mean", "none"),
}
POSITIVE = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "image_size",
    "patch_size",
    "num_channels",
    "num_frames",
    "tubelet_size",
    "frame_size",
    "frame_stride",
    "num_audio_features",
    "max_position_embeddings",
    "pool_expand",
)
PROBABILITIES = ("dropout", "mlp_dropout", "input_dropout", "drop_path", "classifier_dropout")
BOOLEANS = (
    "bidirectional",
    "tie_dropout",
    "tie_word_embeddings",
    "use_cache",
    "embedding_norm",
    "ctc_zero_infinity",
    "pool_unet",
)
NAMES = ("mixer", "norm", "residual", "mlp")
MAPPINGS = ("mixer_options", "norm_options", "final_norm_options", "residual_options", "mlp_options",
            "mlp_residual_options", "mlp_norm_options", "adaptive_options")  # fmt: skip


def is_count(value: object) -> bool:
    """Whether it is an integer of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def are_counts(value: object) -> bool:
    """Whether it is a list or tuple of integers of at least 1, at least one."""
    return isinstance(value, list | tuple) and len(value) > 0 and all(is_count(item) for item in value)


def are_token_ids(value: object) -> bool:
    """Whether it is an integer, a list of them or ``None``."""
    ids = value if isinstance(value, list | tuple) else [value]
    return value is None or all(isinstance(i, int) and not isinstance(i, bool) for i in ids)


def is_number(value: object) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_filled_list(value: object) -> bool:
    """Whether it is a list or tuple with entries."""
    return isinstance(value, list | tuple) and len(value) > 0


def are_sizes(value: object) -> bool:
    """Whether it is ``None``, or a mapping to two counts and perhaps a list of channels."""
    if value is None:
        return True
    rows = value.values() if isinstance(value, Mapping) else [()]
    return all(isinstance(row, list | tuple) and _is_size(*row) for row in rows)


def _is_size(modes: object = None, taps: object = None, channels: object = (), *more: object) -> bool:
    counted = is_count(modes) and is_count(taps) and isinstance(channels, list | tuple)
    return counted and not more and all(isinstance(c, int) and c >= 0 for c in cast(Sequence[object], channels))


def are_groups(value: object) -> bool:
    """Whether it is ``None`` or a mapping of counts or ``None``."""
    sizes = () if value is None else value.values() if isinstance(value, Mapping) else (0,)
    return all(size is None or is_count(size) for size in sizes)


def require(name: str, value: Any, holds: Callable[[Any], bool], wanted: str) -> None:
    """Raise a ``ValueError`` that says what is ``wanted`` unless the value ``holds``."""
    if not holds(value):
        raise argument_error("SeqConvConfig", f"{name}={value!r}", wanted, f"correct {name}")


def check_spelling(extra: Mapping[str, Any], known: set[str]) -> None:
    """Transformers keeps unknown arguments as attributes; those that look like an option are mistakes."""
    for name in extra:
        if get_close_matches(name, known, n=1, cutoff=0.8) and not hasattr(PreTrainedConfig, name):
            raise unknown_name("SeqConvConfig", "option", name, known)


def check_json(config: Any) -> None:
    """Raise for what a file cannot hold; make options what they will be when read back (tuples become lists)."""
    for field in fields(config):
        if field.name in ("dtype", "id2label", "label2id"):
            continue
        value = getattr(config, field.name)
        try:
            written = json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            wanted = "numbers that are finite, strings, booleans, lists and mappings"
            raise argument_error("SeqConvConfig", f"{field.name}={value!r}", wanted, f"correct {field.name}") from error
        if isinstance(value, dict | list | tuple):
            setattr(config, field.name, json.loads(written))
