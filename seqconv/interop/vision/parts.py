"""What readers of classifiers of images share."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ..importer import Weights

PAIR = ("weight", "bias")


def count_parts(weights: Weights, name: str) -> int:
    """How many tensors of a numbered name there are: ``name`` holds ``{}``."""
    count = 0
    while name.format(count) in weights:
        count += 1
    return count


def take_pairs(weights: Weights, names: Mapping[str, str], kinds: Iterable[str] = PAIR) -> dict[str, Tensor]:
    """Weights and biases of modules, by their names here and there."""
    return {f"{name}.{kind}": weights.take(f"{source}.{kind}") for name, source in names.items() for kind in kinds}


def named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with a prefix in front of their names."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def require_names(original: str, hyper: Mapping[str, Any], **known: Iterable[str]) -> None:
    """Raise unless options that hold classes of norms and activations, or their names, are those that were checked.

    Args:
        original: what is imported, for messages.
        hyper: its hyper-parameters.
        **known: names in lower case of what may be given for each; of a class with arguments, ``layernorm(eps=1e-06)``.

    Raises:
        ValueError: another class, name or arguments.
    """
    for option, names in known.items():
        given = hyper.get(option)
        name = _class_name(given)
        if given is not None and name.lower() not in names:
            got, wanted = f"{option}={name!r}", " or ".join(names)
            raise argument_error(f"from_original({original!r})", got, wanted, "this variant is not supported")


def _class_name(given: Any) -> str:
    """Name of a class, and the arguments that are bound to it."""
    if isinstance(given, partial):
        return f"{_class_name(given.func)}({', '.join(f'{name}={value}' for name, value in given.keywords.items())})"
    return given if isinstance(given, str) else getattr(given, "__name__", repr(given))
