"""raoyongming/HorNet: gⁿConv.

Read in ``hornet.py`` at 5e552736. The filter in the spectrum (``gflayer``) that replaces the convolution in the "gf"
models is unsupported.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...vision.gnconv import GnConv2d
from ..importer import Weights, add_importer, options

ORIGINAL = "raoyongming/HorNet:gnconv"
DEFAULTS: Mapping[str, Any] = {"dim": ..., "order": 5, "gflayer": None, "s": 1.0}
IGNORED = ("h", "w")


def build(**hyper: Any) -> GnConv2d:
    """The mixer with the options of the original."""
    o = _options(hyper)
    return GnConv2d(o.dim, order=o.order, scale=float(o.s))


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the mixer; 1 by 1 convolutions become linear layers."""
    gates = {f"gate_projs.{i}": f"pws.{i}" for i in range(_options(hyper).order - 1)}
    converted = {f"conv2d.{kind}": weights.take(f"dwconv.{kind}") for kind in ("weight", "bias")}
    for name, original in {"in_proj": "proj_in", "out_proj": "proj_out", **gates}.items():
        converted[f"{name}.weight"] = weights.take(f"{original}.weight").flatten(1)
        converted[f"{name}.bias"] = weights.take(f"{original}.bias")
    return converted


def _options(hyper: Mapping[str, Any]) -> Any:
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    if o.gflayer is not None:
        got, wanted = f"gflayer={o.gflayer}", "None, the 7 by 7 convolution"
        raise argument_error(f"from_original({ORIGINAL!r})", got, wanted, "this alone was checked")
    return o


add_importer(ORIGINAL, build=build, convert=convert)
