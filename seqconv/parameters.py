"""Parameter groups for an optimizer: what decays, and what learns at a rate of its own.

Mixers mark parameters that the originals train apart (time scales, eigenvalues) by
``parameter._optim = {"lr": ..., "weight_decay": ...}``, either of them or both.
"""

from typing import Any

from torch import nn

from seqconv_kernels._core.errors import argument_error

from .layers.norms import Norm


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
    in_norms = {id(p) for module in model.modules() if isinstance(module, Norm) for p in module.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        mark: dict[str, float] = getattr(parameter, "_optim", {})
        decays = parameter.dim() > 1 and id(parameter) not in in_norms
        key = (min(lr, mark.get("lr", lr)), mark.get("weight_decay", weight_decay if decays else 0.0))
        groups.setdefault(key, []).append(parameter)
    if not groups:
        remedy = "pass a model whose parameters require gradients"
        raise argument_error("parameter_groups", "a model with nothing to train", "trainable parameters", remedy)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]
