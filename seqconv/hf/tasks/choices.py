"""Heads that choose: the span of a text that answers a question, and the best of several continuations."""

from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
)

from seqconv_kernels._core.errors import argument_error

from ...layers.linear import Linear
from ..arguments.checks import check_arguments, require_tensor, state_arguments
from ..base import SeqConvPreTrainedModel
from ..configuration import SeqConvConfig
from ..model import SeqConvModel
from .heads import Pooling, require_modality


class SeqConvForQuestionAnswering(SeqConvPreTrainedModel):
    """Where in a text an answer starts and ends: a logit of each for every token."""

    def __init__(self, config: SeqConvConfig) -> None:
        require_modality(type(self).__name__, config, "text")
        super().__init__(config)
        self.model = SeqConvModel(config)
        self.qa_outputs = Linear(config.hidden_size, 2)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> QuestionAnsweringModelOutput | tuple[Any, ...]:
        """``start_logits`` and ``end_logits`` (batch, length); other arguments and errors as ``SeqConvModel``.

        Args:
            start_positions, end_positions: first and last token of the answer, (batch,), outside of the text where
                there is none; add ``loss``.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "inputs_embeds": inputs_embeds}
        inputs |= {"position_ids": position_ids, **state_arguments(type(self).__name__, kwargs), **kwargs}
        asked = {"output_hidden_states": output_hidden_states, "return_dict": True}
        outputs = cast(BaseModelOutputWithPast, self.model(**inputs, **asked))
        start, end = self.qa_outputs(cast(Tensor, outputs.last_hidden_state)).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            places = {"start_positions": start_positions, "end_positions": end_positions}
            loss = self._loss(start_logits=start, end_logits=end, **places)
        output = QuestionAnsweringModelOutput(
            loss=loss, start_logits=start, end_logits=end, hidden_states=outputs.hidden_states
        )
        return output if self._wants_dict(return_dict) else output.to_tuple()


class SeqConvForMultipleChoice(SeqConvPreTrainedModel):
    """One logit for each of several texts, of which one is right."""

    def __init__(self, config: SeqConvConfig) -> None:
        require_modality(type(self).__name__, config, "text")
        super().__init__(config)
        self.model = SeqConvModel(config)
        self.pooling = Pooling(config)
        self.classifier = Linear(config.hidden_size, 1)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> MultipleChoiceModelOutput | tuple[Any, ...]:
        """Logits (batch, choices) of texts (batch, choices, length); other arguments and errors as ``SeqConvModel``.

        Args:
            labels: the right choice, (batch,); adds ``loss``.
        """
        name = type(self).__name__
        if state_arguments(type(self).__name__, kwargs)["use_cache"]:
            got, wanted = "past_key_values", "whole texts: choices are read from their beginning"
            raise argument_error(name, got, wanted, "leave it out")
        check_arguments(name, kwargs, self.config.modality)
        given = inputs_embeds if input_ids is None else input_ids
        require_tensor(name, "inputs_embeds" if input_ids is None else "input_ids", given)
        if given is not None and given.ndim != (4 if input_ids is None else 3):
            wanted = "texts of shape (batch, choices, length)"
            raise argument_error(
                name, f"a tensor of shape {tuple(given.shape)}", wanted, "stack the choices of each row"
            )
        flat = [
            None if t is None else t.flatten(0, 1) for t in (input_ids, attention_mask, inputs_embeds, position_ids)
        ]
        x, mask = self.model.embed(input_ids=flat[0], attention_mask=flat[1], inputs_embeds=flat[2])
        x, mask, positions = self.pooling.insert(x, mask, flat[3])
        inputs = {"inputs_embeds": x, "attention_mask": mask, "position_ids": positions}
        outputs = self.model(**inputs, use_cache=False, return_dict=True)
        logits = self.classifier(self.pooling(outputs.last_hidden_state, mask))
        logits = logits.reshape(cast(Tensor, given).shape[:2])
        loss = None if labels is None else F.cross_entropy(logits, labels)
        output = MultipleChoiceModelOutput(loss=loss, logits=logits)
        return output if self._wants_dict(return_dict) else output.to_tuple()
