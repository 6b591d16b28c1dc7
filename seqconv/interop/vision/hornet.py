"""raoyongming/HorNet: gⁿConv.

Read in ``hornet.py`` at 5e552736. Its ``gflayer="GlobalLocalFilter"`` with h and w may also be given as
``global_filter=(h, w)``, and ``scale`` is another name of its ``s``.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...vision.mixers.gnconv import GnConv2d
from ..importer import Weights, add_importer, options

ORIGINAL = "raoyongming/HorNet:gnconv"
GLOBAL_FILTER = "GlobalLocalFilter"
DEFAULTS: Mapping[str, Any] = {
    "dim": ..., "order": 5, "gflayer": None, "h": 14, "w": 8, "s": 1.0, "scale": None, "global_filter": None,
}  # fmt: skip
IGNORED = ("H", "W", "seed")
"""Sizes of a test's input."""


def build(**hyper: Any) -> GnConv2d:
    """The mixer with the options of the original."""
    o = _options(hyper)
    scale = o.s if o.scale is None else o.scale
    return GnConv2d(o.dim, order=o.order, scale=float(scale), global_filter=o.global_filter)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the mixer; 1 by 1 convolutions become linear layers."""
    o = _options(hyper)
    gates = {f"gate_projs.{i}": f"pws.{i}" for i in range(o.order - 1)}
    if o.global_filter is None:
        converted = {f"conv2d.{kind}": weights.take(f"dwconv.{kind}") for kind in ("weight", "bias")}
    else:
        names = {"local.weight": "dw.weight", "weight": "complex_weight"}
        names |= {
            f"{norm}.{kind}": f"{norm}.{kind}" for norm in ("pre_norm", "post_norm") for kind in ("weight", "bias")
        }
        converted = {f"global_filter.{name}": weights.take(f"dwconv.{original}") for name, original in names.items()}
    for name, original in {"in_proj": "proj_in", "out_proj": "proj_out", **gates}.items():
        converted[f"{name}.weight"] = weights.take(f"{original}.weight").flatten(1)
        converted[f"{name}.bias"] = weights.take(f"{original}.bias")
    return converted


def _options(hyper: Mapping[str, Any]) -> Any:
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    if o.gflayer not in (None, GLOBAL_FILTER):
        got, wanted = f"gflayer={o.gflayer!r}", f"None or {GLOBAL_FILTER!r}"
        raise argument_error(f"from_original({ORIGINAL!r})", got, wanted, "these alone were checked")
    if o.gflayer is not None and o.global_filter is None:
        o.global_filter = (o.h, o.w)
    return o


add_importer(ORIGINAL, build=build, convert=convert)
