"""K-H-Ismail/Dilated-Convolution-with-Learnable-Spacings-PyTorch: the layer ``Dcls1d`` at commit 83de5624.

Read in DCLS/construct/modules.py. Positions count from the middle of the window towards newer tokens there, as lags
here.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...mixers.convolution.dcls import DCLSConvolution
from ..importer import Weights, add_importer, options

ORIGINAL = "K-H-Ismail/Dilated-Convolution-with-Learnable-Spacings-PyTorch:Dcls1d"
DEFAULTS: Mapping[str, Any] = {
    "in_channels": ...,
    "out_channels": ...,
    "kernel_count": ...,
    "dilated_kernel_size": 1,
    "groups": 1,
    "version": "v1",
    "stride": 1,
    "padding": 0,
    "bias": True,
    "padding_mode": "zeros",
}
IGNORED = ("seed",)


def build(**hyper: Any) -> DCLSConvolution:
    """The convolution with the options of the original."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    if o.stride != 1 or o.padding_mode != "zeros":
        got = f"stride={o.stride}, padding_mode={o.padding_mode!r}"
        remedy = "drop both; take every stride-th output"
        raise argument_error(f"from_original({ORIGINAL!r})", got, "stride=1 and padding_mode='zeros'", remedy)
    return DCLSConvolution(
        o.in_channels,
        o.out_channels,
        kernel_count=o.kernel_count,
        span=o.dilated_kernel_size,
        version=o.version,
        padding=o.padding,
        groups=o.groups,
        bias=o.bias,
    )


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the convolution from that of the original."""
    middle = build(**hyper).filter.middle
    converted = {
        "filter.weight": weights.take("weight").flatten(0, 1),
        "filter.position": middle - weights.take("P")[0].flatten(0, 1),
    }
    if "SIG" in weights:
        converted["filter.sigma"] = weights.take("SIG")[0].flatten(0, 1)
    return converted | ({"bias": weights.take("bias")} if hyper.get("bias", True) else {})


add_importer(ORIGINAL, build=build, convert=convert, mixers=("dcls",))
