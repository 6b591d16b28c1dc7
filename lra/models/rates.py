"""Models at another sampling rate than they were trained at."""

from typing import TypeVar

from torch import nn

from seqconv.mixer import Mixer

Model = TypeVar("Model", bound=nn.Module)


def at_rate(model: Model, rate: float) -> Model:
    """The model with every mixer as :meth:`seqconv.mixer.Mixer.at_rate` makes it, in place.

    Raises:
        ValueError: a mixer that is not a function of time.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Mixer) and not isinstance(parent, Mixer):
                setattr(parent, name, child.at_rate(rate))
    return model
