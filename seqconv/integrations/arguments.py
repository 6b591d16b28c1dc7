"""Arguments of the originals' functions that mean the same to all of them, and those that are not served."""

from typing import Any, Literal

from seqconv_kernels._core.errors import argument_error, unknown_name

SILU = ("silu", "swish")
"""Both names of one activation."""


def unserved(function: str, **given: Any) -> None:
    """Raise for the first of the arguments that has a value: ``None`` and ``False`` pass.

    Raises:
        ValueError: with the name of the argument.
    """
    for name, value in given.items():
        if value is not None and value is not False:
            raise argument_error(function, f"{name}={_short(value)}", "the default of it", f"leave out {name}")


def required(function: str, **given: Any) -> None:
    """Raise for the first of the arguments that is ``None``.

    Raises:
        ValueError: with the name of the argument.
    """
    for name, value in given.items():
        if value is None:
            raise argument_error(function, f"{name}=None", f"a tensor as {name}", f"pass {name}")


def no_others(function: str, others: dict[str, Any], *hints: str) -> None:
    """Raise for keyword arguments of ``**kwargs``, except hints to a kernel, which change no result.

    Raises:
        ValueError: with the name of the argument.
    """
    unserved(function, **{name: value for name, value in others.items() if name not in hints})


def activation_of(function: str, activation: str | bool | None) -> Literal["silu"] | None:
    """The activation under the name of seqconv's op.

    Raises:
        ValueError: another activation.
    """
    if activation is None or activation is False:
        return None
    if activation is True or activation in SILU:
        return "silu"
    raise unknown_name(function, "activation", activation, SILU)


def _short(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return repr(value) if shape is None else f"a tensor of shape {tuple(shape)}"
