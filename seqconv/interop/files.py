"""The files of a checkpoint: a folder, or a repository of the hub, to its configuration and tensors.

Files are found by transformers' ``cached_file``, so that caches, revisions, tokens and offline mode work as there.
Everything that is read comes from someone else: pickles are read with ``weights_only=True``, an index of shards may
name files below its own folder alone, and whatever is damaged is one ``ValueError`` that names the file.
"""

import json
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
"""Keyword arguments of ``from_pretrained`` that say where and how files are fetched."""

T = TypeVar("T")

WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
"""What torch.compile, activation checkpointing and FSDP put into the names of the modules that they wrap."""

DAMAGE = (
    SafetensorError,
    EOFError,
    KeyError,
    MemoryError,
    OSError,
    OverflowError,
    RecursionError,
    RuntimeError,
    TypeError,
    IndexError,
    zipfile.BadZipFile,
)

LAYERS = "download the checkpoint into one folder; give the state dict of a single layer to from_original"
"""What to do where there is no whole checkpoint."""


@dataclass(frozen=True)
class Source:
    """Where a checkpoint is.

    Attributes:
        name: a folder, a single ``.pth`` file, or ``owner/repository`` on the hub.
        hub: those of :data:`HUB_OPTIONS` that were given.
    """

    name: str
    hub: Mapping[str, Any]

    @property
    def is_file(self) -> bool:
        """Whether the checkpoint is a single file of tensors."""
        return self.name.endswith(".pth") and os.path.isfile(self.name)

    def find(self, file: str) -> Path | None:
        """The path of a file, fetched if need be; ``None`` if the checkpoint has none of that name.

        Raises:
            ValueError: the hub has no such repository or revision, or cannot be reached.
        """
        if self.is_file:
            return None
        from transformers.utils.hub import cached_file

        try:
            found = cached_file(self.name, file, _raise_exceptions_for_missing_entries=False, **self.hub)
        except (OSError, ValueError) as error:
            raise self._unreachable(str(error)) from error
        return None if found is None else Path(found)

    def configuration(self) -> dict[str, Any] | None:
        """What ``config.json`` says; ``None`` if there is no such file.

        Raises:
            ValueError: as :meth:`find`; or a damaged file.
        """
        if not os.path.isdir(self.name) and (os.path.isabs(self.name) or self.name.count("/") != 1):
            raise self._unreachable("no such folder")
        path = self.find("config.json")
        if path is None and not os.path.isdir(self.name):
            raise self._unreachable("no config.json in the cache, and none could be fetched")
        return None if path is None else read_json(path)

    def _unreachable(self, why: str) -> ValueError:
        return argument_error(
            "load_checkpoint",
            f"{self.name!r} ({' '.join(why.split())})",
            "a folder, or a repository of the hub that is in the cache or within reach",
            "correct the name, connect to the network or pass token=, or download the repository into a folder",
        )


def read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file; infinite numbers as transformers writes them.

    Raises:
        ValueError: a damaged file, or one that holds something else.
    """
    with damage_named(path):
        value = json.loads(path.read_bytes(), object_hook=_number)
    if not isinstance(value, dict):
        raise damaged(path, f"{type(value).__name__} instead of an object")
    return value


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
    for name in names:
        path = Path(source.name) if source.is_file else source.find(name)
        if path is not None:
            tensors = unwrapped(_read_shards(source, path) if path.suffix == ".json" else read_file(path))
            _check_dtypes(path, tensors)
            return tensors
    wanted = f"a folder with config.json and one of {', '.join(names)}"
    raise argument_error("load_checkpoint", f"{source.name!r} without weights", wanted, LAYERS)


def is_wide(tensor: Tensor) -> bool:
    """Whether a tensor holds (real or complex) floating-point numbers of at least 16 bits."""
    return tensor.is_complex() or (tensor.is_floating_point() and tensor.element_size() > 1)


def _check_dtypes(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
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
        tensors = torch.load(path, map_location=device, weights_only=True)
    if not isinstance(tensors, Mapping) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise damaged(path, f"a {type(tensors).__name__} that is no mapping from names to tensors")
    return dict(tensors)


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


def _number(value: dict[str, Any]) -> Any:
    return float(value["__float__"]) if set(value) == {"__float__"} else value


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Raise whatever a damaged file raises as a ``ValueError`` that names the file."""
    try:
        yield
    except pickle.UnpicklingError as error:
        got = f"a pickled file {str(path)!r} that holds more than tensors"
        remedy = "do not trust this file; ask for the checkpoint as safetensors"
        raise argument_error("load_checkpoint", got, "tensors alone: pickled code is never run", remedy) from error
    except (*DAMAGE, ValueError) as error:
        raise damaged(path, " ".join(str(error).split())) from error


def damaged(path: Path, why: str) -> ValueError:
    """The error of a damaged file."""
    got = f"a damaged file in {str(path.parent)!r}, {path.name} ({why})"
    return argument_error("load_checkpoint", got, "whole files", "copy or download the checkpoint again")
