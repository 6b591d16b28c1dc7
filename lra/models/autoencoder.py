"""Auto-encoder: every token must be read from the last state, as MAD's compression task asks.

With ``h`` the backbone's output at the last token and ``p_i`` a sinusoid of position ``i``,
``logits_i = W MLP(norm(h + p_i))``. Source: Poli et al., "Mechanistic Design and Scaling of Hybrid Architectures",
2024.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.modeling_outputs import TokenClassifierOutput

from seqconv import SeqConvModel
from seqconv.hf.base import SeqConvPreTrainedModel
from seqconv_kernels._core.errors import argument_error

from .configuration import AutoEncoderConfig


class AutoEncoder(SeqConvPreTrainedModel):
    """Rebuilds its input from the last token's features; read it back with ``AutoModelForTokenClassification``.

    Raises:
        ValueError: an odd ``hidden_size``, which the sinusoids cannot fill.
    """

    config_class = AutoEncoderConfig
    accepts_loss_kwargs = False

    def __init__(self, config: AutoEncoderConfig) -> None:
        width = config.hidden_size
        if width % 2:
            raise argument_error("AutoEncoder", f"hidden_size={width}", "an even one", "choose another width")
        super().__init__(config)
        self.model = SeqConvModel(config)
        self.decoder = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            nn.LayerNorm(width),
            nn.Linear(width, len(config.id2label or {})),
        )
        self.post_init()

    def forward(
        self, input_ids: Int[Tensor, "batch length"], labels: Int[Tensor, "batch length"] | None = None, **kwargs: Any
    ) -> TokenClassifierOutput:
        """Logits (batch, length, num_labels), and the mean cross-entropy over the labels that are not -100."""
        last = self.model(input_ids=input_ids, use_cache=False, return_dict=True).last_hidden_state[:, -1:]
        logits = self.decoder(last + sinusoids(input_ids.shape[1], last.shape[-1]).to(last))
        return TokenClassifierOutput(
            loss=None if labels is None else F.cross_entropy(logits.float().flatten(0, 1), labels.flatten()),
            logits=logits,
        )


def sinusoids(length: int, width: int) -> Float[Tensor, "length width"]:
    """Sines, then cosines, of the positions at geometrically falling frequencies from 1 to 1/10,000."""
    frequencies = 10_000.0 ** -torch.linspace(0, 1, width // 2)
    angles = torch.arange(length)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
