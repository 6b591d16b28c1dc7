"""Names of 2-D mixers: ``register_2d`` enters a class, ``create_mixer_2d`` builds one, ``list_mixers_2d`` shows them.

As for sequence mixers (:mod:`seqconv.registry`), the constructor is the single place of the options.
"""

from importlib import import_module
from typing import Any

from ..registry import Registry
from .mixer_2d import Mixer2d

MODULES = (
    "attention.cross_covariance",
    "attention.cross_window",
    "attention.hashed",
    "attention.manhattan",
    "attention.reduced",
    "attention.slab",
    "attention.window",
    "atrous",
    "axial",
    "continuous.ckconv_nd",
    "continuous.flexconv",
    "continuous.hyper_kernel",
    "dcls",
    "frequency.fourier_operator",
    "frequency.global_filter",
    "frequency.spectral",
    "frequency.spectral_pooling",
    "gated_linear",
    "gnconv",
    "hyena_nd",
    "mobile_mamba",
    "multi_scale",
    "oversized",
    "plain_mamba",
    "scan",
    "sequencer",
    "ss2d",
    "vision_lstm",
)
"""Modules of ``mixers`` that register 2-D mixers."""


def _load() -> None:
    for module in MODULES:
        import_module(f"{__package__}.mixers.{module}")


_MIXERS_2D: Registry[Mixer2d] = Registry("create_mixer_2d", "2-D mixer", _load)
register_2d, mixer_2d_entry = _MIXERS_2D.register, _MIXERS_2D.entry


def list_mixers_2d(pattern: str = "*") -> list[str]:
    """Names of 2-D mixers that match a shell pattern, sorted."""
    return _MIXERS_2D.names(pattern)


def mixer_2d_config(name: str) -> type[Any]:
    """The frozen dataclass of the options of a 2-D mixer, with their types and defaults.

    Raises:
        ValueError: an unknown name; the nearest is named.
    """
    return _MIXERS_2D.config(name)


def create_mixer_2d(name: str, d_model: int, **options: Any) -> Mixer2d:
    """Build a 2-D mixer by name.

    Args:
        name: one of :func:`list_mixers_2d`.
        d_model: width of inputs and outputs.
        **options: as in :func:`mixer_2d_config`.

    Raises:
        ValueError: unknown name or option (the nearest are named), or an option of another type or range.
    """
    _MIXERS_2D.check_options(name, options)
    return mixer_2d_entry(name).mixer(d_model, **options)
