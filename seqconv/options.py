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
and configurations see such a constructor: as if all options stood in its signature.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, Unpack, cast, get_args, get_origin, get_type_hints

from seqconv_kernels._core.errors import unknown_name

OptionsT = TypeVar("OptionsT")


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
