"""K-H-Ismail/Dilated-Convolution-with-Learnable-Spacings-PyTorch: ``Dcls1d`` and ``Dcls2d``.

Read in DCLS/construct/modules.py at commits 83de5624 and 096daf8f. Positions count from the middle of the window
towards newer tokens there, as lags here. In two dimensions the first positions are those of columns, but in ``"v0"``
those of rows; windows must be square.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...mixers.convolution.dcls import DCLSConvolution
from ...vision.mixers.dcls import DCLSConvolution2d
from ..importer import Weights, add_importer, options

ORIGINAL = "K-H-Ismail/Dilated-Convolution-with-Learnable-Spacings-PyTorch:Dcls1d"
ORIGINAL_2D = "K-H-Ismail/Dilated-Convolution-with-Learnable-Spacings-PyTorch:Dcls2d"
DEFAULTS: Mapping[str, Any] = {
    "in_channels": ...,
    "out_channels": ...,
    "kernel_count": ...,
    "dilated_kernel_size": 1,
    "groups": 1,
    "version": "gauss",
    "stride": 1,
    "padding": 0,
    "bias": True,
    "padding_mode": "zeros",
}
IGNORED = ("seed",)


def build(**hyper: Any) -> DCLSConvolution:
    """The convolution with the options of the original."""
    inputs, outputs, arguments = _arguments(ORIGINAL, hyper)
    return DCLSConvolution(inputs, outputs, **arguments)


def _arguments(original: str, hyper: Mapping[str, Any]) -> tuple[int, int, dict[str, Any]]:
    """Channels in and out, and the other arguments of the convolution."""
    o = options(original, hyper, DEFAULTS, IGNORED)
    if o.stride != 1 or o.padding_mode != "zeros":
        got = f"stride={o.stride}, padding_mode={o.padding_mode!r}"
        remedy = "drop both; take every stride-th output"
        raise argument_error(f"from_original({original!r})", got, "stride=1 and padding_mode='zeros'", remedy)
    arguments = {
        "kernel_count": o.kernel_count, "span": o.dilated_kernel_size, "version": o.version, "padding": o.padding,
        "groups": o.groups, "bias": o.bias,
    }  # fmt: skip
    return o.in_channels, o.out_channels, arguments


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


def build_2d(**hyper: Any) -> DCLSConvolution2d:
    """The convolution of images with the options of the original."""
    for name in ("dilated_kernel_size", "padding"):
        if not isinstance(hyper.get(name, 0), int):
            sides = set(hyper[name])
            if len(sides) > 1:
                got, wanted = f"{name}={hyper[name]}", "one number for both axes"
                raise argument_error(
                    f"from_original({ORIGINAL_2D!r})", got, wanted, "square windows alone were checked"
                )
            hyper[name] = sides.pop()
    inputs, outputs, arguments = _arguments(ORIGINAL_2D, hyper)
    return DCLSConvolution2d(inputs, outputs, **arguments)


def convert_2d(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the convolution of images from that of the original."""
    order = [0, 1] if hyper.get("version", "gauss") == "v0" else [1, 0]  # rows come first here
    converted = {
        "filter.weight": weights.take("weight").flatten(0, 1),
        "filter.position": weights.take("P").flatten(1, 2)[order],
    }
    if "SIG" in weights:
        converted["filter.sigma"] = weights.take("SIG").flatten(1, 2)[order]
    return converted | ({"bias": weights.take("bias")} if hyper.get("bias", True) else {})


add_importer(ORIGINAL_2D, build=build_2d, convert=convert_2d)
add_importer(ORIGINAL, build=build, convert=convert, mixers=("dcls",))
