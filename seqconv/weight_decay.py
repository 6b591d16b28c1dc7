"""Weight decay of transformers' ``Trainer``, which goes by names, for parameters that are marked to decay or not to.

``Trainer.get_decay_parameter_names`` decays every parameter whose name does not say bias or norm: ``A_log``, ``D``, the
matrices of S4 and time steps too, and no time step bias, which decays in VMamba's training code. It collects the names
by ``get_parameter_names(module, ...)`` of ``transformers.trainer_pt_utils``, which calls itself for every child.
:func:`honour_marks` wraps that function, so that the marks of :func:`~seqconv.parameters.set_optimizer_options` hold in
the default ``Trainer``, in those of trl, and for models inside the wrappers of peft, DDP and FSDP. Modules without such
marks keep transformers' rule.

Nothing has to be called before: modules with marks ask for the wrapper when they are built, moved or visited. It is
made only once transformers' trainer was imported by other code.
"""

import sys
from collections.abc import Callable
from functools import wraps

from torch import nn

DECAYS = "decays"
"""Among the marks of a module's parameter: that it decays as weights do, whatever its shape and name."""

NAMES = "get_parameter_names"
CALLERS = ("transformers.trainer_pt_utils", "transformers.trainer")
"""Modules of transformers with that function in their namespace."""

WRAPPER = "_honours_seqconv_marks"
"""Attribute of the wrapper alone: other libraries wrap functions too."""


def honour_marks() -> None:
    """Let the ``Trainer`` decay parameters as their marks say; again does nothing more."""
    for name in CALLERS:
        module = sys.modules.get(name)
        names = None if module is None else vars(module).get(NAMES)
        if names is not None and not hasattr(names, WRAPPER):
            setattr(sys.modules[name], NAMES, _by_marks(names))


def _by_marks(names: Callable[..., list[str]]) -> Callable[..., list[str]]:
    @wraps(names)
    def get_parameter_names(model: nn.Module, *args: object, **options: object) -> list[str]:
        marks: dict[str, dict[str, float]] = model.__dict__.get("_optimizer_options", {})
        kept = {name for name, options in marks.items() if options.get("weight_decay") == 0}
        found = [name for name in names(model, *args, **options) if name not in kept]
        # Those of children, too: what transformers leaves out by a child's class or name it leaves out here, again.
        return found + sorted(_decaying(model).difference(found))

    setattr(get_parameter_names, WRAPPER, True)
    return get_parameter_names


def _decaying(model: nn.Module) -> set[str]:
    """Names of the parameters in a model that are marked to decay."""
    return {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name, options in module.__dict__.get("_optimizer_options", {}).items()
        if options.get(DECAYS)
    }
