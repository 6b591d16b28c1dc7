"""From an original layer's state dict to a seqconv module.

Each original has an :class:`Importer`: ``build`` makes the module from the original's hyper-parameters, and
``convert`` makes its state dict from the original's tensors by differentiable operations, so that gradients can be
compared name by name too. One file per family holds them; none is imported before it is asked for.
"""

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import import_module
from pkgutil import walk_packages
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from seqconv_kernels._core.complex import as_complex
from seqconv_kernels._core.errors import argument_error, unknown_name

WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put in front of names."""
REMEDY = "pass the layer's own state_dict(), without a prefix, and the hyper-parameters it was built with"


class Weights:
    """The original's tensors, which remembers what was taken so that missing and left-over keys are reported.

    Args:
        original: what is imported, for messages.
        tensors: its state dict.
        operation: the function that imports it, for messages; ``from_original`` by default.
        remedy: what to do about missing tensors and tensors of other shapes.
    """

    def __init__(
        self, original: str, tensors: Mapping[str, Tensor], *, operation: str | None = None, remedy: str = REMEDY
    ) -> None:
        self.operation, self.remedy = operation or f"from_original({original!r})", remedy
        self._tensors, self._taken, self._prefix = dict(tensors), set[str](), ""

    def part(self, prefix: str) -> "Weights":
        """The tensors whose names start with ``prefix``, named without it; what is taken there is taken here."""
        part = copy(self)
        part._prefix = self._prefix + prefix
        return part

    def rename(self, name_of: Callable[[str], str]) -> None:
        """Give every tensor another name, before any is taken: for files that are written with names of their own."""
        self._tensors = {name_of(name): tensor for name, tensor in self._tensors.items()}

    def take(self, name: str) -> Tensor:
        """The tensor of that name.

        Raises:
            ValueError: it is missing.
        """
        name = self._prefix + name
        if name not in self._tensors:
            missing = f"a state dict without {name!r} (it has {_some(sorted(self._tensors))})"
            raise argument_error(self.operation, missing, "every parameter of the original", self.remedy)
        self._taken.add(name)
        return self._tensors[name]

    def peek(self, name: str) -> Tensor:
        """The tensor of that name, for its shape alone: it is not taken.

        Raises:
            ValueError: it is missing.
        """
        taken = set(self._taken)
        tensor = self.take(name)
        self._taken.intersection_update(taken)
        return tensor

    def take_complex(self, name: str) -> Tensor:
        """The same for a complex tensor, which may be stored as (..., 2) = (real, imaginary)."""
        tensor = self.take(name)
        if tensor.is_complex():
            return tensor
        return as_complex(tensor)

    def ignore(self, *names: str) -> None:
        """Mark tensors that the module derives by itself; they need not be there."""
        self._taken.update(self._prefix + name for name in names)

    def ignore_part(self, prefix: str) -> None:
        """The same for all tensors whose names start with ``prefix``."""
        self._taken.update(name for name in self._tensors if name.startswith(self._prefix + prefix))

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._tensors

    def left_over(self) -> list[str]:
        """Names never taken nor ignored."""
        return sorted(set(self._tensors) - self._taken)


def _some(names: list[str], limit: int = 24) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "") or "nothing"


def _infer_nothing(_: Weights) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Importer:
    """How one original layer is imported.

    Attributes:
        build: hyper-parameters of the original (shapes of test inputs such as ``L`` and ``B`` among them are
            accepted) to a seqconv module, freshly initialised.
        convert: tensors of the original and its hyper-parameters to the module's complete state dict.
        infer: hyper-parameters that are found only in the shapes of the tensors, where the original takes them from a
            configuration of its own; those given by the caller come first.
        mixers: names of the registered mixers that hold such a module, where ``build`` does not name them itself.
    """

    build: Callable[..., nn.Module]
    convert: Callable[[Weights, Mapping[str, Any]], dict[str, Tensor]]
    infer: Callable[[Weights], dict[str, Any]] = _infer_nothing
    mixers: tuple[str, ...] = ()


_IMPORTERS: dict[str, Importer] = {}
_ALIASES: dict[str, str] = {}


def options(original: str, hyper: Mapping[str, Any], known: Mapping[str, Any], ignored: Iterable[str] = ()) -> Any:
    """The hyper-parameters of an original, its own defaults filled in, as attributes.

    Args:
        known: defaults by name; ``...`` marks one that must be given.
        ignored: names that change nothing of what is computed (learning rates, verbosity); ``L`` and ``B``, shapes
            of inputs, always belong to them.

    Raises:
        ValueError: an unknown hyper-parameter (the nearest are named), or a missing one.
    """
    ignored = {*ignored, "L", "B"}
    for name in hyper:
        if name not in known and name not in ignored:
            raise unknown_name(f"from_original({original!r})", "hyper-parameter", name, {*known, *ignored})
    filled = {**known, **{name: value for name, value in hyper.items() if name in known}}
    missing = [name for name, value in filled.items() if value is ...]
    if missing:
        remedy = "pass the arguments the original layer was built with"
        got = f"no {', '.join(missing)}"
        raise argument_error(f"from_original({original!r})", got, "every hyper-parameter without a default", remedy)
    return SimpleNamespace(**filled)


def add_importer(
    original: str,
    *aliases: str,
    build: Callable[..., nn.Module],
    convert: Callable[..., dict[str, Tensor]],
    infer: Callable[[Weights], dict[str, Any]] = _infer_nothing,
    mixers: tuple[str, ...] = (),
) -> None:
    """Enter an importer under the name of the original that it reads; ``aliases`` are other spellings of the name.

    The rest as in :class:`Importer`.
    """
    _IMPORTERS[original] = Importer(build, convert, infer, mixers)
    _ALIASES.update(dict.fromkeys(aliases, original))


def list_originals(pattern: str = "*") -> list[str]:
    """Names of the original layers that :func:`from_original` reads and that match a shell pattern, sorted."""
    return sorted(name for name in _importers() if fnmatch(name, pattern))


def get_importer(original: str) -> Importer:
    """The importer of an original layer.

    Raises:
        ValueError: unknown original; the nearest are named.
    """
    importers = _importers()
    original = _ALIASES.get(original, original)
    if original not in importers:
        raise unknown_name("from_original", "original", original, importers)
    return importers[original]


def from_original(original: str, state_dict: Mapping[str, Tensor], **hyper: Any) -> nn.Module:
    """A seqconv module, of layout (batch, length, channels), with an original layer's weights.

    Args:
        original: ``"owner/repository:Class"``, one of :func:`list_originals`.
        state_dict: the original layer's own ``state_dict()``; complex tensors may be stored as (..., 2).
        **hyper: the arguments the original layer was built with.

    Returns:
        The module in evaluation mode, in the floating dtype of the state dict.

    Raises:
        ValueError: unknown original or hyper-parameter, missing or left-over tensors, shapes that do not fit.
    """
    from ..vision.weight_decay import follow_training_code

    importer = get_importer(original)
    _check_tensors(original, state_dict)
    weights = Weights(original, state_dict)
    found = importer.infer(weights)
    try:
        module = importer.build(**found | hyper)
    except ValueError as error:
        if found or hyper or importer.infer is _infer_nothing:
            raise
        got = f"a state dict whose names tell no sizes (it has {_some(sorted(state_dict))})"
        raise argument_error(f"from_original({original!r})", got, "that of this original", REMEDY) from error
    hyper = found | hyper
    with torch.no_grad():
        converted = importer.convert(weights, hyper)
    if weights.left_over():
        remedy = "pass the state dict of this layer alone, and the hyper-parameters it was built with"
        got = f"unexpected tensors {', '.join(weights.left_over())}"
        raise argument_error(f"from_original({original!r})", got, "only the layer's own", remedy)
    dtypes = [t.real.dtype for t in converted.values() if t.is_floating_point() or t.is_complex()]
    module = module.to(dtypes[0]) if dtypes else module
    follow_training_code(module, original)
    try:
        module.load_state_dict(converted)
    except RuntimeError as error:
        remedy = "check the hyper-parameters against those the layer was built with"
        raise argument_error(
            f"from_original({original!r})", str(error), "tensors of the module's shapes", remedy
        ) from error
    return module.eval()


def _check_tensors(original: str, state_dict: Mapping[str, Any]) -> None:
    """Raise for a whole checkpoint in the place of its state dict, and for names that a wrapper gave a prefix."""
    operation, wanted = f"from_original({original!r})", "the state dict, tensors by the original's own names"
    others = sorted(name for name, value in state_dict.items() if not isinstance(value, Tensor))
    if others:
        inner = [name for name in others if isinstance(state_dict[name], Mapping)]
        remedy = f"pass checkpoint[{inner[0]!r}]" if inner else "leave them out, or convert arrays by torch.from_numpy"
        raise argument_error(operation, f"{', '.join(others[:8])}, no tensors", wanted, remedy)
    for prefix in WRAPPERS:
        if state_dict and all(name.startswith(prefix) for name in state_dict):
            remedy = f"pass {{name.removeprefix({prefix!r}): tensor for name, tensor in state_dict.items()}}"
            raise argument_error(operation, f"names that all begin with {prefix!r}", wanted, remedy)


def load_importers() -> None:
    """Import the file of every family, which enters its importers."""
    package = import_module("seqconv.interop")
    for module in walk_packages(package.__path__, "seqconv.interop."):
        import_module(module.name)


def _importers() -> dict[str, Importer]:
    load_importers()
    return _IMPORTERS
