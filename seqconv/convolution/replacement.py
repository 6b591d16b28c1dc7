"""Changing the long convolutions inside a model: other filters, room for modal ones, another way of decoding."""

from collections.abc import Mapping

import torch
from torch import nn

from seqconv_kernels._core.errors import argument_error

from ..filters.base import Filter
from ..filters.state_space.modal import ModalFilter
from ..mixer import Mixer
from .long_convolution import LongConvolution


def long_convolutions(module: nn.Module) -> dict[str, LongConvolution]:
    """Every long convolution inside ``module``, by its dotted name (empty for the module itself)."""
    return {name: m for name, m in module.named_modules() if isinstance(m, LongConvolution)}


def replace_filter(module: nn.Module, name: str, filter: Filter) -> None:
    """Put ``filter`` into the long convolution called ``name``; the mixers around it take its state from then on."""
    long_convolutions(module)[name].filter = filter
    _forget_state_sizes(module)


def decode_smoothly(module: nn.Module, smooth: bool = True) -> None:
    """Let every long convolution without a recurrence decode with bounded work per token, or with the least in total.

    States handed out before are of the other kind and are rejected from then on.
    """
    for convolution in long_convolutions(module).values():
        convolution.smooth = smooth
    _forget_state_sizes(module)


def _forget_state_sizes(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, Mixer):
            part.forget_state_sizes()


def modal_sizes(module: nn.Module) -> dict[str, list[int]]:
    """Modes and exact taps of every modal filter in a long convolution: what :func:`place_modal_filters` needs."""
    found = {name: conv.filter for name, conv in long_convolutions(module).items()}
    return {
        name: [filter.poles.shape[1], filter.head.shape[1]]
        for name, filter in found.items()
        if isinstance(filter, ModalFilter)
    }


def place_modal_filters(module: nn.Module, sizes: Mapping[str, list[int]]) -> None:
    """Put zero modal filters of the given sizes in place, ready for a checkpoint of the distilled module.

    Raises:
        ValueError: a name that is no long convolution of the module.
    """
    convolutions = long_convolutions(module)
    for name, (modes, taps) in sizes.items():
        if name not in convolutions:
            known = ", ".join(sorted(convolutions)) or "none"
            remedy = "load it with the configuration it was saved with"
            raise argument_error(
                "place_modal_filters", f"a modal filter at {name!r}", f"a long convolution ({known})", remedy
            )
        channels = convolutions[name].filter.channels
        none = torch.zeros(channels, modes, dtype=torch.complex64)
        replace_filter(module, name, ModalFilter(none, none, torch.zeros(channels, taps)))
