"""Reading the Legendre memory cell of LMUFormer.

Read at 5debaddf, ``src/blocks/lmu_cell.py``. The convolution and batch norm around it (``lmu.py`` there) belong to the
block. The stored impulse response is made from A and B here, for any length.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...mixers.state_space.lmu import LMU, LegendreMemoryUnit
from ..importer import Weights, add_importer, options

ORIGINAL = "zeyuliu1037/LMUFormer:LMUFFTCell"
DEFAULTS = {"input_size": ..., "hidden_size": ..., "memory_size": ..., "theta": ...}
IGNORED = ("seq_len", "seed")


def build(**hyper: Any) -> nn.Module:
    """The mixer, or the cell alone where inputs and outputs differ in width."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    if o.input_size == o.hidden_size:
        return LMU(o.hidden_size, d_state=o.memory_size, window=o.theta)
    return LegendreMemoryUnit(o.input_size, o.hidden_size, d_state=o.memory_size, window=o.theta)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The original's tensors."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    prefix = "cell." if o.input_size == o.hidden_size else ""
    weights.ignore("H", "fft_H")
    found = {f"u_proj.{t}": weights.take(f"W_u.{t}") for t in ("weight", "bias")}
    found |= {f"out_proj.{t}": weights.take(f"W_h.{t}") for t in ("weight", "bias")}
    found |= {"A": weights.take("A"), "B": weights.take("B").flatten()}
    return {prefix + name: tensor for name, tensor in found.items()}


add_importer(ORIGINAL, build=build, convert=convert)
