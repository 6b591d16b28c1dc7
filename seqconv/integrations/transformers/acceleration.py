"""``accelerate``: put seqconv's ops into models of transformers, for one model or for all, and take them out again."""

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from torch import nn

from seqconv_kernels._core.errors import argument_error

from .call import MARK, Everywhere
from .families import FAMILIES, LEFT
from .functions import FUNCTIONS
from .patching import Patches, modelling_files
from .report import FamilyReport, left_families, report

OLDEST, BEFORE = (5, 17), (6, 0)
"""Versions of transformers that define their kernels as :mod:`.functions` expects."""

_patches = Patches()
_active: list["Acceleration"] = []


class Acceleration:
    """Models that run on seqconv until :meth:`restore`, or until the end of a ``with`` block.

    Args:
        model: the model, or ``None`` for all models of the process, those built later included.
        override: take the place of installed original packages too.
    """

    def __init__(self, model: nn.Module | None, override: bool) -> None:
        self._model, self._override = model, override
        self._marked: list[nn.Module] = []

    @property
    def report(self) -> tuple[FamilyReport, ...]:
        """What was replaced, per family."""
        if self not in _active:
            return ()
        if self._model is None:
            return report(_patches.files.values(), None, self._override)
        modules = list(self._model.modules())
        names = {type(m).__module__ for m in modules}
        files = [file for name, file in _patches.files.items() if name in names]
        return report(files, modules, self._override) + left_families(modules)

    def restore(self) -> None:
        """Put back what was there before; the second time nothing."""
        if self not in _active:
            return
        _active.remove(self)
        for module in self._marked:
            delattr(module, MARK)
        self._marked.clear()
        if self._model is None:
            Everywhere.on = Everywhere.override = False
        if not _active:
            _patches.undo()

    def __enter__(self) -> "Acceleration":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def __repr__(self) -> str:
        """The report."""
        return "\n".join(map(str, self.report)) or "nothing is accelerated"

    def _start(self) -> None:
        if self._model is None:
            Everywhere.on, Everywhere.override = True, self._override
            _patch_now_and_later()
        else:
            self._mark(self._model)
        _active.append(self)

    def _mark(self, model: nn.Module) -> None:
        found = [_patches.files[name] for name in _file_names(model) if name in _patches.files]
        classes = tuple(c for file in found for c in file.layers + file.models)
        for module in model.modules():
            if isinstance(module, classes):
                setattr(module, MARK, self._override)
                self._marked.append(module)


def accelerate(model: nn.Module | None = None, *, override: bool = False) -> Acceleration:
    """Run the linear-time layers of transformers' models on seqconv's ops.

    Values, gradients and tokens stay the same, within rounding, except where transformers is wrong (the report and the
    documentation list where). Projections, norms and adapters are called as they were. Works as a call, and as a
    context manager::

        with seqconv.accelerate(model):
            model.generate(**inputs)

    Args:
        model: a model of transformers, also inside peft's or a compiled wrapper. ``None``: all models of the process,
            those built later included.
        override: take the place of ``mamba_ssm``, ``causal_conv1d`` and ``fla`` too. By default an installed package
            that runs on the device of a call keeps its place.

    Returns:
        The acceleration: ``restore()`` ends it, ``report`` says what was replaced.

    Raises:
        ValueError: a version of transformers outside the range; a model without layers to replace, or one that is
            accelerated already. Nothing is changed then.
    """
    check_version()
    if Everywhere.on or (model is not None and any(hasattr(m, MARK) for m in model.modules())):
        what = "a model that is accelerated already" if model is not None else "a second call for all models"
        raise argument_error("accelerate", what, "one acceleration at a time", "call restore() of the first one")
    if model is not None:
        _patch_files_of(model)
    acceleration = Acceleration(model, override)
    acceleration._start()
    return acceleration


def active() -> tuple[Acceleration, ...]:
    """The accelerations of this process that were not restored."""
    return tuple(_active)


def overview() -> dict[str, str]:
    """What :func:`accelerate` would do here, in words: for ``seqconv doctor``."""
    models = Path(find_spec("transformers").origin).parent / "models"  # type: ignore[union-attr, arg-type]
    installed = {path.parent.name for path in models.glob("*/modeling_*.py")}
    packages = {f.package: f.installed() for f in FUNCTIONS.values()}
    try:
        check_version()
        version = "in the range"
    except ValueError as error:
        version = str(error)
    left = [f"{name} ({why})" for name, why in sorted(LEFT.items()) if name in installed]
    return {
        "transformers": version,
        "families served": ", ".join(sorted(FAMILIES.keys() & installed)),
        "families left": "; ".join(left) or "none",
        "original packages": ", ".join(f"{n}: {'' if found else 'not '}installed" for n, found in packages.items()),
        "accelerated now": "\n".join(map(repr, _active)) or "nothing",
    }


def check_version() -> None:
    """Raise for a transformers outside of the range.

    Raises:
        ValueError: always then.
    """
    from transformers import __version__

    release = tuple(int(part) for part in __version__.split(".")[:2])
    if not OLDEST <= release < BEFORE:
        oldest, before = (".".join(map(str, v)) for v in (OLDEST, BEFORE))
        wanted = f"at least {oldest} and less than {before}"
        raise argument_error("accelerate", f"transformers {__version__}", wanted, "install a release of that range")


def _file_names(model: nn.Module) -> Iterator[str]:
    yield from {cls.__module__ for m in model.modules() for cls in type(m).__mro__}


def _patch_files_of(model: nn.Module) -> None:
    """Patch the modelling files of a model's layers.

    Raises:
        ValueError: there is nothing to replace in them.
    """
    files = [sys.modules[name] for name in _file_names(model) if ".modeling_" in name and name in sys.modules]
    for file in files:
        _patches.patch(file)
    classes = tuple(c for f in files if f.__name__ in _patches.files for c in _patches.files[f.__name__].layers)
    if not any(isinstance(m, classes) for m in model.modules()):
        if not _active:
            _patches.undo()
        names = [file.__name__.rsplit(".modeling_", 1)[-1] for file in files]
        why = next((LEFT[name] for name in names if name in LEFT), "none of its layers calls a kernel of linear time")
        what = f"a {type(model).__name__}: {why}"
        raise argument_error(
            "accelerate", what, f"a model of {', '.join(sorted(FAMILIES))}", "leave the model as it is"
        )


def _patch_now_and_later() -> None:
    """Patch the modelling files imported so far, and others when a model of them is built."""
    from transformers import PreTrainedModel

    for file in modelling_files():
        _patches.patch(file)
    post_init = PreTrainedModel.post_init

    def patching_post_init(self: Any) -> None:
        for cls in type(self).__mro__:
            file: ModuleType | None = sys.modules.get(cls.__module__)
            if file is not None and ".modeling_" in cls.__module__:
                _patches.patch(file)
        post_init(self)

    _patches.replace(PreTrainedModel, "post_init", patching_post_init)
