"""What readers of classifiers of images share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ..importer import Weights

PAIR = ("weight", "bias")


def count_parts(weights: Weights, name: str, step: int = 1) -> int:
    """How many tensors of a numbered name there are: ``name`` holds ``{}``, and numbers rise by ``step``."""
    count = 0
    while name.format(step * count) in weights:
        count += 1
    return count


def take_pairs(weights: Weights, names: Mapping[str, str], kinds: Iterable[str] = PAIR) -> dict[str, Tensor]:
    """Weights and biases of modules, by their names here and there."""
    return {f"{name}.{kind}": weights.take(f"{source}.{kind}") for name, source in names.items() for kind in kinds}


def named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with a prefix in front of their names."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def scan_classifier(
    weights: Weights,
    depth: int,
    convert_mixer: Callable[[Weights], Mapping[str, Tensor]],
    *,
    norm_kinds: Iterable[str],
    head: bool,
    place: Callable[[int], str] = str,
) -> dict[str, Tensor]:
    """What classifiers in the layout of Vim have: patches, blocks of a norm and a mixer, the last norm, the head.

    Args:
        weights: of the original.
        depth: blocks.
        convert_mixer: of the tensors of one mixer.
        norm_kinds: tensors of each norm.
        head: whether there is one.
        place: of a block among seqconv's, by its index.
    """
    modules = {"backbone.patch_embedding": "patch_embed.proj"} | ({"head": "head"} if head else {})
    blocks = {f"backbone.blocks.{place(index)}": f"layers.{index}" for index in range(depth)}
    norms = {"backbone.norm": "norm_f"} | {f"{name}.mixer_norm": f"{source}.norm" for name, source in blocks.items()}
    converted = take_pairs(weights, modules) | take_pairs(weights, norms, tuple(norm_kinds))
    for name, source in blocks.items():
        converted |= named(f"{name}.mixer", convert_mixer(weights.part(f"{source}.mixer.")))
    return converted


def stage_dims(dims: int | Sequence[int], stages: int) -> list[int]:
    """Widths of the stages; of one number the width doubles from stage to stage."""
    return [dims * 2**stage for stage in range(stages)] if isinstance(dims, int) else list(dims)


def in_pairs(index: int) -> str:
    """The place of a block among pairs of blocks in opposite directions."""
    return f"{index // 2}.{('forwards', 'backwards')[index % 2]}"


def require_checked(original: str, given: Any, checked: Mapping[str, Any]) -> None:
    """Raise unless options have the values that were checked; a tuple holds several.

    Args:
        original: what is imported, for messages.
        given: its hyper-parameters as attributes; those that are missing are not looked at.
        checked: values by name.

    Raises:
        ValueError: another value.
    """
    for name, value in checked.items():
        values, found = value if isinstance(value, tuple) else (value,), getattr(given, name, None)
        if hasattr(given, name) and (list(found) if isinstance(found, tuple) else found) not in values:
            got, remedy = f"{name}={found!r}", "this value alone was checked"
            raise argument_error(f"from_original({original!r})", got, f"{name}={values[0]!r}", remedy)


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
        name = class_name(given)
        if given is not None and name.lower() not in names:
            got, wanted = f"{option}={name!r}", " or ".join(names)
            raise argument_error(f"from_original({original!r})", got, wanted, "this variant is not supported")


def class_name(given: Any) -> str:
    """Name of a class, and the arguments that are bound to it."""
    if isinstance(given, partial):
        return f"{class_name(given.func)}({', '.join(f'{name}={value}' for name, value in given.keywords.items())})"
    return given if isinstance(given, str) else getattr(given, "__name__", repr(given))
