"""Replacing functions and ``forward`` methods of transformers' modelling files, and putting them back.

The door is a global of a modelling file. A layer looks its kernels up there at every call, in every release since 5.17;
the other doors are narrower: packages under the originals' names in ``sys.modules`` act only on files imported later
and make ``is_mamba_ssm_available()`` true for everybody; the hub's kernel mapping needs the ``kernels`` package, a
repository and ``use_kernels=True``, and has no entry for a CPU; attributes of layers are filled at construction.
"""

import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import wraps
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels.token_program import Unfused

from .call import CURRENT, Call, Unserved, begin, documents_of_model, takes_part
from .documents import BOUNDS, changed_arguments, find_documents
from .families import check_packing, family_of
from .functions import FUNCTIONS, Function
from .layers import LAYERS, METHODS, STEPS

logger = logging.getLogger("seqconv")

ACCELERATORS = ("cuda", "xpu")
"""Devices on which the original packages run."""


@dataclass
class Patches:
    """What was replaced, and what stood there.

    Attributes:
        files: replaced functions and layer classes of each modelling file, by the file's name.
    """

    files: dict[str, "PatchedFile"] = field(default_factory=dict)
    _undo: list[tuple[Any, str, Any]] = field(default_factory=list)

    def patch(self, file: ModuleType) -> None:
        """Replace what a modelling file has; nothing the second time."""
        if file.__name__ in self.files or not (found := find(file)).anything():
            return
        self.files[file.__name__] = found
        for name, function in found.functions.items():
            self.replace(file, name, dispatching(name, getattr(file, name), function))
        for layer in found.layers:
            instead, step = LAYERS.get(layer.__name__), STEPS.get(layer.__name__)
            self.replace(layer, "forward", _with_call(layer.forward, instead, step))
        for owner in vars(file).values():
            for name, method in METHODS.get(getattr(owner, "__name__", ""), {}).items():
                self.replace(owner, name, _method(getattr(owner, name), method))
        for model in found.models:
            self.replace(model, "forward", _with_documents(model.forward, found))

    def replace(self, owner: Any, name: str, value: Any) -> None:
        """Set one attribute, and remember what was there."""
        self._undo.append((owner, name, vars(owner)[name]))
        setattr(owner, name, value)

    def undo(self) -> None:
        """Put everything back, the last first."""
        while self._undo:
            owner, name, value = self._undo.pop()
            setattr(owner, name, value)
        self.files.clear()


@dataclass(frozen=True)
class PatchedFile:
    """What a modelling file has to replace: functions by their names there, classes of layers and of models."""

    family: str
    functions: dict[str, Function]
    layers: tuple[type[nn.Module], ...]
    models: tuple[type[nn.Module], ...]

    def anything(self) -> bool:
        """Whether there is something to replace."""
        return bool(self.layers)


def find(file: ModuleType) -> PatchedFile:
    """Functions, the layers that call them, and the models that hold these."""
    from transformers import PreTrainedModel

    functions = {name: f for name, f in FUNCTIONS.items() if callable(getattr(file, name, None))}
    classes = [c for c in vars(file).values() if inspect.isclass(c) and issubclass(c, nn.Module)]
    own = [c for c in classes if c.__module__ == file.__name__ and "forward" in vars(c)]
    layers = tuple(c for c in own if c.__name__ in LAYERS or _names(c) & functions.keys())
    models = tuple(c for c in own if issubclass(c, PreTrainedModel))
    return PatchedFile(family_of(file.__name__), functions, layers, models)


def modelling_files() -> list[ModuleType]:
    """Those imported so far."""
    names = [n for n in sys.modules if n.startswith("transformers.models.") and ".modeling_" in n]
    return [sys.modules[name] for name in sorted(names)]


def dispatching(name: str, original: Callable[..., Any], function: Function) -> Callable[..., Any]:
    """A function that runs the replacement inside the call of an accelerated layer, otherwise what was there."""

    def dispatched(*args: Any, **kwargs: Any) -> Any:
        call, given = CURRENT.call, (*args, *kwargs.values())
        if call is None:
            return original(*args, **kwargs)
        if not call.override and call.documents is None and keeps_place(original, function, given):
            return original(*args, **kwargs)
        try:
            return function.run(call, *args, **kwargs)
        except Unserved as reason:
            if call.documents is not None:  # what was there would mix the documents
                raise ValueError(f"accelerate: {name} with packed documents and {reason}") from None
            _warn_once(f"{name} of transformers runs instead of seqconv's: received {reason}")
            return original(*args, **kwargs)

    dispatched.__name__, dispatched.__doc__ = name, getattr(original, "__doc__", None)
    dispatched.__wrapped__ = original  # type: ignore[attr-defined]
    return dispatched


def keeps_place(original: Any, function: Function, args: tuple[Any, ...]) -> bool:
    """Whether the original package, or a kernel of the hub put in its place, runs on the device of the call."""
    device = next((a.device.type for a in args if isinstance(a, Tensor)), "cpu")
    from_hub = isinstance(original, nn.Module) and "forward" in vars(original)
    return device in ACCELERATORS and (from_hub or function.installed())


def _names(layer: type[nn.Module]) -> set[str]:
    """Names that a ``forward`` looks up."""
    code = getattr(inspect.unwrap(layer.forward), "__code__", None)
    return set() if code is None else set(code.co_names)


def _with_call(
    forward: Callable[..., Any], instead: Callable[..., Any] | None, step: Callable[..., Any] | None
) -> Callable[..., Any]:
    """``forward`` of a layer inside its :class:`Call`; ``instead`` of it where a layer is replaced whole.

    A ``step`` is tried first.
    """
    names = tuple(inspect.signature(forward).parameters)[1:]

    @wraps(forward)
    def accelerated(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not takes_part(self):
            return forward(self, *args, **kwargs)
        given = dict(zip(names, args, strict=False)) | kwargs
        before, CURRENT.call = CURRENT.call, begin(self, given)
        try:
            if step is not None:
                with suppress(Unfused):
                    return step(CURRENT.call, **given)
            return forward(self, *args, **kwargs) if instead is None else instead(CURRENT.call, **given)
        finally:
            CURRENT.call = before

    return accelerated


def _method(original: Callable[..., Any], replacement: Callable[..., Any]) -> Callable[..., Any]:
    """A method that runs the replacement inside the call of an accelerated layer."""

    @wraps(original)
    def dispatched(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        call = CURRENT.call
        return original(self, *args, **kwargs) if call is None else replacement(call, *args, **kwargs)

    return dispatched


def _with_documents(forward: Callable[..., Any], file: "PatchedFile") -> Callable[..., Any]:
    """``forward`` of a model, which passes to its layers where packed documents begin.

    The outermost model finds them. The one around the layers gets other arguments for its attention layers; those
    further out keep the given ones, of which they compute more (losses that leave padding out, positions of images).
    """
    names = tuple(inspect.signature(forward).parameters)[1:]
    takes_positions = "position_ids" in names

    @wraps(forward)
    def accelerated(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        documents = CURRENT.documents if takes_part(self) else None
        if documents is None and takes_part(self) and _may_hold_documents(given):
            documents = find_documents(given)
        if documents is None:
            return forward(self, *args, **kwargs)
        if CURRENT.documents is None:
            check_packing(file.family)
            given["use_cache"] = False
        if _is_around_layers(self, file.layers):
            given |= changed_arguments(documents, given, takes_positions, _mask_dtype(self, file.family))
        with documents_of_model(documents), _kept_for_checkpoints(self):
            return forward(self, **given)

    return accelerated


def _may_hold_documents(given: Mapping[str, Any]) -> bool:
    """Whether the arguments may say so; single steps do not, and are to compile to one graph."""
    positions = given.get("position_ids")
    several = isinstance(positions, Tensor) and positions.shape[-1] > 1
    return several or any(given.get(name) is not None for name in BOUNDS)


def _is_around_layers(model: nn.Module, layers: tuple[type[nn.Module], ...]) -> bool:
    """Whether the model holds the layers, and no model inside of it does."""
    from transformers import PreTrainedModel

    def holds(module: nn.Module) -> bool:
        return any(isinstance(m, layers) for m in module.modules())

    return holds(model) and not any(
        isinstance(m, PreTrainedModel) and m is not model and holds(m) for m in model.modules()
    )


def _mask_dtype(model: Any, family: str) -> torch.dtype | None:
    """Dtype of a mask that keeps documents apart, where attention layers do not find them in ``position_ids``.

    Raises:
        ValueError: a family that was not checked, or attention that takes no such mask.
    """
    if check_packing(family).masks_documents:
        return None
    attention = str(getattr(model.config, "_attn_implementation", ""))
    if "flash" in attention:
        what = f"packed documents in a model of family {family!r} with {attention}"
        raise argument_error("accelerate", what, "sdpa or eager attention", "load it with attn_implementation='sdpa'")
    dtype: torch.dtype = model.dtype
    return dtype


class _kept_for_checkpoints:
    """Let layers that are computed again in the backward pass see the documents of this forward pass."""

    def __init__(self, model: nn.Module) -> None:
        layers: list[Any] = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
        self._layers = [m for m in layers if hasattr(m, "_gradient_checkpointing_func")]
        self._before: list[Any] = []

    def __enter__(self) -> None:
        documents = CURRENT.documents
        for layer in self._layers:
            checkpoint = layer._gradient_checkpointing_func
            self._before.append(checkpoint)

            def keeping(run: Callable[..., Any], *args: Any, _checkpoint: Any = checkpoint, **kwargs: Any) -> Any:
                def with_documents(*inner: Any, **options: Any) -> Any:
                    with documents_of_model(documents):
                        return run(*inner, **options)

                return _checkpoint(with_documents, *args, **kwargs)

            layer._gradient_checkpointing_func = keeping

    def __exit__(self, *error: object) -> None:
        for layer, checkpoint in zip(self._layers, self._before, strict=True):
            layer._gradient_checkpointing_func = checkpoint


_warned: set[str] = set()


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        logger.warning(message)


__all__ = ["Call", "PatchedFile", "Patches", "dispatching", "find", "keeps_place", "modelling_files"]
