"""Parameters that training code must treat apart: kept in float32, not decayed, or trained at a rate of their own.

**Float32.** Rounding some parameters to half precision gives another function: a decay ``exp(-Δ e^A_log)`` close to 1
is raised to the power of the length, a network of fast sines (Hyena, ω = 14) changes by 37 % in the l2 norm. A module
that holds such parameters is a :class:`KeepFloat32`: they stay in float32 at least under ``.to(bfloat16)`` and
``.half()``, when a model is loaded in half precision, and under the mixed precision of FSDP.

**Optimiser.** :func:`set_optimizer_options` marks parameters as the originals' training code does, by
``parameter._optim = {"lr": ..., "weight_decay": ...}`` (state-spaces/s4) and ``parameter._no_weight_decay = True``
(state-spaces/mamba), which PyTorch trainers read; transformers' ``Trainer`` is told by
:mod:`~seqconv.weight_decay`, and :func:`parameter_groups` makes the optimiser's groups from them.
The module remembers the marks by name, for code that replaces a parameter by a new one loses its attributes:
:func:`restore_optimizer_options` sets them again.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from operator import attrgetter
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype

from .weight_decay import DECAYS, honour_marks

__all__ = [
    "KeepFloat32",
    "ShardedInGroups",
    "copy_for_rate",
    "kept_parameters",
    "mark_vectors",
    "parameter_groups",
    "register_tensor",
    "restore_optimizer_options",
    "set_optimizer_options",
    "wide_default_dtype",
]

KeepFloat32T = TypeVar("KeepFloat32T", bound="KeepFloat32")
ModuleT = TypeVar("ModuleT", bound=nn.Module)


class ShardedInGroups(nn.Module):
    """A module whose parameters FSDP may have to gather in two dtypes; batch norms are such parameters too."""

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """As in ``nn.Module``; FSDP and trainers, which call it before they group parameters, are told of the marks."""
        if "torch.distributed.fsdp" in sys.modules:
            from .fsdp import keep_float32_groups

            keep_float32_groups()
        honour_marks()
        return super().named_children()


class KeepFloat32(ShardedInGroups):
    """A module whose parameters and buffers, or some of them, stay in float32 at least.

    Attributes:
        float32_names: the module's own parameters and buffers that do; ``None``: all, and those of its children too.
        converted_to: the dtype that the module was last converted to, whatever of it stayed wide; ``None``: none yet.
    """

    float32_names: frozenset[str] | None = None
    converted_to: torch.dtype | None = None
    _found: tuple[Callable[[Any], Any], bool] | None = None

    def keep_float32(self, *names: str) -> None:
        """Keep these parameters and buffers of the module in float32 at least from now on, and convert them now."""
        self.float32_names = (self.float32_names or frozenset()) | frozenset(names)
        for name in names:
            tensor = cast(Tensor, getattr(self, name))
            tensor.data = tensor.data.to(accumulation_dtype(tensor))

    def activation_parameter(self) -> tuple[Tensor, bool] | None:
        """The parameter whose device and dtype are those of the activations: the first of the narrowest.

        Returns:
            It, and whether it stays in float32 (then activations may be narrower). ``None`` without parameters of a
            floating point dtype, as in a quantised module.
        """
        if self._found is not None:  # every call of a mixer asks for it
            try:
                parameter = self._found[0](self)
                if isinstance(parameter, Tensor):
                    return parameter, self._found[1]
            except AttributeError:  # the module that held it was replaced
                pass
        candidates = list(_floating_parameters(self, "", kept=False))
        if not candidates:
            return None
        name, parameter, kept = min(candidates, key=lambda found: (found[2], found[1].dtype.itemsize))
        self._found = (attrgetter(name), kept)
        return parameter, kept

    def _apply(self: KeepFloat32T, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> KeepFloat32T:
        kept = self._kept()

        def convert(t: Tensor) -> Tensor:
            moved = fn(t)
            if moved.is_floating_point() and moved.dtype != t.dtype:
                self.converted_to = moved.dtype
            wide = kept is None or id(t) in kept
            narrowed = moved.is_floating_point() and moved.dtype.itemsize < torch.float32.itemsize
            return t.to(moved.device, torch.promote_types(t.dtype, torch.float32)) if wide and narrowed else moved

        return cast(KeepFloat32T, super()._apply(convert, recurse))

    def _kept(self) -> set[int] | None:
        """Identities of the tensors that stay wide and of their gradients; ``None``: all of this module."""
        if self.float32_names is None:
            return None
        own: dict[str, Tensor | None] = {**self._parameters, **self._buffers}
        kept = [own.get(name) for name in self.float32_names]
        return {id(t) for tensor in kept if tensor is not None for t in (tensor, tensor.grad)}


def kept_parameters(modules: Iterable[nn.Module]) -> set[int]:
    """Identities of the parameters inside ``modules`` that stay in float32."""
    return {id(p) for module in modules for _, p, kept in _floating_parameters(module, "", kept=False) if kept}


def _floating_parameters(module: nn.Module, prefix: str, kept: bool) -> Iterator[tuple[str, Tensor, bool]]:
    """Dotted names of all floating point parameters, and whether each stays in float32."""
    names = module.float32_names if isinstance(module, KeepFloat32) else frozenset[str]()
    kept = kept or names is None
    for name, parameter in module._parameters.items():
        if parameter is not None and parameter.is_floating_point():
            yield prefix + name, parameter, kept or (names is not None and name in names)
    for name, child in module._modules.items():
        if child is not None:
            yield from _floating_parameters(child, f"{prefix}{name}.", kept)


def wide_default_dtype() -> torch.dtype:
    """What parameters that stay in float32 are built in: the default dtype, float32 at least."""
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


def register_tensor(
    module: nn.Module, name: str, value: Tensor, *, lr: float | None = None, weight_decay: float | None = None
) -> None:
    """Register a tensor as a parameter with its own optimiser options, or as a buffer if ``lr`` is 0."""
    if lr == 0:
        module.register_buffer(name, value)
        return
    module.register_parameter(name, nn.Parameter(value))
    set_optimizer_options(module, name, lr=lr, weight_decay=weight_decay)


def set_optimizer_options(
    module: nn.Module,
    *names: str,
    lr: float | None = None,
    weight_decay: float | None = None,
    decays: bool = False,
) -> None:
    """Mark parameters of a module that are trained apart from the weights; a later call replaces an earlier one.

    Args:
        module: the module that holds them directly.
        names: of the parameters.
        lr: their learning rate; ``None``: the model's own.
        weight_decay: their weight decay; ``None``: the model's own.
        decays: whether they decay as weights do, whatever their shape.
    """
    options = {k: v for k, v in {"lr": lr, "weight_decay": weight_decay}.items() if v is not None}
    if decays:
        options[DECAYS] = True
    marks: dict[str, dict[str, float]] = module.__dict__.setdefault("_optimizer_options", {})
    marks.update(dict.fromkeys(names, options))
    restore_optimizer_options(module)


def mark_vectors(model: nn.Module) -> None:
    """Mark parameters of fewer than two axes in seqconv's modules (gains, skip connections) as not decaying.

    While they have that shape: sharding may lay out others as vectors.
    """
    for module in model.modules():
        if type(module).__module__.startswith("seqconv."):
            vectors = (name for name, p in module._parameters.items() if p is not None and p.dim() < 2)
            marks = module.__dict__.get("_optimizer_options", {})
            set_optimizer_options(module, *(name for name in vectors if name not in marks), weight_decay=0.0)


def restore_optimizer_options(model: nn.Module) -> None:
    """Mark all parameters of a model again, after loading or sharding has replaced them by new ones."""
    honour_marks()
    for module in model.modules():
        for name, options in module.__dict__.get("_optimizer_options", {}).items():
            parameter: Any = getattr(module, name)
            parameter._optim = {k: v for k, v in options.items() if k != DECAYS}
            vars(parameter).pop("_no_weight_decay", None)
            vars(parameter).pop("_decays", None)
            if options.get("weight_decay") == 0:
                parameter._no_weight_decay = True
            if options.get(DECAYS):
                parameter._decays = True


def parameter_groups(model: nn.Module, *, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """Groups for any torch optimizer, each with ``params``, ``lr`` and ``weight_decay``.

    Biases, norms and other parameters of fewer than two axes do not decay. A mark replaces the rate and the decay it
    names, the rate only by a smaller one.

    Args:
        model: the model; frozen parameters are left out, shared ones come once.
        lr: learning rate, above 0.
        weight_decay: decay of the weights, 0 or more.

    Raises:
        ValueError: a rate or decay out of range, or nothing to train.

    >>> parameter_groups(nn.Linear(2, 2), lr=1e-3, weight_decay=0.1)[1]["weight_decay"]
    0.0
    """
    if not (lr > 0 and weight_decay >= 0):
        got = f"lr={lr}, weight_decay={weight_decay}"
        raise argument_error("parameter_groups", got, "lr > 0 and weight_decay >= 0", "correct the numbers")
    restore_optimizer_options(model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        mark: dict[str, float] = getattr(parameter, "_optim", {})
        weights = parameter.dim() > 1 or getattr(parameter, "_decays", False)
        decays = weights and not getattr(parameter, "_no_weight_decay", False)
        key = (min(lr, mark.get("lr", lr)), mark.get("weight_decay", weight_decay if decays else 0.0))
        groups.setdefault(key, []).append(parameter)
    if not groups:
        remedy = "pass a model whose parameters require gradients"
        raise argument_error("parameter_groups", "a model with nothing to train", "trainable parameters", remedy)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def copy_for_rate(operation: str, module: ModuleT, rate: float) -> ModuleT:
    """A copy of a module with the same parameters and buffers, to be run at another sampling rate.

    Raises:
        ValueError: a rate that is not positive.
    """
    if not 0 < rate < math.inf:
        raise argument_error(operation, f"rate={rate}", "a positive factor", "pass 1.0 for the same rate")
    shared: dict[int, Any] = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return deepcopy(module, shared)
