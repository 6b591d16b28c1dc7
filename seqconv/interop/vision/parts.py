"""What readers of classifiers of images share."""

from collections.abc import Iterable, Mapping

from torch import Tensor

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
