"""The files of a checkpoint: a folder, a file or a repository of the hub, to its configuration and its weights.

Files are found by transformers' ``cached_file``, so that caches, revisions, tokens and offline mode work as there.
Everything that is read comes from someone else: whatever is damaged is one ``ValueError`` that names the file.
"""

import json
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from seqconv_kernels._core.errors import argument_error

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
PTH = "RWKV-LM"
"""Kind of the checkpoints that are a single ``.pth`` file, without a configuration."""
SINGLE = (".pth", ".pt", ".safetensors")
"""Suffixes of checkpoints that are one file, the last two with a configuration next to it."""
YAML = (".yml", ".yaml")
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
"""Keyword arguments of ``from_pretrained`` that say where and how files are fetched."""

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
    yaml.YAMLError,
    zipfile.BadZipFile,
)

LAYERS = "download the checkpoint into one folder; give the state dict of a single layer to from_original"
"""What to do where there is no whole checkpoint."""


@dataclass(frozen=True)
class Source:
    """Where a checkpoint is.

    Attributes:
        name: a folder, a single file of weights, or ``owner/repository`` on the hub.
        hub: those of :data:`HUB_OPTIONS` that were given.
    """

    name: str
    hub: Mapping[str, Any]

    @property
    def is_file(self) -> bool:
        """Whether the checkpoint is a single file of tensors."""
        return self.name.endswith(SINGLE) and os.path.isfile(self.name)

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
        """What ``config.json`` says, or the only YAML file; ``None`` if there is no such file.

        Raises:
            ValueError: as :meth:`find`; several YAML files, or a damaged file.
        """
        if self.is_file:
            return self._configuration_of_file()
        if not os.path.isdir(self.name) and (os.path.isabs(self.name) or self.name.count("/") != 1):
            raise self._unreachable("no such folder")
        path = self.find("config.json")
        if path is None and not os.path.isdir(self.name):
            raise self._unreachable("no config.json in the cache, and none could be fetched")
        pickled = os.path.isdir(self.name) and all(self.find(file) is None for file in WEIGHT_FILES)
        if path is None or pickled:  # the config.json next to a single .pt file need not be that of the weights
            path = _only_yaml(Path(self.name)) or path
        return None if path is None else read_mapping(path)

    def pickled_weights(self) -> Path | None:
        """The pickled state dict of a folder or repository, ``NAME.pt`` for ``owner/NAME`` on the hub.

        Raises:
            ValueError: it is in parts.
        """
        if not os.path.isdir(self.name):
            return self.find(f"{self.name.rpartition('/')[2]}.pt")
        found = sorted(Path(self.name).glob("*.pt"))
        if not found and (parts := sorted(Path(self.name).glob("*.pt.part*"))):
            whole = parts[0].name.rpartition(".part")[0]
            remedy = f"join them: cat {whole}.part* > {whole}, in the order of their numbers"
            raise argument_error("load_checkpoint", f"weights in parts, {parts[0].name} …", "one file", remedy)
        return found[0] if len(found) == 1 else None

    def _configuration_of_file(self) -> dict[str, Any] | None:
        """That of the same name, or else the folder's."""
        path = Path(self.name)
        if path.suffix == ".pth":
            return {"model_type": PTH}
        named = [path.with_suffix(suffix) for suffix in (*YAML, ".json") if path.with_suffix(suffix).is_file()]
        found = named[0] if named else _only_yaml(path.parent)
        found = path.with_name("config.json") if found is None and path.with_name("config.json").is_file() else found
        return None if found is None else read_mapping(found)

    def _unreachable(self, why: str) -> ValueError:
        return argument_error(
            "load_checkpoint",
            f"{self.name!r} ({' '.join(why.split())})",
            "a folder, or a repository of the hub that is in the cache or within reach",
            "correct the name, connect to the network or pass token=, or download the repository into a folder",
        )


def _only_yaml(folder: Path) -> Path | None:
    """The YAML file of a folder.

    Raises:
        ValueError: there are several.
    """
    found = sorted(path for path in folder.glob("*") if path.suffix in YAML) if folder.is_dir() else []
    if len(found) > 1:
        got, wanted = f"{', '.join(path.name for path in found)} in {str(folder)!r}", "one configuration"
        raise argument_error("load_checkpoint", got, wanted, "leave only that of these weights in the folder")
    return found[0] if found else None


def read_mapping(path: Path) -> dict[str, Any]:
    """An object of a JSON file, or a mapping of names in a YAML file.

    Raises:
        ValueError: a damaged file, or one that holds something else.
    """
    if path.suffix not in YAML:
        return read_json(path)
    with damage_named(path):
        value = yaml.safe_load(path.read_bytes())
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise damaged(path, "no mapping of names")
    return value


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
