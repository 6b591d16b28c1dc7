"""Names of mixers: ``register`` enters a class, ``create_mixer`` builds one, ``list_mixers`` shows them.

The constructor of a mixer is the single place of its options: its keyword parameters give the names, the defaults and
the types (typed options that it hands on to a filter included, see :mod:`seqconv.options`), and ``mixer_config`` makes
a dataclass of numbers from them.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from typing import Any, TypeVar

from seqconv_kernels._core.errors import argument_error, unknown_name

from .mixer import Mixer
from .options import keyword_parameters
from .types import LayerContext

MixerT = TypeVar("MixerT", bound=Mixer)


@dataclass(frozen=True)
class MixerEntry:
    """A registered mixer.

    Attributes:
        mixer: the class; its constructor takes ``d_model`` and keyword options with defaults.
        summary: one line for listings.
        examples: small option sets that the tests run in addition to the defaults.
    """

    name: str
    mixer: type[Mixer]
    summary: str
    examples: tuple[Mapping[str, Any], ...]


_ENTRIES: dict[str, MixerEntry] = {}


def register(name: str, *, examples: tuple[Mapping[str, Any], ...] = ({},)) -> Callable[[type[MixerT]], type[MixerT]]:
    """Class decorator: enter a mixer under ``name``; the registry-wide tests then run on each of ``examples``.

    Raises:
        ValueError: the name is taken.
    """

    def enter(mixer: type[MixerT]) -> type[MixerT]:
        if name in _ENTRIES:
            raise argument_error("register", f"the name {name!r} a second time", "a new name", "choose another name")
        mixer.name = name
        summary = (inspect.getdoc(mixer) or "").split("\n", 1)[0]
        _ENTRIES[name] = MixerEntry(name, mixer, summary, examples)
        return mixer

    return enter


def mixer_entry(name: str) -> MixerEntry:
    """The entry of a registered mixer.

    Raises:
        ValueError: unknown name; the nearest are named.
    """
    entries = _entries()
    if name not in entries:
        raise unknown_name("create_mixer", "mixer", name, entries)
    return entries[name]


def list_mixers(pattern: str = "*") -> list[str]:
    """Names of the registered mixers that match a shell pattern, sorted."""
    return sorted(name for name in _entries() if fnmatch(name, pattern))


@cache
def mixer_config(name: str) -> type[Any]:
    """The frozen dataclass of a mixer's options, with their types and defaults.

    >>> mixer_config("hyena")(order=3).order
    3
    """
    parameters = keyword_parameters(mixer_entry(name).mixer.__init__)
    fields = [(p.name, p.annotation, dataclasses.field(default=p.default)) for p in parameters if p.name != "layer"]
    return dataclasses.make_dataclass(f"{name}_config", fields, frozen=True)


def create_mixer(name: str, d_model: int, *, layer: LayerContext | None = None, **options: Any) -> Mixer:
    """Build a mixer by name.

    ``bidirectional=True`` reaches every mixer: those whose original has no such option are wrapped in
    :class:`~seqconv.mixers.bidirectional.Bidirectional`.

    Args:
        name: one of :func:`list_mixers`.
        d_model: width of inputs and outputs.
        layer: where the mixer is in a stack; only mixers whose initial values depend on it receive it, by a keyword
            ``layer`` of their constructor, which is no option of :func:`mixer_config`.
        **options: as in :func:`mixer_config`.

    Raises:
        ValueError: unknown name or option (the nearest are named), or an option that is not finite.
    """
    entry = mixer_entry(name)
    check_mixer_options(name, options)
    own = {f.name for f in dataclasses.fields(mixer_config(name))}
    wrap = "bidirectional" not in own and options.pop("bidirectional", False)
    if "layer" in inspect.signature(entry.mixer.__init__).parameters:
        options["layer"] = layer
    if wrap:
        from .mixers.bidirectional import Bidirectional

        return Bidirectional(entry.mixer(d_model, **options), entry.mixer(d_model, **options))
    return entry.mixer(d_model, **options)


def check_mixer_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise for options that :func:`create_mixer` rejects, without building anything.

    Raises:
        ValueError: unknown name or option (the nearest are named), or an option that is not finite.
    """
    known = {f.name for f in dataclasses.fields(mixer_config(name))} | {"bidirectional"}
    for option, value in options.items():
        if option not in known:
            raise unknown_name(f"create_mixer({name!r})", "option", option, known)
        if isinstance(value, float) and not math.isfinite(value):
            got = f"{option}={value}"
            raise argument_error(f"create_mixer({name!r})", got, "a finite number", "correct the configuration")


def _entries() -> dict[str, MixerEntry]:
    from .mixers import load_all

    load_all()
    return _ENTRIES
