"""Pointwise nonlinearities by name, under the names that the original projects use."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from seqconv_kernels._core.errors import unknown_name


def _identity(x: Tensor) -> Tensor:
    return x


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _squared_relu(x: Tensor) -> Tensor:
    return F.relu(x).square()


def _glu(x: Tensor) -> Tensor:
    return F.glu(x, dim=-1)


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "identity": _identity,
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "logsigmoid": F.logsigmoid,
    "relu": F.relu,
    "relu2": _squared_relu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "softplus": F.softplus,
    "tanh": torch.tanh,
}

ALIASES: Mapping[str | None, str] = {None: "identity", "id": "identity", "linear": "identity", "swish": "silu"}
"""Other names of the originals for the same functions."""


def check_activation(operation: str, name: str, *, gated: bool = False) -> str:
    """The name itself; ``gated`` also allows ``"glu"``, which halves the width.

    Raises:
        ValueError: unknown name; the nearest are named.
    """
    known = [*ACTIVATIONS, "glu"] if gated else list(ACTIVATIONS)
    if name not in known:
        raise unknown_name(operation, "activation", name, known)
    return name


def activate(name: str, x: Tensor) -> Tensor:
    """Apply an activation; ``"glu"`` is ``a * sigmoid(b)`` with ``(a, b)`` the halves of the last axis."""
    return _glu(x) if name == "glu" else ACTIVATIONS[name](x)
