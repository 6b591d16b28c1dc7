"""Changing the long convolutions inside a model: other filters, places for modal ones, another way of decoding."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from seqconv_kernels._core.errors import argument_error

from ..filters.base import Filter
from ..filters.mixed import MixedFilter
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


def modal_sizes(module: nn.Module) -> dict[str, list[Any]]:
    """What :func:`place_modal_filters` needs: ``[modes, taps]`` of every modal filter in a long convolution, and
    ``[modes, taps, exact channels]`` where some channels keep their exact filter.
    """
    sizes: dict[str, list[Any]] = {}
    for name, convolution in long_convolutions(module).items():
        mixed = convolution.filter if isinstance(convolution.filter, MixedFilter) else None
        filter = convolution.filter if mixed is None else mixed.modal
        if isinstance(filter, ModalFilter):
            exact = [] if mixed is None else [list(mixed.exact_channels)]
            sizes[name] = [filter.poles.shape[1], filter.head.shape[1], *exact]
    return sizes


def place_modal_filters(module: nn.Module, sizes: Mapping[str, list[Any]]) -> None:
    """Put zero modal filters of the given sizes in place, ready for a checkpoint of the distilled module.

    Raises:
        ValueError: a name that is no long convolution of the module, exact channels that it does not have.
    """
    convolutions = long_convolutions(module)
    for name, (modes, taps, *exact) in sizes.items():
        if name not in convolutions:
            known = ", ".join(sorted(convolutions)) or "none"
            remedy = "load it with the configuration it was saved with"
            raise argument_error(
                "place_modal_filters", f"a modal filter at {name!r}", f"a long convolution ({known})", remedy
            )
        before, kept = convolutions[name].filter, exact[0] if exact else []
        none = torch.zeros(before.channels - len(kept), modes, dtype=torch.complex64)
        modal = ModalFilter(none, none, torch.zeros(len(none), taps))
        replace_filter(module, name, MixedFilter(before, modal, kept) if kept else modal)
