"""Typed keyword options (PEP 692) that one class hands on to another: name, type and default written once.

The class that uses the options declares them next to itself, and every class in front of it takes them flat::

    class DecayOptions(TypedDict, total=False):
        d_state: Annotated[int, Default(64)]

    class Decay(nn.Module):
        def __init__(self, channels: int, **options: Unpack[DecayOptions]) -> None:
            o = with_defaults(DecayOptions, options, "Decay")
            self.d_state = o["d_state"]

    class Mixer(nn.Module):
        def __init__(self, d_model: int, *, gate: bool = True, **options: Unpack[DecayOptions]) -> None:
            self.filter = Decay(d_model, **options)

A ``TypedDict`` may extend others, so that a class with two parts takes the options of both;
:func:`select_options` gives each part its own. :func:`keyword_parameters` is how the registry, the command line
and configurations see such a constructor: as if all options were in its signature.

:func:`wanted_value` compares values with their annotations and with the ranges that names imply.
"""

import inspect
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, Unpack, cast, get_args, get_origin, get_type_hints

from seqconv_kernels._core.errors import argument_error, unknown_name

OptionsT = TypeVar("OptionsT")

# One word means one idea in all mixers, so its name says which numbers make sense.
POSITIVE = re.compile(r"expand|expand_[kv]|omega_0|(fast|slow)_decay_pct|target|dt_scale|spread|\w+_low_rank_dim")
NOT_NEGATIVE = re.compile(r"conv_init|init_gain|rank")
NUMBERS: Mapping[Any, type] = {bool: Integral, int: Integral, float: Real}
"""What is taken for a number of a type: numbers of NumPy too."""


@dataclass(frozen=True)
class Default:
    """The default of an option, in its annotation: ``Annotated[int, Default(64)]``."""

    value: Any


def option_parameters(options: type) -> list[inspect.Parameter]:
    """The options of a ``TypedDict`` as keyword parameters, with their types and defaults.

    Raises:
        TypeError: an option without a :class:`Default`.
    """
    return [_parameter(name, hint) for name, hint in get_type_hints(options, include_extras=True).items()]


def _parameter(name: str, hint: Any) -> inspect.Parameter:
    kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    defaults = [extra.value for extra in extras if isinstance(extra, Default)]
    if len(defaults) != 1:
        raise TypeError(f"option {name!r}: received {hint}; wanted Annotated[type, Default(value)]")
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[0], annotation=kind)


def with_defaults(options: type[OptionsT], given: Mapping[str, Any], operation: str) -> OptionsT:
    """All options of a ``TypedDict``: those given, the others by default.

    Args:
        operation: who asks, for the message.

    Raises:
        ValueError: an unknown option; the nearest are named.
    """
    filled = {parameter.name: parameter.default for parameter in option_parameters(options)}
    for name in given:
        if name not in filled:
            raise unknown_name(operation, "option", name, filled)
    return cast(OptionsT, filled | dict(given))


def select_options(options: type[OptionsT], given: Mapping[str, Any]) -> OptionsT:
    """The given options that belong to a ``TypedDict``, without its defaults."""
    own = get_type_hints(options)
    return cast(OptionsT, {name: value for name, value in given.items() if name in own})


def keyword_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The keyword parameters of a function; ``**options: Unpack[T]`` counts as the options of ``T``."""
    found: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        if get_origin(parameter.annotation) is Unpack:
            found += option_parameters(get_args(parameter.annotation)[0])
        elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            found.append(parameter)
    return found


def wanted_value(name: str, kind: Any, value: Any) -> str | None:
    """What an option of this name and type must be, in words; ``None`` if ``value`` is that."""
    if not accepts(kind, value):
        return type_text(kind)
    if isinstance(value, Real) and POSITIVE.fullmatch(name) and value <= 0:
        return "a number above 0"
    return "0 or more" if isinstance(value, Real) and NOT_NEGATIVE.fullmatch(name) and value < 0 else None


def accepts(kind: Any, value: Any) -> bool:
    """Whether a value is of the annotated type, as far as that is made of numbers, words and collections of them."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(accepts(one, value) for one in inner)
    if origin is Literal:
        return value in inner
    if kind in NUMBERS:
        return isinstance(value, NUMBERS[kind])
    if origin in (Sequence, Collection, list, tuple):
        return isinstance(value, Collection) and not isinstance(value, str | Mapping)
    if origin in (Mapping, dict):
        return isinstance(value, Mapping)
    return isinstance(value, kind) if kind in (str, NoneType) else True


def wanted_names(kind: Any) -> list[str]:
    """The names among the values that an annotation lists with ``Literal``."""
    if get_origin(kind) in (Union, UnionType):
        return [name for one in get_args(kind) for name in wanted_names(one)]
    return [name for name in get_args(kind) if isinstance(name, str)] if get_origin(kind) is Literal else []


def check_probability(name: str, p: float) -> None:
    """Raise for a probability outside [0, 1).

    Raises:
        ValueError: it is NaN or outside.
    """
    if not 0 <= p < 1:
        raise argument_error(name, f"{p}", "a probability in [0, 1)", "correct the configuration")


def type_text(annotation: Any) -> str:
    """The annotation, without modules."""
    return re.sub(r"\b(?:typing|collections\.abc)\.", "", annotation_text(annotation))


def annotation_text(annotation: Any) -> str:
    """The annotation, with the module in front of each name that must be imported."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " | ".join(map(annotation_text, arguments))
    if origin is Literal:
        return f"typing.Literal[{', '.join(map(value_text, arguments))}]"
    if origin is not None:
        return f"{annotation_text(origin)}[{', '.join(map(annotation_text, arguments))}]"
    if annotation in (type(None), Ellipsis):
        return "None" if annotation is type(None) else "..."
    return inspect.formatannotation(annotation)


def value_text(value: Any) -> str:
    """The value as the formatter of the sources writes it."""
    return json.dumps(value) if isinstance(value, str) else repr(value).replace("'", '"')
