"""TCNCA: temporal convolution network with chunked attention; MEGA with another memory.

The equation is in :mod:`seqconv.attention.gated`; the memory e is :class:`~seqconv.mixers.convolution.tcn.TCN` of the
normalised input, so that everything costs O(length) and decoding is exact with bounded memory.

From the paper (Terzić et al. 2023, arXiv 2312.05605): MEGA's moving average, computed by FFT, gives way to a
convolution network of larger reach, in B blocks of dilated causal depthwise convolutions with K taps and a free
dilation factor f; chunked attention, gates, norms and the feed-forward network of MEGA stay; and a stripped variant
does without most of the multiplicative and additive interactions.

The reading here, since no code is public: no activation and no weight norm between levels; a residual connection
around each block only where there are several; ``silu(TCN(x') + ω ⊙ x')`` exactly where MEGA has it for its average;
two networks, one for each direction, added, for the bidirectional form; and for the stripped variant no gate u, r, c,
no ω and no activation at all: ``e = TCN(x')``, ``y = x + W_h A(q, k) W_v x'``.
"""

from typing import Unpack

from ...attention.gated import GatedAttention, GatedAttentionOptions
from ...options import select_options, with_defaults
from ...registry import register
from ..convolution.tcn import TCN, TCNOptions


class TCNCAOptions(TCNOptions, GatedAttentionOptions, total=False):
    """Options of the convolution network and of the attention."""


@register(
    "tcnca",
    examples=(
        {"kernel_size": 3, "levels": 3, "attention_chunk_size": 8, "attention": "laplace"},
        {
            "kernel_size": 4,
            "dilation": 2,
            "levels": 2,
            "blocks": 2,
            "attention_chunk_size": 5,
            "position_bias": "rotary",
        },
        {"kernel_size": 2, "levels": 3, "attention_chunk_size": 6, "stripped": True, "norm": "rms"},
        {"kernel_size": 3, "levels": 2, "bidirectional": True, "attention_chunk_size": 7},
    ),
)
class TCNCA(GatedAttention):
    """Temporal convolution network with chunked attention.

    Args:
        d_model: width of inputs and outputs.
        stripped: leave out the gates, ω and the activations.
        attention_chunk_size: tokens of a chunk; ``None``: attention over everything.
        kernel_size ... bidirectional: see :class:`~seqconv.mixers.convolution.tcn.TCNOptions`.
        d_k ... tie_dropout: see :class:`~seqconv.attention.gated.GatedAttentionOptions`.

    Raises:
        ValueError: as there.
    """

    def __init__(
        self,
        d_model: int,
        *,
        stripped: bool = False,
        attention_chunk_size: int | None = 128,
        **options: Unpack[TCNCAOptions],
    ) -> None:
        o = with_defaults(TCNCAOptions, options, self.name)
        memory = TCN(d_model, plain=stripped, **select_options(TCNOptions, o))
        attention = select_options(GatedAttentionOptions, o)
        super().__init__(memory, attention_chunk_size=attention_chunk_size, gates=not stripped, **attention)
