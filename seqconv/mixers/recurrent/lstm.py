"""LSTM: an additive memory with input, forget and output gates.

The layer of :mod:`~seqconv.mixers.recurrent.recurrent_layer` with the states h and c and::

    i, f, o = σ(x̂ + R h_{t-1})      z = tanh(x̂_z + R_z h_{t-1})
    c_t = f c_{t-1} + i z            h_t = o tanh(c_t)

Source: Hochreiter and Schmidhuber 1997 (Neural Computation 9); the forget gate of Gers et al. 2000. Published result:
perplexity 78.4 on the Penn Treebank with dropout between layers (Zaremba et al. 2014, arXiv 1409.2329, table 1).
"""

from ...registry import register
from .recurrent_layer import RecurrentLayer


@register("lstm", examples=({"num_heads": 1}, {"num_heads": 2, "bias": False}))
class LSTM(RecurrentLayer):
    """Recurrent network with a gated additive memory.

    Args:
        d_model: width of inputs, outputs and states.
        num_heads ... bias: see :class:`~seqconv.mixers.recurrent.recurrent_layer.RecurrentOptions`.
    """

    cell = "lstm"
