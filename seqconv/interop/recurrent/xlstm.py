"""Reading the sLSTM layer of NX-AI/xlstm.

Read at 032a6fb, ``xlstm/blocks/slstm/layer.py`` and ``cell.py``. Traps: the layer calls the output of its ``fgate`` i
and that of its ``igate`` f, so that each drives the other's gate; the weight of its norm is stored less one; the two
backends store the recurrent kernel and the bias in different orders, which differ in the shape of the kernel.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...mixers.recurrent.slstm import GATES, SLSTM
from ..importer import Weights, add_importer, options

ORIGINAL = "NX-AI/xlstm:sLSTMLayer"
NAMES = (ORIGINAL, "NX-AI/xlstm:xlstm/blocks/slstm/layer.py:sLSTMLayer", "NX-AI/xlstm:xlstm.blocks.slstm.sLSTMLayer")
DEFAULTS = {
    "embedding_dim": ..., "num_heads": 4, "conv1d_kernel_size": 4, "group_norm_weight": True, "dropout": 0.0,
    "function": "slstm", "gradient_recurrent_cut": False, "gradient_recurrent_clipval": None, "forward_clipval": None,
    "initial_val": 0.0,
}  # fmt: skip
IGNORED = (
    "backend", "bias_init", "recurrent_weight_init", "batch_size", "dtype", "dtype_b", "dtype_r", "dtype_w", "dtype_g",
    "dtype_s", "dtype_a", "enable_automatic_mixed_precision", "_block_idx", "_num_blocks", "hidden_size", "num_states",
    "num_gates", "constants", "seed",
)  # fmt: skip
"""Initial values, dtypes and speed."""
SUPPORTED = {
    "group_norm_weight": True, "function": "slstm", "gradient_recurrent_cut": False, "gradient_recurrent_clipval": None,
    "forward_clipval": None, "initial_val": 0.0,
}  # fmt: skip
PROJECTIONS = {"i_proj": "fgate", "f_proj": "igate", "z_proj": "zgate", "o_proj": "ogate"}


def _read(hyper: Mapping[str, Any]) -> Any:
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    for name, wanted in SUPPORTED.items():
        if getattr(o, name) != wanted:
            got = f"{name}={getattr(o, name)!r}"
            raise argument_error(
                f"from_original({ORIGINAL!r})", got, f"{wanted!r}", "this variant of the layer was not checked"
            )
    return o


def build(**hyper: Any) -> SLSTM:
    """The module for the original's configuration."""
    o = _read(hyper)
    return SLSTM(o.embedding_dim, num_heads=o.num_heads, d_conv=o.conv1d_kernel_size or None, dropout=o.dropout)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The original's tensors, gates first."""
    o = _read(hyper)
    heads, width = o.num_heads, o.embedding_dim // o.num_heads
    kernel, bias = weights.take("slstm_cell._recurrent_kernel_"), weights.take("slstm_cell._bias_").flatten()
    if kernel.shape == (heads, GATES * width, width):  # backend "vanilla": (heads, gates, out, in), (gates, heads, out)
        recurrent = kernel.unflatten(1, (GATES, width)).transpose(0, 1)
        bias = bias.unflatten(0, (GATES, heads, width))
    else:  # backend "cuda": (heads, in, gates, out), (heads, gates, out)
        recurrent = kernel.unflatten(-1, (GATES, width)).permute(2, 0, 3, 1)
        bias = bias.unflatten(0, (heads, GATES, width)).transpose(0, 1)
    found = {f"{target}.weight": weights.take(f"{original}.weight") for target, original in PROJECTIONS.items()}
    if o.conv1d_kernel_size:
        found["conv1d.weight"] = weights.take("conv1d.conv.weight").squeeze(1)
        found["conv1d.bias"] = weights.take("conv1d.conv.bias")
    norm = 1 + weights.take("group_norm.weight")
    return found | {"recurrent_weight": recurrent, "recurrent_bias": bias, "norm.weight": norm}


add_importer(*NAMES, build=build, convert=convert)
