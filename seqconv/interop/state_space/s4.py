"""Layers of state-spaces/s4: S4Block, its two kernels, and the minimal S4D.

The filters keep the original's parameters: ``inv_dt``, ``A_real``, ``A_imag``, ``B``, ``C``, ``P``. The original's C of
S4 is replaced in its first forward by C~, the C of the response cut after ``l_kernel`` taps; a state dict from before
(``l_kernel`` = 0) is transformed here, without gradient, as the original does. Steps follow the untruncated recurrence,
as there, but raise beyond ``l_max`` tokens, where the original's steps and its forward pass are two functions.

Every option was read in the original at e757cef: ``models/s4/s4.py`` (S4Block, FFTConv and the kernels) and
``models/s4/s4d.py``. Two of them fail there and are unsupported here: ``gate`` (its constructor reads ``self.layer``
before it exists) and ``bottleneck`` above 1 (the input projection has the width of its output).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...filters.state_space.s4 import S4Filter, truncated_C
from ...filters.state_space.s4d import S4DFilter
from ...filters.state_space.state_space import StateSpaceFilter
from ...layers.residual import Dropout
from ...mixers.state_space.s4 import S4
from ...mixers.state_space.s4_layer import S4Layer
from ...mixers.state_space.s4d import S4D
from ...options import keyword_parameters
from ..importer import Weights, add_importer

REPOSITORY = "state-spaces/s4"
IGNORED = frozenset(
    {"L", "L2", "rates", "batch", "transposed", "verbose", "backend", "device", "dtype", "layer", "_name_"}
)
"""Hyper-parameters that say nothing about the layer itself: shapes of inputs, memory layout, choice of code."""
LOW_RANK_MODES, DIAGONAL_MODES = ("s4", "nplr", "dplr"), ("s4d", "diag")
NOT_DIAGONAL = frozenset({"rank", "P_scale"})
NOT_LOW_RANK = frozenset({"disc", "dss_length", "is_real"})
PROJECTIONS = {
    "input_linear": "in_proj",
    "input_gate": "gate_proj",
    "output_gate": "up_proj",
    "output_linear": "out_proj",
}
"""The original's names of the linear layers, and seqconv's."""


ALIASES = {
    "measure": "init",
    "postact": "final_activation",
    "final_act": "final_activation",
    "gate_act": "gate_activation",
    "mult_act": "mult_activation",
    "drop_kernel": "kernel_dropout",
}
"""The original's names of options, where seqconv's differ; ``measure`` and ``postact`` are its own older names."""


LR_GROUPS = ("A", "B", "C", "dt")
"""Parameters that a single learning rate covers in the original, C among them; P follows A."""


def _by_group(given: float | Mapping[str, float] | None) -> dict[str, float] | None:
    """The original's learning rate or weight decay, one number or some by name, for every group of parameters."""
    if given is None:
        return None
    rates = dict(given) if isinstance(given, Mapping) else dict.fromkeys(LR_GROUPS, float(given))
    return rates | ({"P": rates["A"]} if "A" in rates else {})


def _options(target: Callable[..., Any], hyper: Mapping[str, Any], unused: frozenset[str]) -> dict[str, Any]:
    """The options of ``target`` among the hyper-parameters; without ``lr`` the optimiser's own is meant."""
    given = {k: v for k, v in hyper.items() if k not in IGNORED and not (k in ("measure", "postact") and v is None)}
    own = {parameter.name for parameter in keyword_parameters(target)} - {
        "heads",
        "truncation",
        "recurrent_steps",
        *ALIASES.values(),
    }
    known = own | unused | {"init", *ALIASES}
    for name in given:
        if name not in known:
            raise unknown_name(f"from_original({REPOSITORY!r})", "hyper-parameter", name, known)
    renamed = {ALIASES.get(k, k): v for k, v in given.items() if k not in unused}
    rates, decays = _by_group(given.get("lr")), _by_group(given.get("wd", 0.0))
    return renamed | {"lr": rates, "wd": decays and {k: v for k, v in decays.items() if k != "C"}}


def tuned_length(hyper: Mapping[str, Any]) -> int | None:
    """What the original's ``l_kernel`` is after its first forward over ``L`` tokens; ``None`` if both are unknown."""
    length, asked = hyper.get("l_max") or hyper.get("L"), hyper.get("L") or 0
    while length is not None and length < asked:
        length *= 2
    return length


def _build_kernel(filter: Callable[..., StateSpaceFilter], hyper: Mapping[str, Any]) -> StateSpaceFilter:
    features, heads = hyper["H"] if "H" in hyper else hyper["d_model"], hyper.get("channels", 1)
    rest = {k: v for k, v in hyper.items() if k not in ("H", "d_model", "channels", "l_max")}
    if filter is S4DFilter:
        return filter(features, heads=heads, **_options(filter, rest, NOT_DIAGONAL))
    return filter(features, heads=heads, l_max=tuned_length(hyper), **_options(filter, rest, NOT_LOW_RANK))


def _build_diagonal_kernel(**hyper: Any) -> StateSpaceFilter:
    """Rows (channel, feature) of the filter are the original's (channels, H, L)."""
    return _build_kernel(S4DFilter, hyper)


def _build_low_rank_kernel(**hyper: Any) -> StateSpaceFilter:
    return _build_kernel(S4Filter, hyper)


def build_block(d_model: int, *, mode: str | None = None, kernel: str | None = None, **hyper: Any) -> S4Layer:
    """The layer for an S4Block of these hyper-parameters.

    Raises:
        ValueError: an unknown mode or hyper-parameter, or one with which the original fails.
    """
    kind, modes = mode or kernel or "dplr", (*LOW_RANK_MODES, *DIAGONAL_MODES)
    if kind not in modes:
        raise unknown_name(f"from_original('{REPOSITORY}:S4Block')", "mode", kind, modes)
    bottleneck, gate = hyper.get("bottleneck"), hyper.get("gate")
    if gate is not None or bottleneck not in (None, 1):
        got, wanted = f"bottleneck={bottleneck}, gate={gate}", "neither: the original fails with them"
        raise argument_error(f"from_original('{REPOSITORY}:S4Block')", got, wanted, "build seqconv's own s4 layer")
    taps = None if hyper.get("l_max") is None else round(hyper["l_max"] / hyper.get("rate", 1.0))
    rest = {k: v for k, v in hyper.items() if k != "l_max"}
    if kind in DIAGONAL_MODES:
        return S4D(d_model, truncation=taps, recurrent_steps=True, **_options(S4D, rest, NOT_DIAGONAL))
    tuned = hyper.get("l_max") or hyper.get("L")
    return S4(d_model, truncation=taps, recurrent_steps=True, l_max=tuned, **_options(S4, rest, NOT_LOW_RANK))


def _build_minimal(d_model: int, *, d_state: int = 64, **hyper: Any) -> S4D:
    known = {"dropout", "dt_min", "dt_max", "lr", "B"} | IGNORED
    for name in hyper:
        if name not in known:
            raise unknown_name(f"from_original('{REPOSITORY}:S4D')", "hyper-parameter", name, known | {"d_state"})
    lr = hyper.get("lr")
    rates = {"B": 0.0} if lr is None else {"A": lr, "dt": lr, "B": 0.0}
    options = {k: hyper[k] for k in ("dt_min", "dt_max", "dropout") if k in hyper}
    layer = S4D(d_model, d_state=d_state, init="diag-lin", lr=rates, tie_dropout=True, **options)
    layer.conv_dropout = Dropout(0.0)  # the minimal layer drops once, after the activation
    return layer


def _convert_kernel(weights: Weights, filter: StateSpaceFilter, prefix: str) -> dict[str, Tensor]:
    """The parameters of a kernel, under the same names; B has one axis less."""
    names = [name for name, _ in (*filter.named_parameters(), *filter.named_buffers()) if name != "l_kernel"]
    converted = {name: weights.take(prefix + name) for name in names}
    converted["B"] = converted["B"].squeeze(0)
    if not isinstance(filter, S4Filter):
        weights.ignore(prefix + "P")
        return converted
    l_kernel, tuned = weights.take(prefix + "l_kernel"), filter.tuned_length
    if int(l_kernel) == 0 and tuned:
        converted["C"] = converted["C"] + (_transformed_C(filter, converted, tuned) - converted["C"]).detach()
        l_kernel = torch.full_like(l_kernel, tuned)
    return converted | {"l_kernel": l_kernel}


def _transformed_C(source: S4Filter, converted: Mapping[str, Tensor], length: int) -> Tensor:
    """C~ of a length for parameters whose C is not transformed yet; ``source`` is overwritten with them."""
    source.to(converted["C"].dtype).load_state_dict(
        {k: v.detach() for k, v in converted.items()} | {"l_kernel": torch.tensor(0)}
    )
    with torch.no_grad():
        return truncated_C(source, length)


def _convert_diagonal_kernel(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    return _convert_kernel(weights, _build_diagonal_kernel(**hyper), "")


def _convert_low_rank_kernel(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    return _convert_kernel(weights, _build_low_rank_kernel(**hyper), "")


def convert_block(weights: Weights, block: S4Layer, prefix: str) -> dict[str, Tensor]:
    """The parameters of an S4Block whose names in the original start with ``prefix``."""
    converted = {"D": weights.take(f"{prefix}layer.D")}
    for original, name in PROJECTIONS.items():
        if getattr(block, name) is not None:
            normalised = is_parametrized(getattr(block, name), "weight")
            converted |= _convert_linear(weights, f"{prefix}{original}", name, normalised)
    (where, filter), *_ = ((n, m) for n, m in block.named_modules() if isinstance(m, StateSpaceFilter))
    kernel = _convert_kernel(weights, filter, f"{prefix}layer.kernel.")
    return converted | {f"{where}.{name}": tensor for name, tensor in kernel.items()}


def _convert_linear(weights: Weights, original: str, name: str, normalised: bool) -> dict[str, Tensor]:
    """A Linear layer, which the original puts first in a sequence where an activation follows it.

    ``models/s4/s4.py`` takes ``weight_norm`` and does not read it: the weight is split here into length and direction.
    """
    inside = f"{original}.0" if f"{original}.0.bias" in weights else original
    converted = {f"{name}.bias": weights.take(f"{inside}.bias")}
    if not normalised:
        return converted | {f"{name}.weight": weights.take(f"{inside}.weight")}
    if f"{inside}.weight_g" in weights:
        length, direction = weights.take(f"{inside}.weight_g"), weights.take(f"{inside}.weight_v")
    else:
        direction = weights.take(f"{inside}.weight")
        length = direction.norm(dim=1, keepdim=True)
    parametrized = f"{name}.parametrizations.weight"
    return converted | {f"{parametrized}.original0": length, f"{parametrized}.original1": direction}


def _convert_block(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    return convert_block(weights, build_block(**hyper), "")


def _convert_minimal(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The minimal S4D keeps the pole of positive imaginary part of each pair, and has no B."""
    C = weights.take("kernel.C")
    filter = {
        "inv_dt": weights.take("kernel.log_dt")[:, None],
        "A_real": weights.take("kernel.log_A_real"),
        "A_imag": -weights.take("kernel.A_imag"),
        "B": torch.stack([torch.ones_like(C[..., 0]), torch.zeros_like(C[..., 0])], dim=-1),
        "C": C[None],
    }
    converted = {f"convolution.filter.{name}": tensor for name, tensor in filter.items()}
    return converted | {
        "D": weights.take("D")[None],
        "out_proj.weight": weights.take("output_linear.0.weight").squeeze(-1),
        "out_proj.bias": weights.take("output_linear.0.bias"),
    }


add_importer(
    f"{REPOSITORY}:SSMKernelDiag", build=_build_diagonal_kernel, convert=_convert_diagonal_kernel, mixers=("s4d",)
)
add_importer(
    f"{REPOSITORY}:SSMKernelDPLR", build=_build_low_rank_kernel, convert=_convert_low_rank_kernel, mixers=("s4",)
)
add_importer(f"{REPOSITORY}:S4Block", build=build_block, convert=_convert_block)
add_importer(f"{REPOSITORY}:S4D", build=_build_minimal, convert=_convert_minimal)
