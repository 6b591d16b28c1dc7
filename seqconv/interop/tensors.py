"""The tensors of a checkpoint, whole or in shards, safetensors or pickles read with ``weights_only=True``.

An index of shards may name files below its own folder alone. Next to tensors a pickle may hold bytes that a module
stores under ``_extra_state``; they come as a tensor of bytes, which a reader ignores by name or takes for left over.
"""

import io
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from .files import LAYERS, WEIGHT_FILES, Source, damage_named, damaged, read_json

T = TypeVar("T")

EXTRA_STATE = "_extra_state"
"""Last part of the names of what modules store next to their tensors, by torch.nn."""
WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
"""What torch.compile, activation checkpointing and FSDP put into the names of the modules that they wrap."""


def read_tensors(
    source: Source, *, variant: str | None = None, use_safetensors: bool | None = None
) -> dict[str, Tensor]:
    """The tensors of a checkpoint, in one file or in shards, by their names without those of wrappers.

    Args:
        variant: as in ``from_pretrained``: ``"fp16"`` reads ``model.fp16.safetensors``.
        use_safetensors: read only safetensors files (``True``) or only pickled ones (``False``).

    Raises:
        ValueError: a missing or damaged file, a pickle that holds more than tensors, an index that names files outside
            of its folder.
    """
    names = candidates(variant, use_safetensors)
    path = Path(source.name) if source.is_file else next(filter(None, map(source.find, names)), None)
    if path is None and variant is None and not use_safetensors:
        path = source.pickled_weights()
    if path is None:
        wanted = f"a folder with config.json and one of {', '.join(names)}"
        raise argument_error("load_checkpoint", f"{source.name!r} without weights", wanted, LAYERS)
    tensors = unwrapped(_read_shards(source, path) if path.suffix == ".json" else read_file(path))
    _check_dtypes(path, tensors)
    return tensors


def is_wide(tensor: Tensor) -> bool:
    """Whether a tensor holds (real or complex) floating-point numbers of at least 16 bits."""
    return tensor.is_complex() or (tensor.is_floating_point() and tensor.element_size() > 1)


def _check_dtypes(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if name.endswith(EXTRA_STATE):
            continue
        if not tensor.is_floating_point() or not is_wide(tensor):
            got = f"{name} of dtype {tensor.dtype} in {str(path)!r}"
            remedy = "take the checkpoint in float32, float16 or bfloat16"
            raise argument_error("load_checkpoint", got, "floating-point numbers of at least 16 bits", remedy)


def check_index(path: Path) -> list[str]:
    """The shards that an index names, each once.

    Raises:
        ValueError: a damaged index, or one that names files outside of its folder.
    """
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise damaged(path, "no weight_map from names of tensors to names of files")
    if not weight_map:
        raise damaged(path, "an empty weight_map")
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if not _is_below(shard):
            remedy = "do not trust this checkpoint: no tool writes such an index"
            raise argument_error(
                "load_checkpoint",
                f"the file {shard!r} in {str(path)!r}",
                "files of the checkpoint's own folder",
                remedy,
            )
    return shards


def _is_below(name: str) -> bool:
    """Whether a path stays inside of the folder that it is relative to, on every operating system."""
    return "\0" not in name and all(
        not path.is_absolute() and not path.drive and not path.root and ".." not in path.parts and path.parts
        for path in (PurePosixPath(name), PureWindowsPath(name))
    )


def _read_shards(source: Source, index: Path) -> dict[str, Tensor]:
    weight_map = read_json(index)
    tensors: dict[str, Tensor] = {}
    for shard in check_index(index):
        path = source.find(shard)
        if path is None:
            raise damaged(index, f"the shard {shard} is missing")
        part = read_file(path)
        if twice := sorted(tensors.keys() & part.keys()):
            raise damaged(path, f"{twice[0]} is in another shard too")
        tensors |= part
    if missing := sorted(weight_map["weight_map"].keys() - tensors.keys()):
        raise damaged(index, f"no shard holds {missing[0]}")
    return tensors


def read_file(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors of one file, safetensors or pickled, under their names in it.

    Raises:
        ValueError: a damaged file, or one that holds more than tensors.
    """
    with damage_named(path):
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([io.BytesIO]):
            tensors = torch.load(path, map_location=device, weights_only=True)
    if isinstance(tensors, Mapping):
        tensors = {name: _bytes_of(t) if str(name).endswith(EXTRA_STATE) else t for name, t in tensors.items()}
    if not isinstance(tensors, Mapping) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise damaged(path, f"a {type(tensors).__name__} that is no mapping from names to tensors")
    return dict(tensors)


def _bytes_of(state: Any) -> Any:
    """What a module stores next to its tensors, as a tensor where it is bytes or nothing."""
    if state is None or isinstance(state, io.BytesIO):
        return torch.tensor(list(b"" if state is None else state.getvalue()), dtype=torch.uint8)
    return state


def unwrapped(tensors: Mapping[str, T]) -> dict[str, T]:
    """Names without what wrappers put into them, DistributedDataParallel's ``module.`` in front of all included."""
    found = dict(tensors)
    for wrapper in WRAPPERS:
        found = {name.replace(wrapper, ""): t for name, t in found.items()}
    while found and all(name.startswith("module.") for name in found):
        found = {name.removeprefix("module."): t for name, t in found.items()}
    return found


def is_wrapped(tensors: Mapping[str, object]) -> bool:
    """Whether :func:`unwrapped` would change a name."""
    return list(unwrapped(tensors)) != list(tensors)


def candidates(variant: str | None, use_safetensors: bool | None) -> list[str]:
    """Names of files that may hold the weights or an index of them, the preferred first."""
    names = [n for n in WEIGHT_FILES if use_safetensors is None or ("safetensors" in n) == use_safetensors]
    return [_with_variant(name, variant) for name in names]


def _with_variant(name: str, variant: str | None) -> str:
    stem, extension = name.rsplit(".", 1)
    return name if variant is None else f"{stem}.{variant}.{extension}"
