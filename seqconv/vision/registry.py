"""Names of 2-D mixers: ``register_2d`` enters a class, ``create_mixer_2d`` builds one, ``list_mixers_2d`` shows them.

As for sequence mixers (:mod:`seqconv.registry`), the constructor is the single place of the options.
"""

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

from ..registry import MixerEntry, Registry
from .mixer_2d import Mixer2d

Mixer2dT = TypeVar("Mixer2dT", bound=Mixer2d)

MODULES = (
    "atrous",
    "gated_linear",
    "gnconv",
    "hyena_nd",
    "manhattan",
    "multi_scale",
    "plain_mamba",
    "scan",
    "spectral",
    "ss2d",
    "vision_lstm",
)
"""Modules of the package that enter mixers."""

_MIXERS_2D: Registry[Mixer2d] = Registry("create_mixer_2d", "2-D mixer")


def register_2d(
    name: str, *, examples: tuple[Mapping[str, Any], ...] = ({},)
) -> Callable[[type[Mixer2dT]], type[Mixer2dT]]:
    """Class decorator: enter a 2-D mixer under ``name``; the registry-wide tests then run on each of ``examples``.

    Raises:
        ValueError: the name is taken.
    """
    return _MIXERS_2D.register(name, examples)


def mixer_2d_entry(name: str) -> MixerEntry[Mixer2d]:
    """The entry of a registered 2-D mixer.

    Raises:
        ValueError: unknown name; the nearest are named.
    """
    return _registry().entry(name)


def list_mixers_2d(pattern: str = "*") -> list[str]:
    """Names of the registered 2-D mixers that match a shell pattern, sorted."""
    return _registry().names(pattern)


@cache
def mixer_2d_config(name: str) -> type[Any]:
    """The frozen dataclass of a 2-D mixer's options, with their types and defaults."""
    return _registry().config(name)


def create_mixer_2d(name: str, d_model: int, **options: Any) -> Mixer2d:
    """Build a 2-D mixer by name.

    Args:
        name: one of :func:`list_mixers_2d`.
        d_model: width of inputs and outputs.
        **options: as in :func:`mixer_2d_config`.

    Raises:
        ValueError: unknown name or option (the nearest are named), or an option that is not finite.
    """
    registry = _registry()
    registry.check_options(name, mixer_2d_config(name), options)
    return registry.entry(name).mixer(d_model, **options)


def _registry() -> Registry[Mixer2d]:
    for module in MODULES:
        import_module(f"{__package__}.{module}")
    return _MIXERS_2D
