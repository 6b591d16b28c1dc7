"""MEGA: a moving average over the whole sequence, and gated attention of one head inside chunks.

The equation is in :mod:`seqconv.attention.gated`; the memory e is :class:`~seqconv.mixers.recurrent.ema.EMA` of the
normalised input. Norm and residual connection are inside.

Source: Ma et al. 2022 (arXiv 2209.10655), facebookresearch/mega.
"""

from typing import Unpack

from ...attention.gated import GatedAttention, GatedAttentionOptions
from ...filters.state_space.ema import EMAFilterOptions
from ...options import select_options, with_defaults
from ...registry import register
from ..recurrent.ema import EMA


class MegaOptions(EMAFilterOptions, GatedAttentionOptions, total=False):
    """Options of the moving average and of the attention."""


@register(
    "mega",
    examples=(
        {"attention_chunk_size": 8, "attention": "laplace", "norm": "batch"},
        {"attention_chunk_size": 5, "position_bias": "rotary", "prenorm": False, "norm": "scale", "truncation": 9},
        {"attention": "relu2", "position_bias": "rotary", "norm": "rms", "d_state": 3},
        {"bidirectional": True, "attention_chunk_size": 6, "attention": "laplace"},
    ),
)
class Mega(GatedAttention):
    """Moving average equipped gated attention.

    Args:
        d_model: width of inputs and outputs.
        bidirectional: attend to and average over the future too.
        attention_chunk_size, count_padding, float32_table: as in :class:`~seqconv.attention.gated.GatedAttention`.
        d_state, truncation, untruncated_steps: see :class:`~seqconv.filters.state_space.ema.EMAFilterOptions`.
        d_k ... tie_dropout: see :class:`~seqconv.attention.gated.GatedAttentionOptions`.

    Raises:
        ValueError: as there.
    """

    def __init__(
        self,
        d_model: int,
        *,
        bidirectional: bool = False,
        attention_chunk_size: int | None = None,
        count_padding: bool = False,
        float32_table: bool = False,
        **options: Unpack[MegaOptions],
    ) -> None:
        o = with_defaults(MegaOptions, options, self.name)
        memory = EMA(d_model, bidirectional=bidirectional, **select_options(EMAFilterOptions, o))
        super().__init__(
            memory,
            attention_chunk_size=attention_chunk_size,
            count_padding=count_padding,
            float32_table=float32_table,
            **select_options(GatedAttentionOptions, o),
        )
