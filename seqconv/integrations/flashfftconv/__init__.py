"""seqconv's convolutions under the signatures of the package flashfftconv (HazyResearch/flash-fft-conv).

``install()`` puts them under that import name, where the package is absent; ``uninstall()`` takes them away.
"""

from .. import installing
from . import modules
from .modules import FlashDepthWiseConv1d, FlashFFTConv

__all__ = ["FlashDepthWiseConv1d", "FlashFFTConv", "install", "uninstall"]

_SHIM = installing.Shim(
    "flashfftconv",
    "0.0.0",
    {
        "flashfftconv": installing.exports(modules, "FlashFFTConv FlashDepthWiseConv1d"),
        "flashfftconv.conv": installing.exports(modules, "FlashFFTConv"),
        "flashfftconv.depthwise_1d": installing.exports(modules, "FlashDepthWiseConv1d"),
    },
)

install = _SHIM.install
uninstall = _SHIM.uninstall
