"""What the replaced functions know of the layer that calls them, beyond their arguments.

transformers calls its kernels with tensors alone. Where a result also depends on the cache (the state before a chunk of
a prompt), on padding or on where documents begin, the layer's ``forward`` is wrapped, and the wrapper leaves a
:class:`Call` here for the time of the layer. Without a call every replaced function runs what it replaced.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from .documents import Documents

MARK = "_seqconv_accelerated"
"""Attribute of the modules that run on seqconv: their :class:`Mark`."""

CACHE_NAMES = ("cache", "cache_params", "past_key_values")


class Mark:
    """What the modules of one acceleration share: a copy of a module runs on seqconv as long as the module does.

    A pickled module, which may be loaded long after the acceleration or in another process, has none.

    Attributes:
        override: whether an installed original package gives way too.
        active: until the acceleration is restored.
    """

    def __init__(self, override: bool) -> None:
        self.override, self.active = override, True

    def __deepcopy__(self, memo: dict[int, Any]) -> "Mark":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()


class Unserved(Exception):
    """Arguments that an op of seqconv does not serve; the message says which, and the replaced function runs."""


class Call(NamedTuple):
    """One run of a layer.

    Attributes:
        layer: the module.
        mask: (batch, length), zero at padding, or ``None``.
        cache: of the whole model, or ``None``.
        documents: boundaries of packed documents, or ``None``.
        override: whether an installed original package gives way too.
        heads: heads scanned so far, where a layer scans one by one (Zamba).
    """

    layer: nn.Module
    mask: Tensor | None
    cache: Any
    documents: Documents | None
    override: bool
    heads: list[int]


def recurrent_state(call: Call) -> Tensor | None:
    """The state that the cache holds for the layer before the call."""
    return None if (held := cached_states(call)) is None else held.recurrent_states[0]


def conv_state(call: Call) -> Tensor | None:
    """The last inputs of the convolution that the cache holds for the layer, (batch, channels, columns)."""
    held, index = cached_states(call), getattr(call.layer, "conv_idx", 0)
    return held.conv_states[index] if held is not None and held.has_previous_state[index] else None


def for_backward(state: Tensor | None) -> Tensor | None:
    """A state that the backward pass may need, apart from the cache: that is overwritten in place."""
    return state.clone() if state is not None and torch.is_grad_enabled() else state


def cached_states(call: Call) -> Any:
    """What the cache holds of the layer, or ``None``."""
    return None if call.cache is None else call.cache.layers[call.layer.layer_idx]


class _Current(threading.local):
    """Per thread: the running call, and the documents of the running model."""

    call: Call | None = None
    documents: Documents | None = None


CURRENT = _Current()


class Everywhere:
    """Whether every layer of a patched class takes part, marked or not, and whether packages give way then."""

    on = False
    override = False


def is_marked(module: nn.Module) -> bool:
    """Whether the module or one that it was copied from is accelerated by itself."""
    mark = module.__dict__.get(MARK)
    return mark is not None and bool(mark.active)


def takes_part(module: nn.Module) -> bool:
    """Whether the module runs on seqconv."""
    return Everywhere.on or is_marked(module)


def begin(layer: nn.Module, given: dict[str, Any]) -> Call:
    """The call of a layer from the named arguments of its ``forward``.

    Raises:
        ValueError: documents that were found in inputs of another shape.
    """
    hidden_states = given.get("hidden_states")
    mask = given.get("attention_mask", given.get("conv_mask"))
    length = None if hidden_states is None else hidden_states.shape[1]
    usable = isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[1] == length
    cache = next((given[name] for name in CACHE_NAMES if given.get(name) is not None), None)
    documents = CURRENT.documents
    if documents is not None and hidden_states is not None:
        _check_shape(documents, hidden_states)
    override = Everywhere.override or (is_marked(layer) and layer.__dict__[MARK].override)
    return Call(layer, mask if usable else None, cache, documents, override, heads=[])


@contextmanager
def documents_of_model(documents: Documents | None) -> Iterator[None]:
    """Keep the documents of a model for its layers."""
    before, CURRENT.documents = CURRENT.documents, documents
    try:
        yield
    finally:
        CURRENT.documents = before


def _check_shape(documents: Documents, hidden_states: Tensor) -> None:
    if tuple(hidden_states.shape[:2]) != (documents.rows, documents.length):
        raise argument_error(
            "accelerate",
            f"a layer with inputs of shape {tuple(hidden_states.shape)} inside a model with packed documents",
            f"({documents.rows}, {documents.length}) tokens, as in the inputs of the model",
            "give the boundaries to the model that holds the layer",
        )
