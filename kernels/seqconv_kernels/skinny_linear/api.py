"""Linear layer of few rows, which decoding consists of: its time is that of reading the weight once.

Equation: ``y[b, o] = bias[o] + sum_g scale[o, g] sum_{i in group g} x[b, i] weight[o, i]``. Weights are float32,
bfloat16 or float16 (no scale), or int8 with a scale per row or per group of neighbouring inputs of a row. Sums are
float32 (float64 for float64). Weight-only int8 as in Dettmers et al. 2022, "LLM.int8()", without its outliers: rows
are scaled symmetrically to ±127.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from .._core.checks import check_shape
from .._core.dispatch import Imported
from .._core.errors import argument_error
from .spec import LINEAR, MAX_ROWS, Inputs

__all__ = ["MAX_ROWS", "eager_linear", "quantize_rows", "skinny_linear"]

_EAGER = Imported("skinny_linear.cpu:eager")
_LARGEST = 127
"""Of symmetric int8."""


def skinny_linear(
    x: Float[Tensor, "rows inputs"],
    weight: Shaped[Tensor, "outputs inputs"],
    bias: Float[Tensor, " outputs"] | None = None,
    *,
    scale: Float[Tensor, "outputs ..."] | None = None,
    implementation: str | None = None,
) -> Float[Tensor, "rows outputs"]:
    """Return ``x W^T + bias``; differentiable in every tensor but an int8 weight, by the reference.

    Args:
        x: inputs; the C++ kernel serves up to ``MAX_ROWS`` rows.
        weight: rows are outputs, as in ``nn.Linear``.
        bias: added to every row.
        scale: of an int8 weight, ``(outputs,)`` or ``(outputs, groups)`` with groups of neighbouring inputs.
        implementation: ``"cpu"``, ``"reference"`` or ``None`` for the fastest that serves.

    Returns:
        y of the dtype of ``x``.

    Raises:
        ValueError: shapes, dtypes or devices that do not match; an int8 weight without a scale, or a scale without.
    """
    return LINEAR(Inputs(x, weight, bias, scale), check, implementation)


def eager_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None = None) -> Tensor | None:
    """The layer for ``(..., inputs)`` where another form of a checked layer is faster than torch's, else ``None``.

    That is in plain eager mode on the CPU, without a gradient, for weights that are large enough to be worth it: the
    C++ kernel up to ``MAX_ROWS`` rows, and oneDNN for more (see :mod:`.onednn`).
    """
    y: Tensor | None = (_EAGER.function or _EAGER.resolve())(x, weight, bias, scale)
    return y


def quantize_rows(weight: Float[Tensor, "outputs inputs"], *, group_size: int | None = None) -> tuple[Tensor, Tensor]:
    """An int8 weight and its scales, such that ``scale * int8`` is nearest to ``weight``.

    Args:
        weight: of a linear layer.
        group_size: neighbouring inputs that share a scale; the whole row if not given.

    Returns:
        The int8 weight and float32 scales, ``(outputs,)`` or ``(outputs, groups)``.

    Raises:
        ValueError: a group size that does not divide the inputs.
    """
    inputs = weight.shape[1]
    if group_size is not None and (group_size < 1 or inputs % group_size):
        got, remedy = f"group_size={group_size} for {inputs} inputs", "choose a divisor, or None for whole rows"
        raise argument_error("quantize_rows", got, "a divisor of the inputs", remedy)
    groups = weight.detach().float().unflatten(1, (-1, group_size or inputs))
    scale = groups.abs().amax(-1) / _LARGEST
    nearest = torch.round(groups / torch.where(scale > 0, scale, 1)[..., None])
    narrow = nearest.clamp(-_LARGEST, _LARGEST).to(torch.int8).flatten(1)
    return narrow, scale[:, 0].contiguous() if group_size is None else scale


def check(operation: str, inputs: Inputs) -> None:
    """Raise where shapes, dtypes or devices do not match."""
    x, weight, bias, scale = inputs
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1]:
        got = f"x of shape {tuple(x.shape)} and weight of shape {tuple(weight.shape)}"
        raise argument_error(operation, got, "(rows, inputs) and (outputs, inputs)", "reshape x or transpose weight")
    if bias is not None:
        check_shape(operation, "bias", bias, "outputs", (weight.shape[0],))
    _check_dtypes(operation, inputs)
    if scale is not None and not _scales(scale, weight):
        got = f"scale of shape {tuple(scale.shape)} for a weight of shape {tuple(weight.shape)}"
        wanted = "(outputs,) or (outputs, groups) with groups that divide the inputs"
        raise argument_error(operation, got, wanted, "quantize the weight with quantize_rows")


def _check_dtypes(operation: str, inputs: Inputs) -> None:
    x, weight, bias, scale = inputs
    whole = weight.dtype == torch.int8
    if whole != (scale is not None) or not (whole or weight.is_floating_point()):
        got = f"weight of dtype {weight.dtype} with {'no' if scale is None else 'a'} scale"
        raise argument_error(operation, got, "a floating weight, or int8 with a scale", "use quantize_rows")
    floating = {"x": x, "bias": bias, "scale": scale}
    wrong = [n for n, t in floating.items() if t is not None and not t.is_floating_point()]
    elsewhere = [n for n, t in (floating | {"weight": weight}).items() if t is not None and t.device != x.device]
    for name in wrong + elsewhere:
        tensor = getattr(inputs, name)
        got = f"{name} of dtype {tensor.dtype} on {tensor.device}"
        raise argument_error(operation, got, f"a floating dtype on {x.device}", f"convert {name} with .to()")


def _scales(scale: Tensor, weight: Tensor) -> bool:
    """Whether a scale has the shape of one of this weight."""
    if scale.dim() == 1:
        return scale.shape == weight.shape[:1]
    groups = scale.shape[1] if scale.dim() == 2 else 0
    return groups > 0 and scale.shape[0] == weight.shape[0] and weight.shape[1] % groups == 0
