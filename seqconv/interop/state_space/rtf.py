"""athms/mad-lab: the layer ``RTF`` of mad/model/layers/featurization/rtf.py at commit 0f49a452, a convolution alone.

Its steps solve for the output matrix with the transpose of the matrix that they need, and do not reproduce its kernel;
the imported convolution steps by the recurrence of the kernel.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...convolution.long_convolution import LongConvolution
from ...filters.state_space.rtf import RTFFilter
from ..importer import Weights, add_importer, options

ORIGINAL = "athms/mad-lab:RTF"
DEFAULTS: Mapping[str, Any] = {
    "d_model": ...,
    "state_size": ...,
    "trunc_len": ...,
    "num_a": None,
    "dropout": 0.0,
    "bidirectional": False,
    "init": "zeros",
}
IGNORED = ("flash_fft_conv",)


def build(**hyper: Any) -> LongConvolution:
    """The convolution with the options of the original."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    if o.bidirectional or o.dropout:
        got = f"bidirectional={o.bidirectional}, dropout={o.dropout}"
        wanted = "a causal layer without dropout of taps (the original shortens the transform of odd lengths otherwise)"
        raise argument_error(f"from_original({ORIGINAL!r})", got, wanted, "create_mixer('rtf', bidirectional=True)")
    filter = RTFFilter(o.d_model, l_max=o.trunc_len, d_state=o.state_size, denominators=o.num_a, init=o.init)
    return LongConvolution(filter)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the convolution from that of the original."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    a, b = weights.take("ab").split([o.num_a or o.d_model, o.d_model])
    return {"filter.a": a, "filter.b": b, "filter.h_0": weights.take("h_0")}


add_importer(ORIGINAL, build=build, convert=convert, mixers=("rtf",))
