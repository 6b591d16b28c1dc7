"""Initial values of a model that is built without any, and of what a checkpoint leaves out.

Models are built on the meta device, where constructors compute nothing, and get memory and values afterwards:
``SeqConvForCausalLM(config)``, and construction on the meta device followed by ``to_empty()`` and ``init_weights()``,
draw the same numbers in the same order. ``from_pretrained`` stays on the meta device until the checkpoint is read.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..audio.build import build_sashimi
from ..audio.sashimi import Sashimi
from ..backbone import Backbone
from ..build import build_backbone
from ..convolution.replacement import place_modal_filters
from ..quantization import int8_layers
from .configuration import SeqConvConfig


def make_backbone(config: SeqConvConfig) -> Backbone | Sashimi:
    """The backbone of a configuration; on the meta device inside ``with torch.device("meta")``."""
    options: dict[str, Any] = {
        "mixer_defaults": {"bidirectional": True} if config.bidirectional else {},
        "final_norm": config.final_norm,
        "final_norm_options": config.final_norm_options,
        "input_dropout": config.input_dropout,
        "drop_path": config.drop_path,
        "drop_path_schedule": config.drop_path_schedule,
        "mask_mixer_inputs": config.mask_padding == "mixer_inputs",
        **config.block_options,
    }
    build: Callable[..., Backbone | Sashimi] = build_backbone
    if config.pool_sizes is not None:
        levels = {"pool": config.pool_sizes, "expand": config.pool_expand, "unet": config.pool_unet}
        build, options = build_sashimi, {**options, **levels}
    backbone = build(config.hidden_size, config.num_hidden_layers, config.layers, **options)
    place_modal_filters(backbone, config.modal_filters or {})
    for module in backbone.modules():
        module.__dict__["_part_of_backbone"] = True
    return backbone


def is_part_of_backbone(module: nn.Module) -> bool:
    """Whether :func:`make_backbone` built the module."""
    return "_part_of_backbone" in module.__dict__


def materialize(model: nn.Module) -> None:
    """Give memory, without values, to modules on the meta device, unless models are being built there.

    Buffers alone get some inside of accelerate's ``init_empty_weights()``, as it leaves them where they are.
    """
    device = torch.get_default_device()
    if device.type == "meta":
        return
    if _parameters_stay_empty():
        for module in model.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else torch.empty_like(buffer, device=device)
        return
    for module in model.modules():
        own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if any(tensor.is_meta for tensor in own):
            module.to_empty(device=device, recurse=False)


def _parameters_stay_empty() -> bool:
    """Whether something moves every parameter to the meta device as a module registers it."""
    probe = nn.Module()
    probe.register_parameter("weight", nn.Parameter(torch.empty(0)))
    return next(probe.parameters()).is_meta


def reset_what_was_not_loaded(module: nn.Module) -> None:
    """``module.reset_parameters()`` without touching what transformers has loaded.

    It runs where a parameter of the module or of its children was not loaded, or one of its own buffers; a loaded
    tensor gives its place to an empty one meanwhile. Modules with int8 layers stay as they are.
    """
    if not callable(getattr(module, "reset_parameters", None)) or int8_layers(module):
        return
    found = [(part, *entry) for part in module.modules() for entry in _tensors(part)]
    loaded = [(entries, name, tensor) for _, entries, name, tensor in found if _is_loaded(tensor)]
    left = [part is module or entries is part._parameters for part, entries, _, t in found if not _is_loaded(t)]
    if not any(left):
        return
    try:
        for entries, name, tensor in loaded:
            empty = torch.empty_like(tensor)
            entries[name] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
        module.reset_parameters()  # type: ignore[operator]
    finally:
        for entries, name, tensor in loaded:
            entries[name] = tensor


def _tensors(module: nn.Module) -> list[tuple[dict[str, Any], str, Tensor]]:
    """The module's own parameters and buffers, each with the dictionary that holds it."""
    both: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
    return [(entries, name, tensor) for entries in both for name, tensor in entries.items() if tensor is not None]


def _is_loaded(tensor: Tensor) -> bool:
    return bool(getattr(tensor, "_is_hf_initialized", False))
