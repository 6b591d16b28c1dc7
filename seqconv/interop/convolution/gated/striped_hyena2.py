"""StripedHyena 2: ``HyenaCascade`` of Zymrael/vortex, and the filters that Zymrael/savanna trains.

Read in vortex/model/{model,engine,utils}.py at cb229ae5, and in
savanna/model/operators/hyena/parametrization/{explicit, implicit_modal}.py at 0d42c604. ``HyenaCascade`` takes
projected features and ends before the output projection. Filters of fewer than 128 taps are stored oldest tap first,
without a skip; longer ones lag 0 first, with a skip. vortex stores medium filters with their window folded in. Long
filters with fewer groups than channels repeat the wrong axis there, and are not imported.

``inner`` is the original's ``fir_inner_filter_length``, ``groups`` its ``hyena_filter_groups``.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ....filters.explicit.taps import TapsFilter
from ....filters.state_space.real_modal import FactoredModalFilter
from ....mixers.convolution.gated.gated_convolution import GatedConvolution
from ....mixers.convolution.gated.striped_hyena2 import make_operator
from ...importer import Weights, add_importer, options

CASCADE = "Zymrael/vortex:HyenaCascade"
MEDIUM = "Zymrael/savanna:ExplicitSingleDecayFilter"
LONG = "Zymrael/savanna:ImplicitRealModalFilter"
LONG_TAPS = 128
"""From this many taps on vortex convolves instead of correlating, with a skip."""

CASCADE_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": ...,
    "num_attention_heads": ...,
    "state_size": 16,
    "groups": ...,
    "inner": None,
    "short_filter_length": 3,
    "short_filter_bias": False,
    "column_split_hyena": True,
    "interleave": False,
    "hyena_flip_x1x2": False,
}
MEDIUM_DEFAULTS: Mapping[str, Any] = {
    "d_model": ...,
    "L_cache": ...,
    "decay_preset": "strong",
    "num_decay_repeats": 1,
    "unit_passthrough": False,
    "small_init": True,
}
LONG_DEFAULTS: Mapping[str, Any] = {"d_model": ..., "order": ..., "dt_min": 0.001, "dt_max": 0.1}
IGNORED = ("kind", "prefill_length", "seed", "num_filters", "L_cache", "log_r_min", "log_r_max", "p_min", "p_max")


def build(**hyper: Any) -> GatedConvolution:
    """The operator between the projections."""
    o = options(CASCADE, hyper, CASCADE_DEFAULTS, IGNORED)
    check_groups(o)
    long = o.inner is None
    operator = "long" if long else "short"
    make = make_operator(o.hidden_size, operator, width=o.inner, groups=o.groups, d_state=o.state_size)
    return GatedConvolution(
        o.hidden_size,
        make,
        d_conv=o.short_filter_length,
        conv_bias=o.short_filter_bias,
        skip=long or o.inner >= LONG_TAPS,
        heads=o.num_attention_heads if o.column_split_hyena else 1,
        interleave=o.interleave,
        flip_gates=o.hyena_flip_x1x2,
    )


def check_groups(o: Any) -> None:
    """Raise for groups of filters that the original cannot run.

    Raises:
        ValueError: groups of long filters, or one group of taps.
    """
    long = o.inner is None
    if long and o.groups != o.hidden_size:
        wanted = f"groups=hidden_size={o.hidden_size} (the original repeats the wrong axis otherwise)"
        raise argument_error(f"from_original({CASCADE!r})", f"groups={o.groups}", wanted, "correct the groups")
    if not long and o.groups == 1:
        wanted = "at least 2 (the original fails in its forward otherwise)"
        raise argument_error(f"from_original({CASCADE!r})", "groups=1", wanted, "correct the groups")


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the operator from that of the original."""
    o = options(CASCADE, hyper, CASCADE_DEFAULTS, IGNORED)
    converted = {"short_conv.weight": weights.take("short_filter_weight")[:, 0]}
    if o.short_filter_bias:
        converted["short_conv.bias"] = weights.take("short_filter_bias")
    if o.inner is None or o.inner >= LONG_TAPS:
        converted["D"] = weights.take("D")
    if o.inner is not None:
        taps = weights.take("h")[:, 0]
        return converted | {"convolution.filter.weight": taps if o.inner >= LONG_TAPS else taps.flip(-1)}
    return converted | {
        "convolution.filter.log_poles": weights.take("log_poles")[..., 0],
        "convolution.filter.residues": weights.take("residues"),
    }


def build_medium(**hyper: Any) -> TapsFilter:
    """The filter alone: called with a length it gives the taps."""
    o = options(MEDIUM, hyper, MEDIUM_DEFAULTS, IGNORED)
    return TapsFilter(
        o.d_model,
        width=o.L_cache,
        decay=o.decay_preset,
        decay_repeats=o.num_decay_repeats,
        small_init=o.small_init,
        unit_first=o.unit_passthrough,
    )


def convert_medium(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the filter from that of the original."""
    window = build_medium(**hyper).window
    assert window is not None
    h = weights.take("h")
    return {"weight": h, "window": weights.take("decay") if "decay" in weights else window.to(h.dtype)}


def build_long(**hyper: Any) -> FactoredModalFilter:
    """The filter alone, for the length ``L``, on which its times depend in the original."""
    o = options(LONG, hyper, LONG_DEFAULTS, IGNORED)
    length = hyper.get("L", hyper.get("L_cache"))
    if length is None:
        remedy = "pass L, the length of the sequences"
        raise argument_error(f"from_original({LONG!r})", "no L", "the length that the filter is for", remedy)
    return FactoredModalFilter(o.d_model, d_state=o.order, dt_min=o.dt_min, dt_max=o.dt_max, l_max=length)


def convert_long(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the filter from that of the original, whose layer norm acts nowhere."""
    weights.ignore("residues_norm.weight", "residues_norm.bias")
    parts = {"dt": "dt", "R": "R", "q": "p"}
    return {name: weights.take(original).transpose(0, 1) for name, original in parts.items()}


add_importer(CASCADE, build=build, convert=convert, mixers=("striped_hyena2",))
add_importer(MEDIUM, build=build_medium, convert=convert_medium, mixers=("striped_hyena2",))
add_importer(LONG, build=build_long, convert=convert_long, mixers=("striped_hyena2",))
