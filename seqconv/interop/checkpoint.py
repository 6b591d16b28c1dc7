"""Whole checkpoints of other projects as models of ours: a folder with a configuration and weights.

Each kind of checkpoint has a reader: from the configuration and the tensors to the options of a ``SeqConvConfig``
and our state dict, by differentiable operations.
"""

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from .importer import Weights, load_importers

if TYPE_CHECKING:
    from ..hf import SeqConvForCausalLM

Reader = Callable[[Mapping[str, Any], Weights], tuple[dict[str, Any], dict[str, Tensor]]]
"""From their configuration and tensors to options of ``SeqConvConfig`` and tensors of ``SeqConvForCausalLM``."""

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_READERS: dict[str, Reader] = {}


def add_checkpoint(kind: str, read: Reader) -> None:
    """Enter the reader of a kind of checkpoint: its ``model_type``, or a name for those without one."""
    _READERS[kind] = read


def list_checkpoints() -> list[str]:
    """Kinds of checkpoints that :func:`load_checkpoint` reads."""
    load_importers()
    return sorted(_READERS)


def load_checkpoint(folder: str | Path) -> "SeqConvForCausalLM":
    """A causal language model of another project as one of ours, in evaluation mode and in the dtype of its weights.

    Args:
        folder: holds ``config.json`` and ``model.safetensors`` (or its shards) or ``pytorch_model.bin``, as
            transformers, mamba_ssm and flash-linear-attention write them.

    Raises:
        ValueError: a missing or damaged file, a pickle that holds more than tensors, an unknown kind of model or an
            option of it that we cannot carry, missing, left-over or misshapen tensors.
    """
    from ..hf import SeqConvConfig, SeqConvForCausalLM

    config, tensors = read_folder(Path(folder))
    options, ours = convert_checkpoint(config, Weights(str(folder), tensors))
    model = SeqConvForCausalLM(SeqConvConfig(**options))
    model.to(ours["model.embed_tokens.weight"].dtype)
    try:
        model.load_state_dict(ours)
    except RuntimeError as error:
        remedy = "check that config.json belongs to these weights"
        raise argument_error("load_checkpoint", str(error), "tensors of the model's shapes", remedy) from error
    model.tie_weights()
    return model.eval()


def convert_checkpoint(config: Mapping[str, Any], weights: Weights) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Options of a ``SeqConvConfig`` and our state dict, for the configuration and the tensors of another project.

    Raises:
        ValueError: an unknown kind of model, an option that we cannot carry, missing or left-over tensors.
    """
    kind = config.get("model_type") or ("mamba_ssm" if "ssm_cfg" in config else "unknown")
    if kind not in list_checkpoints():
        raise unknown_name("load_checkpoint", "kind of model", str(kind), _READERS)
    options, ours = _READERS[kind](config, weights)
    if weights.left_over():
        got = f"unexpected tensors {', '.join(weights.left_over())}"
        raise argument_error(
            "load_checkpoint", got, "only the model's own", "check that config.json belongs to these weights"
        )
    return options, ours


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the tensors of a checkpoint.

    Raises:
        ValueError: a missing or damaged file, a pickle that holds more than tensors.
    """
    config = folder / "config.json"
    found = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if not config.is_file() or found is None:
        wanted = f"a folder with config.json and one of {', '.join(WEIGHT_FILES)}"
        raise argument_error(
            "load_checkpoint", f"{str(folder)!r}", wanted, "download the checkpoint into one folder first"
        )
    try:
        return json.loads(config.read_text(), object_hook=_number), _read_tensors(found)
    except (SafetensorError, EOFError, RuntimeError, json.JSONDecodeError, FileNotFoundError) as error:
        got = f"a damaged file in {str(folder)!r} ({error})"
        raise argument_error("load_checkpoint", got, "whole files", "copy or download the checkpoint again") from error
    except pickle.UnpicklingError as error:
        got = f"a pickled file {str(found)!r} that holds more than tensors"
        remedy = "do not trust this file; ask for the checkpoint as safetensors"
        raise argument_error("load_checkpoint", got, "tensors alone: pickled code is never run", remedy) from error


def _read_tensors(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        return load_file(file)
    if file.suffix == ".json":
        shards = sorted(set(json.loads(file.read_text())["weight_map"].values()))
        return {name: t for shard in shards for name, t in load_file(file.parent / shard).items()}
    tensors: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return tensors


def _number(value: dict[str, Any]) -> Any:
    """Infinite numbers as transformers writes them."""
    return float(value["__float__"]) if set(value) == {"__float__"} else value
