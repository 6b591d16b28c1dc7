"""A checkpoint of seqconv before transformers reads it: whole files that belong to their configuration.

Only headers are read, so that nothing is loaded or built for a folder that can not be served.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import torch

from seqconv_kernels._core.errors import argument_error

from .files import HUB_OPTIONS, LAYERS, WEIGHT_FILES, Source
from .headers import Header, read_headers
from .tensors import is_wrapped, read_tensors, unwrapped

BLOCK = re.compile(r"(?:^|\.)backbone\.blocks\.(\d+)\.")
REMEDY = (
    "check that config.json belongs to these weights and that all files were copied; save the model again with "
    "save_pretrained if it does not"
)


def check_own(place: Source, config: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    """Raise for what no seqconv model can be loaded from; whether names of tensors carry those of wrappers.

    Args:
        place: where the checkpoint is; only folders are checked, the hub's files are as transformers finds them.
        config: what ``config.json`` says.
        options: keyword arguments of ``from_pretrained``.

    Raises:
        ValueError: missing or damaged files, an index that names files outside of its folder, a configuration of other
            sizes than the weights have.
    """
    _check_configuration(place, config)
    if not os.path.isdir(place.name):
        return False
    headers = read_headers(place, variant=options.get("variant"), use_safetensors=options.get("use_safetensors"))
    if headers is None:
        if place.find("adapter_config.json") is not None:
            return False
        wanted = f"a folder with config.json and one of {', '.join(WEIGHT_FILES)}"
        raise argument_error("from_pretrained", f"{place.name!r} without weights", wanted, LAYERS)
    _check_sizes(unwrapped(headers), {**config, **options})
    if options.get("quantization_config") is None and config.get("quantization_config") is None:
        _check_dtypes(headers, config.get("int8_layers"))
    return is_wrapped(headers)


def read_wrapped(place: Source, config: Mapping[str, Any], options: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """Keyword arguments of ``from_pretrained`` with the tensors under the names of the model that was wrapped."""
    tensors = read_tensors(place, variant=options.get("variant"), use_safetensors=options.get("use_safetensors"))
    of_config = {k: v for k, v in options.items() if k not in ("dtype", "torch_dtype") and hasattr(kind, k)}
    gone = (*of_config, *HUB_OPTIONS, "variant", "use_safetensors")
    rest = {name: value for name, value in options.items() if name not in gone}
    return {**rest, "config": kind.from_dict(dict(config), **of_config), "state_dict": tensors}


def _check_configuration(place: Source, config: Mapping[str, Any]) -> None:
    """Raise for what transformers would trip over before the configuration's own checks see it."""
    dtype = config.get("dtype", config.get("torch_dtype"))
    known = isinstance(getattr(torch, dtype, None), torch.dtype) if isinstance(dtype, str) else dtype is None
    labels, count = config.get("id2label"), config.get("num_labels")
    names = config.get("architectures")
    checks = {
        "dtype": (dtype, known, "the name of a dtype of torch"),
        "architectures": (names, names is None or _are_strings(names), "a list of class names"),
        "id2label": (labels, labels is None or isinstance(labels, Mapping), "names by numbers"),
        "num_labels": (count, count is None or (type(count) is int and count >= 0), "a number of labels"),
    }
    for name, (value, holds, wanted) in checks.items():
        if not holds:
            got = f"{name}={value!r} in config.json of {place.name!r}"
            raise argument_error("from_pretrained", got, wanted, f"correct {name}")


def _are_strings(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _check_sizes(headers: Mapping[str, Header], config: Mapping[str, Any]) -> None:
    """Raise where the configuration asks for more blocks or another width than the weights have."""
    found = {int(match[1]) for name in headers if (match := BLOCK.search(name))}
    asked, width = config.get("num_hidden_layers"), config.get("hidden_size")
    if found and type(asked) is int and asked > max(found) + 1:
        got = f"a checkpoint without model.backbone.blocks.{max(found) + 1} for num_hidden_layers={asked}"
        raise argument_error("from_pretrained", got, "its own tensors alone", REMEDY)
    for name, header in headers.items():
        shape = header.shape
        if name.endswith("embed_tokens.weight") and type(width) is int and shape[1:] != (width,):
            got = f"a checkpoint with {name} of shape {shape}, not {(*shape[:1], width)}"
            raise argument_error("from_pretrained", got, "its own tensors alone", REMEDY)


def _check_dtypes(headers: Mapping[str, Header], int8_layers: object) -> None:
    """Raise for tensors of integers or of 8-bit numbers, which would be cast silently.

    Single integers are counters; int8 weights are what the configuration names.
    """
    layers = tuple(int8_layers) if isinstance(int8_layers, Mapping) else ()
    narrow = {f"{name}.weight_int8" for name in layers}
    for name, header in headers.items():
        expected = header.dtype == "I8" and (name in narrow or name.partition(".")[2] in narrow)
        if header.shape and not header.wide and not expected:
            got = f"a checkpoint with {name} of dtype {header.dtype}"
            wanted = "floating-point numbers of at least 16 bits"
            raise argument_error("from_pretrained", got, wanted, "save the model in float32, float16 or bfloat16")
