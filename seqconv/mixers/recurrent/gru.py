"""GRU: an output that is interpolated between its last value and a new one.

The layer of :mod:`~seqconv.mixers.recurrent.recurrent_layer` with the state h and::

    r, z = σ(x̂ + R h_{t-1} + b)      n = tanh(x̂_n + r (R_n h_{t-1} + b_n))
    h_t = z h_{t-1} + (1 - z) n

The reset gate r acts after the recurrent product, as in PyTorch, cuDNN and FlashRNN. Source: Cho et al. 2014 (arXiv
1406.1078), where it acts before; Chung et al. 2014 (arXiv 1412.3555), who find GRU and LSTM comparable.
"""

from ...registry import register
from .recurrent_layer import RecurrentLayer


@register("gru", examples=({"num_heads": 1}, {"num_heads": 2, "bias": False}))
class GRU(RecurrentLayer):
    """Recurrent network whose gates interpolate between the last and a new output.

    Args:
        d_model: width of inputs, outputs and states.
        num_heads ... bias: see :class:`~seqconv.mixers.recurrent.recurrent_layer.RecurrentOptions`.
    """

    cell = "gru"
    recurrent_bias_apart = True
