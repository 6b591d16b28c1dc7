"""Arguments that a call may carry: those of the wrong modality, without effect, or unknown."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from .cache_argument import given_cache

MAIN_INPUT = {"text": "input_ids", "image": "pixel_values", "video": "pixel_values", "audio": "input_values"}
HOLDS = {
    "input_ids": (("text",), "token ids"),
    "pixel_values": (("image", "video"), "images"),
    "input_values": (("audio",), "sound"),
    "input_features": (("audio",), "features of sound"),
}
"""Inputs by name: the modalities that read them, and what they hold."""

READER = {
    "text": "pass what a tokenizer gives (input_ids)",
    "image": "pass what an image processor gives (pixel_values)",
    "video": "pass what a video processor gives (pixel_values)",
    "audio": "pass what a feature extractor gives (input_values or input_features)",
}

WITHOUT_EFFECT: Mapping[str, Callable[[Any], bool]] = {
    "num_items_in_batch": lambda value: True,  # read by the losses
    "cache_position": lambda value: True,  # the cache counts its tokens itself
    "return_loss": lambda value: True,  # losses are computed where labels are given
    "tokenizer": lambda value: True,  # generate hands its tokenizers on to the model
    "assistant_tokenizer": lambda value: True,
    "token_type_ids": lambda value: not may_read(value) or not bool(value.any()),
    "output_attentions": lambda value: not value,
    "interpolate_pos_encoding": lambda value: not value,
}
"""Arguments that trainers, collators and pipelines pass along, and for which values nothing is to be done."""

KNOWN = ("input_ids", "attention_mask", "inputs_embeds", "position_ids", "past_key_values", "labels", "use_cache")
PACKING = ("cu_seqlens", "cu_seq_lens_q", "cu_seq_lens_k", "seq_idx")


def check_arguments(model: str, arguments: Mapping[str, Any], modality: str | None) -> None:
    """Raise for arguments that a model does not know, or would have to do something about.

    Raises:
        ValueError: inputs of another modality, packed sequences, token types, attention weights, an unknown argument
            (the nearest are named).
    """
    modality = modality or "text"
    for name, value in arguments.items():
        if name in HOLDS and name != MAIN_INPUT[modality]:
            if value is not None:
                raise wrong_input(model, name, modality)
        elif name in KNOWN:
            wanted = "an argument that this model takes"
            remedy = "leave it out, or take the model class whose head uses it"
            raise argument_error(model, f"argument {name!r}", wanted, remedy)
        elif name in PACKING:
            if value is not None:
                remedy = "pass one sequence per row"
                raise argument_error(model, f"packed sequences ({name})", "one sequence per row", remedy)
        elif name not in WITHOUT_EFFECT:
            raise unknown_name(model, "argument", name, KNOWN)
        elif value is not None and not WITHOUT_EFFECT[name](value):
            remedy = f"leave {name} out: these models have no token types, attention weights or interpolated positions"
            raise argument_error(model, f"{name} that would change the result", "none", remedy)


def wrong_input(model: str, name: str, modality: str) -> ValueError:
    """The error for inputs of another modality, or in another form than ``config.audio_input`` says."""
    reads, holds = HOLDS[name]
    if modality in reads:
        wanted = "input_values: config.audio_input is 'waveform'"
        remedy = "pass waveforms, or set audio_input='features' in the configuration"
    else:
        wanted = f"{MAIN_INPUT[modality]} or inputs_embeds: config.modality is {modality!r}"
        remedy = f"{READER[modality]}; {name} holds {holds}: take a model whose configuration has modality={reads[0]!r}"
    return argument_error(model, name, wanted, remedy)


def state_arguments(model: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Take out and return what is said about a cache; one is read and updated where the caller passes it.

    Without one no state is made: ``use_cache`` alone changes nothing, since outputs of these tasks carry no cache.
    """
    cache = given_cache(model, arguments.pop("past_key_values", None), arguments)
    arguments.pop("use_cache", None)
    return {"past_key_values": cache, "use_cache": cache is not None}


def may_read(values: Tensor) -> bool:
    """Whether a check may read these values: not in a compiled graph, which would end there, nor without memory."""
    return not torch.compiler.is_compiling() and values.device.type != "meta"


def require_tensor(model: str, name: str, value: object) -> None:
    """Raise for what processors and tokenizers give where no tensors are asked of them.

    Raises:
        ValueError: lists, arrays, pictures.
    """
    if value is not None and not isinstance(value, Tensor):
        remedy = "ask the processor or tokenizer for tensors (return_tensors='pt')"
        remedy = "unpack what the processor returns: model(**inputs)" if isinstance(value, Mapping) else remedy
        raise argument_error(model, f"{name} of type {type(value).__name__}", "a torch.Tensor", remedy)


def boolean_mask(model: str, mask: Tensor) -> Bool[Tensor, "batch length"]:
    """The mask of a call, True at real tokens.

    Raises:
        ValueError: another rank, no tensor.
    """
    require_tensor(model, "attention_mask", mask)
    if mask.dim() != 2:
        remedy = "pass the tokenizer's attention_mask"
        raise argument_error(model, f"an attention_mask of rank {mask.dim()}", "(batch, length)", remedy)
    return mask.bool()


def check_ids(model: str, ids: Tensor, vocabulary: int) -> None:
    """Raise for what are not token ids; values are read where that costs no synchronisation.

    Raises:
        ValueError: another rank or dtype, ids outside the vocabulary.
    """
    if ids.dim() != 2 or ids.is_floating_point():
        got = f"input_ids of shape {tuple(ids.shape)} and dtype {ids.dtype}"
        raise argument_error(model, got, "integers of shape (batch, length)", "pass the tokenizer's output")
    if ids.device.type != "cpu" or ids.numel() == 0 or torch.compiler.is_compiling():
        return
    low, high = (int(v) for v in ids.aminmax())
    if low < 0 or high >= vocabulary:
        remedy = "use the tokenizer the model was trained with, or resize_token_embeddings"
        raise argument_error(model, f"token ids from {low} to {high}", f"ids from 0 to {vocabulary - 1}", remedy)
