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
from typing import Any, Generic, TypeVar, cast

from torch import nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from .mixer import Mixer
from .options import keyword_parameters, wanted_names, wanted_value
from .types import LayerContext

MixerT = TypeVar("MixerT", bound=nn.Module)
SubclassT = TypeVar("SubclassT", bound=nn.Module)


@dataclass(frozen=True)
class MixerEntry(Generic[MixerT]):
    """A registered mixer.

    Attributes:
        mixer: the class; its constructor takes ``d_model`` and keyword options with defaults.
        summary: one line for listings.
        examples: small option sets that the tests run in addition to the defaults.
        experimental: whether no published weights or results vouch for it; the summary says so.
    """

    name: str
    mixer: type[MixerT]
    summary: str
    examples: tuple[Mapping[str, Any], ...]
    experimental: bool = False


class Registry(Generic[MixerT]):
    """Classes by name: sequence mixers in one registry, 2-D mixers in another.

    Args:
        create: name of the function that builds one, for messages.
        kind: what they are, for messages.
        load: imports the modules that register classes.
    """

    def __init__(self, create: str, kind: str, load: Callable[[], object]) -> None:
        self.create, self.kind, self._load = create, kind, load
        self.entries: dict[str, MixerEntry[MixerT]] = {}
        self._configs: dict[str, type[Any]] = {}

    def register(
        self, name: str, *, examples: tuple[Mapping[str, Any], ...] = ({},), experimental: bool = False
    ) -> Callable[[type[SubclassT]], type[SubclassT]]:
        """Class decorator: enter a class under ``name``; the registry-wide tests then run on each of ``examples``.

        An ``experimental`` one is marked in listings.

        Raises:
            ValueError: the name is taken.
        """

        def enter(mixer: type[SubclassT]) -> type[SubclassT]:
            if name in self.entries:
                got, remedy = f"the name {name!r} a second time", "choose another name"
                raise argument_error("register", got, "a new name", remedy)
            mixer.name = name  # type: ignore[attr-defined]
            summary = ("Experimental. " if experimental else "") + (inspect.getdoc(mixer) or "").split("\n", 1)[0]
            self.entries[name] = MixerEntry(name, cast(type[MixerT], mixer), summary, examples, experimental)
            return mixer

        return enter

    def entry(self, name: str) -> MixerEntry[MixerT]:
        """The entry of a registered class.

        Raises:
            ValueError: unknown name; the nearest are named.
        """
        self._load()
        if name not in self.entries:
            raise unknown_name(self.create, self.kind, name, self.entries)
        return self.entries[name]

    def names(self, pattern: str = "*") -> list[str]:
        """Names of the registered classes that match a shell pattern, sorted."""
        self._load()
        return sorted(name for name in self.entries if fnmatch(name, pattern))

    def config(self, name: str) -> type[Any]:
        """The frozen dataclass of the options of a class, with their types and defaults."""
        if name not in self._configs:
            self._configs[name] = self._make_config(name)
        return self._configs[name]

    def _make_config(self, name: str) -> type[Any]:
        parameters = keyword_parameters(self.entry(name).mixer.__init__)
        fields = [(p.name, p.annotation, dataclasses.field(default=p.default)) for p in parameters if p.name != "layer"]
        return dataclasses.make_dataclass(f"{name}_config", fields, frozen=True)

    def check_options(self, name: str, options: Mapping[str, Any], *others: str) -> None:
        """Raise for options of another type or range, or neither in the class's ``config`` nor among ``others``."""
        kinds = {f.name: f.type for f in dataclasses.fields(self.config(name))} | dict.fromkeys(others, bool)
        for option, value in options.items():
            if option not in kinds:
                raise unknown_name(f"{self.create}({name!r})", "option", option, kinds)
            finite = not isinstance(value, float) or math.isfinite(value)
            wanted = wanted_value(option, kinds[option], value) if finite else "a finite number"
            names = wanted_names(kinds[option])
            if wanted is not None and isinstance(value, str) and names:
                raise unknown_name(f"{self.create}({name!r})", option, value, names)
            if wanted is not None:
                got = f"{option}={value!r}"
                listed = isinstance(value, str) and wanted.startswith("Sequence[str]")
                remedy = f"pass {option}=[{value!r}]" if listed else "correct the configuration"
                raise argument_error(f"{self.create}({name!r})", got, wanted, remedy)


def _load_mixers() -> None:
    from .mixers import load_all

    load_all()


_MIXERS: Registry[Mixer] = Registry("create_mixer", "mixer", _load_mixers)
register, mixer_entry = _MIXERS.register, _MIXERS.entry


def list_mixers(pattern: str = "*") -> list[str]:
    """Names of the registered mixers that match a shell pattern, sorted."""
    return _MIXERS.names(pattern)


def mixer_config(name: str) -> type[Any]:
    """The frozen dataclass of a mixer's options, with their types and defaults.

    >>> mixer_config("hyena")(order=3).order
    3
    """
    return _MIXERS.config(name)


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
        ValueError: unknown name or option (the nearest are named), or an option of another type or range.
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
        ValueError: unknown name or option (the nearest are named), or an option of another type or range.
    """
    _MIXERS.check_options(name, options, "bidirectional")
