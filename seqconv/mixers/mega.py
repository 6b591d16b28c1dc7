"""MEGA: a moving average that hears the whole sequence, and gated attention of one head inside chunks.

The equation stands in :mod:`seqconv.attention.gated`; the memory e is :class:`~seqconv.mixers.ema.EMA` of the
normalised input. Norm and residual connection are inside.

Source: Ma et al. 2022 (arXiv 2209.10655), facebookresearch/mega.
"""

from ..attention.gated import GatedAttention, GatedAttentionMixer
from ..registry import register
from .ema import EMA


@register(
    "mega",
    examples=(
        {"chunk_size": 8, "attention": "laplace", "norm": "batch"},
        {"chunk_size": 5, "position_bias": "rotary", "prenorm": False, "norm": "scale", "truncation": 9},
        {"attention": "relu2", "position_bias": "rotary", "norm": "rms", "d_state": 3},
        {"bidirectional": True, "chunk_size": 6, "attention": "laplace"},
    ),
)
class Mega(GatedAttentionMixer):
    """Moving average equipped gated attention.

    Args:
        d_model: width of inputs and outputs.
        d_k: width of queries and keys; half of ``d_model`` (rounded up to an even number) by default.
        d_v: width of values; ``2 d_model`` by default.
        d_state: exponentials per channel of the moving average.
        bidirectional: hear the future too.
        truncation, untruncated_steps: as in :class:`~seqconv.filters.ema.EMAFilter`.
        attention, position_bias, max_positions, chunk_size, activation, norm, prenorm, norm_affine, dropout,
            attention_dropout, hidden_dropout, tied_dropout, count_padding, float32_table: as in
            :class:`~seqconv.attention.gated.GatedAttention`.

    Raises:
        ValueError: as there.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_k: int | None = None,
        d_v: int | None = None,
        d_state: int = 16,
        bidirectional: bool = False,
        truncation: int | None = None,
        untruncated_steps: bool = False,
        attention: str = "softmax",
        position_bias: str = "simple",
        max_positions: int = 1024,
        chunk_size: int | None = None,
        activation: str = "silu",
        norm: str = "layer",
        prenorm: bool = True,
        norm_affine: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        tied_dropout: bool = False,
        count_padding: bool = False,
        float32_table: bool = False,
    ) -> None:
        memory = EMA(
            d_model,
            d_state=d_state,
            bidirectional=bidirectional,
            truncation=truncation,
            untruncated_steps=untruncated_steps,
        )
        gated = GatedAttention(
            memory,
            d_k=d_k,
            d_v=d_v,
            attention=attention,
            position_bias=position_bias,
            max_positions=max_positions,
            chunk_size=chunk_size,
            activation=activation,
            norm=norm,
            prenorm=prenorm,
            norm_affine=norm_affine,
            dropout=dropout,
            attention_dropout=attention_dropout,
            hidden_dropout=hidden_dropout,
            tied_dropout=tied_dropout,
            count_padding=count_padding,
            float32_table=float32_table,
        )
        super().__init__(gated)
