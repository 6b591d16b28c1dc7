"""``accelerate``: put seqconv's ops into models of transformers, for one model or for all, and take them out again."""

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any
from weakref import WeakSet, ref

from torch import nn

from seqconv_kernels._core.errors import argument_error

from .call import MARK, Everywhere, Mark, is_marked
from .families import FAMILIES
from .functions import FUNCTIONS
from .hooks import Bound, hides_class, instances
from .linear import decode_fast, undo
from .patching import Patches, modelling_files
from .report import FamilyReport, report

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
        self._everywhere, self._override = model is None, override
        # Weak: an acceleration that is never restored keeps no model in memory. The modules hold their mark.
        self._mark: ref[Mark] | None = None
        self._layers, self._linear = WeakSet[nn.Module](), WeakSet[nn.Linear]()
        self._bound = Bound()
        if model is None:
            Everywhere.on, Everywhere.override = True, override
            _patch_now_and_later()
            self._bound.rebind(instances(tuple(c for f in _patches.files.values() for c in f.layers + f.models)))
        else:
            self._mark_layers(model)
            self._bound.rebind(self._layers)
            self._linear.update(decode_fast(model))
        _active.append(self)

    @property
    def report(self) -> tuple[FamilyReport, ...]:
        """What was replaced, per family."""
        if self not in active():
            return ()
        if self._everywhere:
            return report(_patches.files.values(), None, self._override)
        names = {type(m).__module__ for m in self._layers}
        files = [file for name, file in _patches.files.items() if name in names]
        return report(files, self._layers, self._override)

    def restore(self) -> None:
        """Put back what was there before; the second time nothing."""
        if self not in _active:
            return
        _active.remove(self)
        if self._mark is not None and (mark := self._mark()) is not None:
            mark.active = False
        for module in self._layers:
            delattr(module, MARK)
        self._layers.clear()
        undo(self._linear)
        self._bound.undo()
        if self._everywhere:
            Everywhere.on = Everywhere.override = False
        if not active():
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

    def _mark_layers(self, model: nn.Module) -> None:
        found = [_patches.files[name] for name in _file_names(model) if name in _patches.files]
        classes = tuple(c for file in found for c in file.layers + file.models)
        mark = Mark(self._override)
        self._mark = ref(mark)
        for module in model.modules():
            if isinstance(module, classes):
                setattr(module, MARK, mark)
                self._layers.add(module)

    def _ended(self) -> bool:
        """Whether every module that was accelerated is gone, copies included."""
        return self._mark is not None and self._mark() is None


def accelerate(model: nn.Module | None = None, *, override: bool = False) -> Acceleration:
    """Run the linear-time layers of transformers' models on seqconv's ops.

    Linear layers of a given model read their weights as fast as memory allows where they decode on a CPU.
    Values, gradients and tokens stay the same, within rounding, except where transformers is wrong (the report and the
    documentation list where). Projections, norms and adapters are called as they were. Works as a call, and as a
    context manager::

        with seqconv.accelerate(model):
            model.generate(**inputs)

    Under gradient checkpointing the backward pass runs layers again, so it belongs into the block too. Deep copies of
    an accelerated model run on seqconv until the end of its acceleration; pickled and saved models know nothing of it.

    Args:
        model: a model of transformers, also inside peft's or a compiled wrapper. ``None``: all models of the process,
            those built later included.
        override: take the place of ``mamba_ssm``, ``causal_conv1d`` and ``fla`` too. By default an installed package
            that runs on the device of a call keeps its place.

    Returns:
        The acceleration: ``restore()`` ends it, ``report`` says what was replaced.

    Raises:
        ValueError: a version of transformers outside the range; no model; a model without layers to replace, or one
            that is accelerated already. Nothing is changed then.
    """
    check_version()
    given: object = model
    if not isinstance(given, nn.Module | None):
        got, remedy = repr(model), "load the model with from_pretrained first"
        raise argument_error("accelerate", got, "a model of transformers, or None for all", remedy)
    if Everywhere.on or (model is not None and any(map(is_marked, model.modules()))):
        what = "a model that is accelerated already" if model is not None else "a second call for all models"
        raise argument_error("accelerate", what, "one acceleration at a time", "call restore() of the first one")
    if model is not None:
        _patch_files_of(model)
    return Acceleration(model, override)


def active() -> tuple[Acceleration, ...]:
    """The accelerations of this process that were not restored and whose models still exist."""
    _active[:] = [acceleration for acceleration in _active if not acceleration._ended()]
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
    return {
        "transformers": version,
        "families served": ", ".join(sorted(FAMILIES.keys() & installed)),
        "original packages": ", ".join(f"{n}: {'' if found else 'not '}installed" for n, found in packages.items()),
        "accelerated now": "\n".join(map(repr, active())) or "nothing",
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
    try:
        _check_layers(model, [m for m in model.modules() if isinstance(m, classes)])
    except ValueError:
        if not active():
            _patches.undo()
        raise


def _check_layers(model: nn.Module, layers: list[nn.Module]) -> None:
    """Raise where there are no layers to replace, or where one does not run what its class says.

    Raises:
        ValueError: always then.
    """
    if not layers:
        what = f"a {type(model).__name__}: none of its layers calls a kernel of linear time"
        wanted, remedy = f"a model of {', '.join(sorted(FAMILIES))}", "leave the model as it is"
        raise argument_error("accelerate", what, wanted, remedy)
    if (own := next(filter(hides_class, layers), None)) is not None:
        what = f"a {type(own).__name__} with a forward of its own, set on the module"
        remedy = "accelerate the model first, then let the other library change its layers"
        raise argument_error("accelerate", what, "layers that run the forward of their class", remedy)


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
