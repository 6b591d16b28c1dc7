"""Classifiers of sequences, tokens, images and sound."""

from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    ImageClassifierOutput,
    SequenceClassifierOutput,
)

from seqconv_kernels._core.errors import argument_error

from ..arguments.per_token import PerTokenModel
from ..base import SeqConvPreTrainedModel, check_arguments, reads_whole_sequences
from ..configuration import SeqConvConfig
from ..model import MAIN_INPUT, SeqConvModel
from .heads import Classifier, Pooling, real_tokens, require_modality


class _PooledClassifier(SeqConvPreTrainedModel):
    """One label, several, or numbers per sequence; the loss follows ``config.problem_type``."""

    accepts_loss_kwargs = False
    modality: ClassVar[str]

    def __init__(self, config: SeqConvConfig) -> None:
        require_modality(type(self).__name__, config, self.modality)
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = SeqConvModel(config)
        with torch.device("meta"):
            self.pooling, self.classifier = Pooling(config), Classifier(config)
        self.post_init()

    def _classify(
        self,
        inputs: dict[str, Tensor | None],
        attention_mask: Tensor | None,
        labels: Tensor | None,
        output_hidden_states: bool | None,
        arguments: dict[str, Any],
    ) -> dict[str, Any]:
        arguments = reads_whole_sequences(type(self).__name__, arguments)
        position_ids = arguments.pop("position_ids", None)
        check_arguments(type(self).__name__, arguments)
        self._check_positions(position_ids, attention_mask)
        ids, pad = inputs.get("input_ids"), self.config.pad_token_id
        if attention_mask is None and ids is not None and pad is not None and self.config.pooling == "last":
            attention_mask = real_tokens(ids, pad)  # as transformers' own classifiers of the last token do
        x, mask = self.model.embed(attention_mask=attention_mask, **inputs)
        x, mask = self.pooling.insert(x, mask)
        outputs = cast(
            BaseModelOutputWithPast,
            self.model(
                inputs_embeds=x,
                attention_mask=mask,
                position_ids=position_ids,
                use_cache=False,
                output_hidden_states=output_hidden_states,
                return_dict=True,
            ),
        )
        logits = self.classifier(self.pooling(outputs.last_hidden_state, mask))
        loss = None
        if labels is not None:
            loss = self._loss(labels=labels, pooled_logits=logits, config=self.config)
        return {"loss": loss, "logits": logits, "hidden_states": outputs.hidden_states}

    def _check_positions(self, positions: Tensor | None, mask: Tensor | None) -> None:
        if positions is None:
            return
        starts = positions[:, 1:] == 0
        if mask is not None and mask.shape[-1] == positions.shape[-1]:
            starts = starts & mask[:, 1:].bool() & mask[:, :-1].bool()
        if self.config.pooling == "cls" or bool(starts.any()):
            got = "position_ids that start again at 0, or with pooling='cls'"
            remedy = "leave position_ids out; classify packed sequences one by one"
            raise argument_error(type(self).__name__, got, "one sequence per row", remedy)


class SeqConvForSequenceClassification(_PooledClassifier):
    """A classifier of token sequences."""

    modality = "text"

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """Logits (batch, num_labels); other arguments and errors as ``SeqConvModel``.

        Args:
            labels: classes (batch,), or for ``problem_type`` "regression" numbers and for
                "multi_label_classification" 0 and 1, (batch, num_labels); adds ``loss``.
        """
        inputs = {"input_ids": input_ids, "inputs_embeds": inputs_embeds}
        output = SequenceClassifierOutput(
            **self._classify(inputs, attention_mask, labels, output_hidden_states, kwargs)
        )
        return output if self._wants_dict(return_dict) else output.to_tuple()


class SeqConvForImageClassification(_PooledClassifier):
    """A classifier of images, read patch by patch or pixel by pixel."""

    modality = "image"
    main_input_name = MAIN_INPUT["image"]

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutput | tuple[Any, ...]:
        """Logits (batch, num_labels) of ``pixel_values`` (batch, num_channels, image_size, image_size)."""
        inputs = {"pixel_values": pixel_values}
        output = ImageClassifierOutput(**self._classify(inputs, None, labels, output_hidden_states, kwargs))
        return output if self._wants_dict(return_dict) else output.to_tuple()


class SeqConvForAudioClassification(_PooledClassifier):
    """A classifier of sound: of waveforms or of features."""

    modality = "audio"
    main_input_name = MAIN_INPUT["audio"]

    def forward(
        self,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """Logits (batch, num_labels) of ``input_values`` (batch, samples) or (batch, frames, features)."""
        inputs = {"input_values": input_values}
        output = SequenceClassifierOutput(
            **self._classify(inputs, attention_mask, labels, output_hidden_states, kwargs)
        )
        return output if self._wants_dict(return_dict) else output.to_tuple()


class SeqConvForTokenClassification(PerTokenModel):
    """A label for every token."""

    def __init__(self, config: SeqConvConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        with torch.device("meta"):
            self.classifier = Classifier(config)
        self.post_init()

    def _output(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.classifier(hidden)
        return logits
