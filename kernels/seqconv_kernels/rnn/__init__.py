"""Sequential recurrent cells with block-diagonal recurrent weights; see :mod:`.api`."""

from .api import rnn, rnn_step

__all__ = ["rnn", "rnn_step"]
