"""One form for every error about arguments: what was asked, what came, what was wanted, what to do."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches


def argument_error(operation: str, received: str, wanted: str, remedy: str) -> ValueError:
    """Build the ``ValueError`` that every check of this project raises.

    >>> str(argument_error("fft_conv", "u of shape (3,)", "(batch, length, channels)", "add the missing axes"))
    'fft_conv: received u of shape (3,); wanted (batch, length, channels). Remedy: add the missing axes.'
    """
    return ValueError(f"{operation}: received {received}; wanted {wanted}. Remedy: {remedy}.")


def unknown_name(operation: str, kind: str, name: str, known: Iterable[str]) -> ValueError:
    """Build the ``ValueError`` for a misspelt name; it names the nearest known ones."""
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    remedy = f"did you mean {' or '.join(map(repr, near))}?" if near else "take one of the known names"
    return argument_error(operation, f"{kind} {name!r}", f"one of {', '.join(names)}", remedy)


def check_name(operation: str, kind: str, name: str, known: Collection[str]) -> None:
    """Raise unless a name is one of the known ones.

    Raises:
        ValueError: as :func:`unknown_name` builds it.
    """
    if name not in known:
        raise unknown_name(operation, kind, name, known)
