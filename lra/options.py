"""Options given as text: ``name=value`` split, checked and converted to the type of the field they set."""

import json
import types
from collections.abc import Iterable
from typing import Any, Union, get_args, get_origin

from seqconv_kernels._core.errors import argument_error


def split_overrides(arguments: Iterable[str]) -> dict[str, str]:
    """``["lr=0.01", "mixer.d_state=8"]`` as a dictionary.

    Raises:
        ValueError: an argument without ``=``, or a name given twice.
    """
    found: dict[str, str] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not name:
            raise argument_error(
                "override", repr(argument), "name=value", "write for example lr=0.001 or mixer.d_state=16"
            )
        if name in found:
            raise argument_error("override", f"{name!r} twice", "each name once", "drop one of them")
        found[name] = value
    return found


def parse(text: str) -> Any:
    """A value from text: JSON where it is JSON, ``True`` and ``None`` as Python writes them, else the text."""
    try:
        return json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except json.JSONDecodeError:
        return text


def convert(operation: str, name: str, value: Any, kind: Any) -> Any:
    """``value`` as the type ``kind`` of a field: str, int, float, bool, or an optional one.

    Raises:
        ValueError: it is of another type.
    """
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    if str in kinds and isinstance(value, str):
        return value
    parsed = parse(value) if isinstance(value, str) else value
    if parsed is None and type(None) in kinds:
        return None
    for one in kinds:
        if type(parsed) is one or (one is float and type(parsed) is int):
            return one(parsed)
    wanted = " or ".join(getattr(one, "__name__", str(one)) for one in kinds)
    raise argument_error(operation, f"{name}={value!r}", wanted, "correct the value")
