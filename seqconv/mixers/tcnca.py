"""TCNCA: temporal convolution network with chunked attention; MEGA with another memory.

The equation stands in :mod:`seqconv.attention.gated`; the memory e is :class:`~seqconv.mixers.tcn.TCN` of the
normalised input, so that everything costs O(length) and decoding is exact with bounded memory.

From the paper (Terzić et al. 2023, arXiv 2312.05605): MEGA's moving average, computed by FFT, gives way to a
convolution network of larger reach, in B blocks of dilated causal depthwise convolutions with K taps and a free
dilation factor f; chunked attention, gates, norms and the feed-forward network of MEGA stay; and a stripped variant
does without most of the multiplicative and additive interactions.

Our reading, since no code is public: no activation and no weight norm between levels; a residual connection around
each block only where there are several; ``silu(TCN(x') + ω ⊙ x')`` exactly where MEGA has it for its average; two
networks, one for each direction, added, for the bidirectional form; and for the stripped variant no gate u, r, c,
no ω and no activation at all: ``e = TCN(x')``, ``y = x + W_h A(q, k) W_v x'``.
"""

from ..attention.gated import GatedAttention, GatedAttentionMixer
from ..registry import register
from .tcn import TCN


@register(
    "tcnca",
    examples=(
        {"kernel_size": 3, "levels": 3, "chunk_size": 8, "attention": "laplace"},
        {"kernel_size": 4, "dilation": 2, "levels": 2, "blocks": 2, "chunk_size": 5, "position_bias": "rotary"},
        {"kernel_size": 2, "levels": 3, "chunk_size": 6, "stripped": True, "norm": "rms"},
        {"kernel_size": 3, "levels": 2, "bidirectional": True, "chunk_size": 7},
    ),
)
class TCNCA(GatedAttentionMixer):
    """Temporal convolution network with chunked attention.

    Args:
        d_model: width of inputs and outputs.
        d_k: width of queries and keys; half of ``d_model`` (rounded up to an even number) by default.
        d_v: width of values; ``2 d_model`` by default.
        kernel_size, dilation, levels, blocks, inner_activation: as in :class:`~seqconv.mixers.tcn.TCN`.
        bidirectional: hear the future too.
        stripped: leave out the gates, ω and the activations.
        chunk_size: tokens of a chunk.
        attention, position_bias, max_positions, activation, norm, prenorm, norm_affine, dropout, attention_dropout,
            hidden_dropout, tied_dropout: as in :class:`~seqconv.attention.gated.GatedAttention`.

    Raises:
        ValueError: as there.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_k: int | None = None,
        d_v: int | None = None,
        kernel_size: int = 4,
        dilation: int | None = None,
        levels: int = 5,
        blocks: int = 1,
        inner_activation: str | None = None,
        bidirectional: bool = False,
        stripped: bool = False,
        attention: str = "softmax",
        position_bias: str = "simple",
        max_positions: int = 1024,
        chunk_size: int | None = 128,
        activation: str = "silu",
        norm: str = "layer",
        prenorm: bool = True,
        norm_affine: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        tied_dropout: bool = False,
    ) -> None:
        memory = TCN(
            d_model,
            kernel_size=kernel_size,
            dilation=dilation,
            levels=levels,
            blocks=blocks,
            inner_activation=inner_activation,
            bidirectional=bidirectional,
            plain=stripped,
        )
        gated = GatedAttention(
            memory,
            d_k=d_k,
            d_v=d_v,
            attention=attention,
            position_bias=position_bias,
            max_positions=max_positions,
            chunk_size=chunk_size,
            gates=not stripped,
            activation=activation,
            norm=norm,
            prenorm=prenorm,
            norm_affine=norm_affine,
            dropout=dropout,
            attention_dropout=attention_dropout,
            hidden_dropout=hidden_dropout,
            tied_dropout=tied_dropout,
        )
        super().__init__(gated)
