"""What masked language models and token classifiers share: logits of every token, and their mean cross-entropy."""

from abc import abstractmethod
from typing import Any, cast

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPast, MaskedLMOutput, TokenClassifierOutput

from ..arguments.checks import state_arguments
from ..base import SeqConvPreTrainedModel
from ..configuration import SeqConvConfig
from ..model import SeqConvModel
from .heads import require_modality


class PerTokenModel(SeqConvPreTrainedModel):
    """Base of models with an output for every token; they add a head and call ``post_init``."""

    output_type: type[TokenClassifierOutput] | type[MaskedLMOutput] = TokenClassifierOutput

    def __init__(self, config: SeqConvConfig) -> None:
        require_modality(type(self).__name__, config, "text")
        super().__init__(config)
        self.model = SeqConvModel(config)

    @abstractmethod
    def _output(self, hidden: Tensor) -> Tensor:
        """Logits (batch, length, classes) from hidden states (batch, length, d_model)."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput | MaskedLMOutput | tuple[Any, ...]:
        """Logits (batch, length, classes): tokens of the vocabulary or labels; other arguments as ``SeqConvModel``.

        Args:
            labels: (batch, length), -100 where none counts (for a masked language model: where nothing is masked);
                adds ``loss``.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "inputs_embeds": inputs_embeds}
        inputs |= {"position_ids": position_ids, "cu_seqlens": cu_seqlens}
        inputs |= state_arguments(type(self).__name__, kwargs)
        asked = {"output_hidden_states": output_hidden_states, "return_dict": True}
        outputs = cast(BaseModelOutputWithPast, self.model(**inputs, **asked, **kwargs))
        logits, loss = self._output(cast(Tensor, outputs.last_hidden_state)), None
        if labels is not None:
            count = {name: value for name, value in kwargs.items() if name == "num_items_in_batch"}
            sizes = {"vocab_size": self.config.vocab_size, "config": self.config}
            loss = self._loss(logits=logits, labels=labels, **sizes, **count)
        output = self.output_type(loss=loss, logits=logits, hidden_states=outputs.hidden_states)
        return output if self._wants_dict(return_dict) else output.to_tuple()
