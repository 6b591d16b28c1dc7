"""Serving: states inside a prefill, tokens taken back, pools of states for requests that come and go."""

from .history import History, Stream
from .pool import StatePool
from .stateful import Stateful

__all__ = ["History", "StatePool", "Stateful", "Stream"]
