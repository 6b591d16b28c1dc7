"""Whole checkpoints of other projects as seqconv models: a folder or a repository of the hub.

Each kind of checkpoint has a reader: from the configuration and the tensors to the options of a ``SeqConvConfig`` and
the state dict of ``SeqConvForCausalLM``, by differentiable operations. ``from_pretrained`` of every seqconv model
reads them; :func:`load_checkpoint` is its short form for causal language models.
"""

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from .files import HUB_OPTIONS, LAYERS, WEIGHT_FILES, Source
from .importer import Weights, load_importers
from .option_names import without
from .own_checkpoint import check_own, read_wrapped
from .tensors import read_tensors

if TYPE_CHECKING:
    from ..hf import SeqConvForCausalLM

Reader = Callable[[Mapping[str, Any], Weights], tuple[dict[str, Any], dict[str, Tensor]]]
"""From an original's configuration and tensors to ``SeqConvConfig``'s options and ``SeqConvForCausalLM``'s tensors."""

READING = ("variant", "use_safetensors", "ignored_options")
"""Keyword arguments of ``from_pretrained`` that say how files of other projects are read."""

_READERS: dict[str, Reader] = {}


def add_checkpoint(kind: str, read: Reader) -> None:
    """Enter the reader of a kind of checkpoint: its ``model_type``, or a name for those without one."""
    _READERS[kind] = read


def list_checkpoints() -> list[str]:
    """Kinds of checkpoints of other projects that :func:`load_checkpoint` reads."""
    load_importers()
    return sorted(_READERS)


def load_checkpoint(source: str | os.PathLike[str], **options: Any) -> "SeqConvForCausalLM":
    """A causal language model of another project as a seqconv model, in evaluation mode and in its weights' dtype.

    Args:
        source: a folder or a repository of the hub, with ``config.json`` and ``model.safetensors`` or
            ``pytorch_model.bin``, whole or in shards, as transformers, mamba_ssm and flash-linear-attention write them;
            a single ``.pth`` file of BlinkDL/RWKV-LM; or weights as StripedHyena, Evo and vortex store them, ``.pt`` or
            safetensors, next to the YAML file of their configuration.
        **options: as in ``from_pretrained`` of transformers: ``dtype``, ``device_map``, ``revision``, ``token``,
            ``cache_dir``, ``local_files_only``, options of the configuration …; ``ignored_options``, names in the
            original's configuration that readers do not know and on which no result depends.

    Raises:
        ValueError: a repository that cannot be reached, a missing or damaged file, a pickle that holds more than
            tensors, an unknown kind of model or an option of it that seqconv cannot carry, missing, left-over or
            misshapen tensors.
    """
    from ..hf import SeqConvForCausalLM

    model: SeqConvForCausalLM = SeqConvForCausalLM.from_pretrained(source, **options)
    return model


def read_foreign(source: Any, options: Mapping[str, Any], config_class: Any = None) -> dict[str, Any] | None:
    """What ``from_pretrained`` of transformers takes instead of the name of another project's checkpoint.

    Args:
        source: a folder, a repository of the hub, or what else ``from_pretrained`` takes.
        options: its keyword arguments.
        config_class: that of the class that loads, which a package may have added to seqconv's; ``SeqConvConfig``.

    Returns:
        Its keyword arguments with ``config``, ``state_dict`` and ``generation_config`` in place of those that said
        where the files are; ``None`` for a seqconv checkpoint whose names are not those of a wrapped model, and where
        the caller gives the configuration.

    Raises:
        ValueError: as :func:`load_checkpoint`.
    """
    given = any(options.get(name) is not None for name in ("state_dict", "gguf_file", "config"))
    if source is None or given:
        return None
    place = Source(os.fspath(source), {name: options[name] for name in HUB_OPTIONS if name in options})
    config = place.configuration()
    if config is None and place.find("adapter_config.json") is None:
        wanted = f"a folder with config.json and one of {', '.join(WEIGHT_FILES)}"
        raise argument_error("load_checkpoint", f"{place.name!r} without config.json", wanted, LAYERS)
    if config is None:
        return None
    if config.get("model_type") in ("seqconv", getattr(config_class, "model_type", None)):
        return _own(place, config, options, config_class)
    config = without(config, options.get("ignored_options") or ())
    _reader(config)
    tensors = read_tensors(place, variant=options.get("variant"), use_safetensors=options.get("use_safetensors"))
    remedy = "check that config.json belongs to these weights"
    weights = Weights(place.name, tensors, operation="load_checkpoint", remedy=remedy)
    found, tensors = convert_checkpoint(config, weights)
    rows = _embedded_tokens(config, found, tensors["model.embed_tokens.weight"], options)
    return _arguments(place, {**found, "vocab_size": rows}, tensors, options)


def convert_checkpoint(config: Mapping[str, Any], weights: Weights) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Options of a ``SeqConvConfig`` and its state dict, for the configuration and the tensors of another project.

    Raises:
        ValueError: an unknown kind of model, an option that cannot be carried, missing or left-over tensors.
    """
    try:
        options, tensors = _reader(config)(config, weights)
    except (IndexError, RuntimeError) as error:
        got = f"tensors that do not fit the configuration ({error})"
        raise argument_error("load_checkpoint", got, "those of the model that it describes", weights.remedy) from error
    if weights.left_over():
        got = f"unexpected tensors {', '.join(weights.left_over()[:24])}"
        raise argument_error("load_checkpoint", got, "only the model's own", weights.remedy)
    return options, tensors


def _embedded_tokens(
    config: Mapping[str, Any], found: Mapping[str, Any], table: Tensor, given: Mapping[str, Any]
) -> int:
    """Rows of the embeddings; raise for embeddings of another shape than the configuration says."""
    width, asked = found["hidden_size"], config.get("vocab_size")
    rows = table.shape[0] if asked is None else asked
    unset = 1 if "layer" in config else 8  # of hyena-dna's training code, and of its models on the hub and mamba_ssm
    padded = kind_of(config) in ("hyenadna", "mamba_ssm")
    multiple = config.get("pad_vocab_size_multiple", unset) if padded else 1
    if type(rows) is not int or type(multiple) is not int or min(rows, multiple) < 1:
        got = f"vocab_size={asked!r}"
        raise argument_error("load_checkpoint", got, "an integer of at least 1", "correct config.json")
    rows = -(-rows // multiple) * multiple
    if table.shape[1:] != (width,) or (table.shape[0] != rows and not given.get("ignore_mismatched_sizes")):
        got = f"embeddings of shape {tuple(table.shape)} for vocab_size={asked} and hidden_size={width}"
        remedy = "check that config.json belongs to these weights, or pass ignore_mismatched_sizes=True"
        raise argument_error("load_checkpoint", got, f"shape {(rows, width)}", remedy)
    return rows


def _reader(config: Mapping[str, Any]) -> Reader:
    kind = kind_of(config)
    if kind is None:
        wanted = (
            f"a config.json with a model_type of {', '.join(list_checkpoints())}, that of mamba_ssm, or a YAML file"
        )
        raise argument_error("load_checkpoint", "a config.json without model_type", wanted, LAYERS)
    if kind not in list_checkpoints():
        raise _unknown_kind(kind)
    return _READERS[kind]


def kind_of(config: Mapping[str, Any]) -> str | None:
    """The kind of a checkpoint, by its configuration: ``model_type``, or the names of its fields."""
    kind = config.get("model_type") or _kind_of_fields(set(config))
    return None if kind is None else str(kind)


def _kind_of_fields(fields: set[str]) -> str | None:
    """The kind of a configuration that does not name it."""
    if {"d_model", "n_layer"} <= fields:
        return "hyenadna" if {"layer", "d_inner"} <= fields or "hyena_order" in fields else "mamba_ssm"
    if "hcl_layer_idxs" in fields:
        return "evo2"
    return "stripedhyena" if "hyena_layer_idxs" in fields else None


def _unknown_kind(kind: str) -> ValueError:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from ..integrations.transformers.families import FAMILIES

    if kind in CONFIG_MAPPING:
        wanted = f"a seqconv checkpoint, or one of {', '.join(list_checkpoints())}"
        remedy = "load it with transformers' own AutoModelForCausalLM.from_pretrained"
        remedy += ", then seqconv.accelerate(model)" if kind in FAMILIES else ""
        return argument_error("load_checkpoint", f"a checkpoint of model_type {kind!r}", wanted, remedy)
    return unknown_name("load_checkpoint", "kind of model", kind, list_checkpoints())


def _arguments(
    place: Source, options: dict[str, Any], tensors: dict[str, Tensor], given: Mapping[str, Any]
) -> dict[str, Any]:
    from ..hf import SeqConvConfig

    loading = ("dtype", "torch_dtype", "attn_implementation", "quantization_config")
    of_config = {k: v for k, v in given.items() if k not in loading and hasattr(SeqConvConfig, k)}
    config = SeqConvConfig.from_dict({**options, "architectures": ["SeqConvForCausalLM"]}, **of_config)
    if config.tie_word_embeddings:  # one tensor under one name, as save_pretrained writes it
        tensors = {name: t for name, t in tensors.items() if name != "lm_head.weight"}
    tensors = {name: _own_memory(t) for name, t in tensors.items()}
    rest = {k: v for k, v in given.items() if k not in (*of_config, *HUB_OPTIONS, *READING)}
    if rest.get("dtype") is None and rest.get("torch_dtype") is None:
        rest["dtype"] = tensors["model.embed_tokens.weight"].dtype
    if rest.get("generation_config") is None:
        rest["generation_config"] = _generation_config(place)
    return {**rest, "config": config, "state_dict": tensors}


def _own_memory(tensor: Tensor) -> Tensor:
    """The tensor, copied if it is a part of another one: the model keeps it, and saves contiguous tensors alone."""
    whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if whole else tensor.clone(memory_format=torch.contiguous_format)


def _generation_config(place: Source) -> Any:
    """How the original generates, if it says so."""
    from transformers import GenerationConfig

    if place.find("generation_config.json") is None:
        return None
    try:
        return GenerationConfig.from_pretrained(place.name, **place.hub)
    except (OSError, TypeError, ValueError) as error:
        got = f"a damaged file generation_config.json in {place.name!r} ({' '.join(str(error).split())})"
        remedy = "copy or download it again, or remove it"
        raise argument_error("load_checkpoint", got, "a generation configuration of transformers", remedy) from error


def _own(place: Source, config: dict[str, Any], options: Mapping[str, Any], kind: Any) -> dict[str, Any] | None:
    """Check a seqconv checkpoint; its tensors where they are to be renamed."""
    from ..hf import SeqConvConfig

    wrapped, generation = check_own(place, config, options), _generation_config(place)
    if not wrapped:
        return None
    found = read_wrapped(place, config, options, kind or SeqConvConfig)
    return found if found.get("generation_config") is not None else {**found, "generation_config": generation}
