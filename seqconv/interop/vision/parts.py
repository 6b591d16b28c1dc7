"""What readers of classifiers of images share."""

from collections.abc import Iterable, Mapping
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
        **known: names in lower case of what may be given for each.

    Raises:
        ValueError: another class or name; classes with arguments of their own.
    """
    for option, names in known.items():
        given = hyper.get(option)
        name = given if isinstance(given, str) else getattr(given, "__name__", repr(given))
        if given is not None and name.lower() not in names:
            got, wanted = f"{option}={name!r}", " or ".join(names)
            raise argument_error(f"from_original({original!r})", got, wanted, "this variant is not supported")
