"""Signals in, numbers out: ``y = W h`` at every sample, or once after the last; the loss is the mean squared error."""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_outputs import TokenClassifierOutput

from seqconv import SeqConvModel
from seqconv.hf.base import SeqConvPreTrainedModel
from seqconv.hf.tasks.heads import require_modality

from .configuration import SignalConfig


class SignalRegressor(SeqConvPreTrainedModel):
    """Reads signals sample by sample; load it with ``AutoModelForTimeSeriesPrediction``.

    Raises:
        ValueError: a modality other than ``audio``.
    """

    config_class = SignalConfig
    main_input_name = "input_values"
    accepts_loss_kwargs = False

    def __init__(self, config: SignalConfig) -> None:
        require_modality("SignalRegressor", config, "audio")
        super().__init__(config)
        self.model = SeqConvModel(config)
        self.output = nn.Linear(config.hidden_size, len(config.id2label or {}))
        self.post_init()

    def forward(
        self,
        input_values: Float[Tensor, "batch samples"],
        labels: Float[Tensor, "batch numbers"] | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput:
        """Numbers: (batch, samples), or (batch, num_labels) after the last sample; the error where there are labels."""
        hidden = self.model(input_values=input_values, use_cache=False, return_dict=True).last_hidden_state
        numbers = self.output(hidden).squeeze(-1) if self.config.readout == "every" else self.output(hidden[:, -1])
        loss = None if labels is None else F.mse_loss(numbers.float(), labels.float())
        return TokenClassifierOutput(loss=loss, logits=numbers)
