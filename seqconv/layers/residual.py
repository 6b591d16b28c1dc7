"""How a layer's output ``y`` joins the residual stream ``x``, by name, and what is dropped on the way.

===========  ======================================================  ================================
``sum``      ``α x + β y``                                           constants ``alpha``, ``beta``
``none``     ``y``                                                   also for layers with a residual of their own
``affine``   ``α x + c ⊙ y``, ``c`` learned                          layer scale (ConvNeXt, S4 "A")
``scaled``   ``r ⊙ x + c ⊙ y``, ``r`` and ``c`` learned              residual scale (NormFormer, MetaFormer)
``decay``    ``√(1 - b²) x + b y``, ``b = depth^-power``             S4 "D"
``highway``  ``(1 - r) ⊙ x + r ⊙ W y``, ``r = σ(V x + W y)``         S4 "H"
===========  ======================================================  ================================

``depth`` counts layers from 1. Sources: the residual types of state-spaces/s4; layer scale of Touvron et al.
2021 (CaiT); stochastic depth of Huang et al. 2016.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import unknown_name

from ..options import check_probability
from .linear import Linear


class Residual(nn.Module, ABC):
    """Base of all residual connections."""

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "*tokens d_model"], y: Float[Tensor, "*tokens d_model"]
    ) -> Float[Tensor, "*tokens d_model"]:
        """Join the stream ``x`` and the layer's output ``y``."""


class Sum(Residual):
    """``α x + β y``."""

    def __init__(self, d_model: int, depth: int, *, alpha: float = 1.0, beta: float = 1.0) -> None:
        super().__init__()
        self.alpha, self.beta = alpha, beta

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.alpha == self.beta == 1.0:
            return x + y
        return self.alpha * x + self.beta * y


class NoResidual(Residual):
    """``y``."""

    def __init__(self, d_model: int, depth: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y


class Affine(Residual):
    """``α x + c ⊙ y`` with ``c`` learned, ``beta · depth^-power`` at the start.

    Args:
        per_channel: one ``c`` per channel (layer scale) instead of one in all.
    """

    def __init__(
        self,
        d_model: int,
        depth: int,
        *,
        alpha: float = 1.0,
        beta: float = 1.0,
        power: float = 0.0,
        per_channel: bool = False,
    ) -> None:
        super().__init__()
        self.alpha, self.initial = alpha, beta * depth**-power
        self.weight = nn.Parameter(torch.empty(d_model if per_channel else 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """``c = beta · depth^-power``."""
        nn.init.constant_(self.weight, self.initial)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.alpha * x + self.weight * y


class Scaled(Residual):
    """``r ⊙ x + c ⊙ y`` with a learned factor of every channel of both.

    Args:
        alpha: initial value of ``r``.
        beta: initial value of ``c``; ``None`` leaves ``c`` out.
    """

    def __init__(self, d_model: int, depth: int, *, alpha: float = 1.0, beta: float | None = None) -> None:
        super().__init__()
        self.alpha, self.beta = alpha, beta
        self.stream_weight = nn.Parameter(torch.empty(d_model))
        self.weight = None if beta is None else nn.Parameter(torch.empty(d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The same factors for all channels."""
        nn.init.constant_(self.stream_weight, self.alpha)
        if self.weight is not None and self.beta is not None:
            nn.init.constant_(self.weight, self.beta)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.stream_weight * x + (y if self.weight is None else self.weight * y)


class Decay(Residual):
    """``√(1 - b²) x + b y`` with ``b = depth^-power``; ``l2=False`` takes ``1 - b`` for the first factor."""

    def __init__(self, d_model: int, depth: int, *, power: float = 0.5, l2: bool = True) -> None:
        super().__init__()
        self.beta = float(depth**-power)
        self.alpha = float((1 - self.beta**2) ** 0.5) if l2 else 1 - self.beta

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.alpha * x + self.beta * y


class Highway(Residual):
    """``s (1 - r) ⊙ x + r ⊙ W y`` with ``r = σ(V x + W y)``.

    Args:
        elementwise: ``W`` is diagonal.
        scaling: the factor ``s``; the original's "scaling correction" is 1.732.
    """

    def __init__(self, d_model: int, depth: int, *, elementwise: bool = False, scaling: float = 1.0) -> None:
        super().__init__()
        self.scaling = scaling
        self.stream = Linear(d_model, d_model)
        self.layer = Diagonal(d_model) if elementwise else Linear(d_model, d_model)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        wy = self.layer(y)
        gate = torch.sigmoid(self.stream(x) + wy)
        joined: Tensor = self.scaling * (1 - gate) * x + gate * wy
        return joined


class Diagonal(nn.Module):
    """``w ⊙ x``."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """``w ~ N(0, 1)``."""
        nn.init.normal_(self.weight)

    def forward(self, x: Float[Tensor, "*tokens d_model"]) -> Float[Tensor, "*tokens d_model"]:
        return self.weight * x


class Dropout(nn.Module):
    """Dropout of ``(batch, length, d_model)``; ``tied`` drops a channel of a row at all its tokens."""

    def __init__(self, p: float, *, tied: bool = False) -> None:
        super().__init__()
        check_probability("dropout", p)
        self.p, self.tied = p, tied

    def forward(self, x: Float[Tensor, "batch *length d_model"]) -> Float[Tensor, "batch *length d_model"]:
        if not self.training or self.p == 0:
            return x
        if not self.tied:
            return nn.functional.dropout(x, self.p)
        ones = x.new_ones(x.shape[0], *[1] * (x.dim() - 2), x.shape[-1])
        return x * nn.functional.dropout(ones, self.p)


class DropPath(nn.Module):
    """Stochastic depth: drop a whole row of the batch with probability ``p``, scale the others by ``1/(1-p)``."""

    def __init__(self, p: float) -> None:
        super().__init__()
        check_probability("drop_path", p)
        self.p = p

    def forward(self, x: Float[Tensor, "batch *rest"]) -> Float[Tensor, "batch *rest"]:
        if not self.training or self.p == 0:
            return x
        return x * nn.functional.dropout(x.new_ones(x.shape[0], *[1] * (x.dim() - 1)), self.p)


RESIDUALS: Mapping[str, Callable[..., Residual]] = {
    "sum": Sum,
    "none": NoResidual,
    "affine": Affine,
    "scaled": Scaled,
    "decay": Decay,
    "highway": Highway,
}


def create_residual(name: str, d_model: int, *, depth: int = 1, **options: Any) -> Residual:
    """Build a residual connection by name.

    Raises:
        ValueError: unknown name or option; the nearest are named.
    """
    if name not in RESIDUALS:
        raise unknown_name("create_residual", "residual", name, RESIDUALS)
    known = set(signature(RESIDUALS[name]).parameters) - {"d_model", "depth"}
    for option in options:
        if option not in known:
            raise unknown_name(f"create_residual({name!r})", "option", option, known)
    return RESIDUALS[name](d_model, depth, **options)
