"""Elman's network: the last output enters with the input.

The layer of :mod:`~seqconv.mixers.recurrent.recurrent_layer` with the state h and ``h_t = tanh(x̂_t + R h_{t-1})``.

Source: Elman 1990 (Cognitive Science 14), where it learns the classes of words from their order.
"""

from ...registry import register
from .recurrent_layer import RecurrentLayer


@register("elman", examples=({"num_heads": 1}, {"num_heads": 2, "bias": False}))
class Elman(RecurrentLayer):
    """Recurrent network of one tanh without gates.

    Args:
        d_model: width of inputs, outputs and states.
        num_heads ... bias: see :class:`~seqconv.mixers.recurrent.recurrent_layer.RecurrentOptions`.
    """

    cell = "elman"
