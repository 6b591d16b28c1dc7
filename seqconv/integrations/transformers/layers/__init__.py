"""Layers that are loops instead of kernel calls in transformers, rewritten on the ops."""

from collections.abc import Callable
from typing import Any

from ..selective_scan import mamba_step
from .inkling2 import dynamic_short_convolution
from .minimax import lightning_attention
from .recurrent_gemma import recurrent_block, rg_lru_scan
from .rwkv import channel_mix, time_mix
from .xlstm import mlstm_backend
from .zaya import cca_projection

LAYERS: dict[str, Callable[..., Any]] = {
    "Inkling2DynamicShortConvolution": dynamic_short_convolution,
    "MiniMaxLightningAttention": lightning_attention,
    "RecurrentGemmaRecurrentBlock": recurrent_block,
    "RwkvFeedForward": channel_mix,
    "RwkvSelfAttention": time_mix,
    "xLSTMBackend": mlstm_backend,
    "ZayaCCAProjection": cca_projection,
}
"""Class of a layer to what runs instead of its ``forward``: takes the call, then the named arguments."""

STEPS: dict[str, Callable[..., Any]] = {"MambaMixer": mamba_step}
"""Class of a layer to what runs instead of its ``forward`` in decoding, unless it raises ``Unfused``."""

METHODS: dict[str, dict[str, Callable[..., Any]]] = {"RecurrentGemmaRglru": {"_rnn_scan": rg_lru_scan}}
"""Class to methods that run inside the call of an accelerated layer."""
