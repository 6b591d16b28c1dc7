"""Classifiers of sequences, tokens, images, videos and sound."""

from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    ImageClassifierOutput,
    SequenceClassifierOutput,
    SequenceClassifierOutputWithPast,
)

from seqconv_kernels._core.errors import argument_error

from ..arguments.cache_argument import CACHE, given_cache
from ..arguments.checks import check_arguments
from ..base import SeqConvPreTrainedModel
from ..configuration import SeqConvConfig
from ..model import SeqConvModel
from .heads import Classifier, Pooling, real_tokens, require_modality
from .per_token import PerTokenModel


class _PooledClassifier(SeqConvPreTrainedModel):
    """One label, several, or numbers per sequence; the loss follows ``config.problem_type``."""

    accepts_loss_kwargs = False
    modality: ClassVar[str]

    def __init__(self, config: SeqConvConfig) -> None:
        require_modality(type(self).__name__, config, self.modality)
        super().__init__(config)
        self.main_input_name = config.main_input_name
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
        given = given_cache(type(self).__name__, arguments.pop("past_key_values", None), arguments)
        cache, use_cache = self._state(given, arguments.pop("use_cache", None))
        position_ids = arguments.pop("position_ids", None)
        check_arguments(type(self).__name__, arguments, self.modality)
        self._check_positions(position_ids, attention_mask)
        ids, pad = inputs.get("input_ids"), self.config.pad_token_id
        if attention_mask is None and isinstance(ids, Tensor) and pad is not None and self.config.pooling == "last":
            attention_mask = real_tokens(ids, pad)  # as transformers' own classifiers of the last token do
        x, mask = self.model.embed(attention_mask=attention_mask, **inputs)
        x, mask, position_ids = self.pooling.insert(x, mask, position_ids)
        call: dict[str, Any] = {"inputs_embeds": x, "attention_mask": mask, "position_ids": position_ids}
        call |= {"past_key_values": cache, "use_cache": use_cache, "output_hidden_states": output_hidden_states}
        outputs = cast(BaseModelOutputWithPast, self.model(**call, return_dict=True))
        new = None if mask is None else mask[:, -x.shape[1] :]
        logits = self.classifier(self.pooling(outputs.last_hidden_state, new))
        loss = None
        if labels is not None:
            loss = self._loss(labels=labels, pooled_logits=logits, config=self.config)
        found = {"loss": loss, "logits": logits, "hidden_states": outputs.hidden_states}
        after = getattr(outputs, CACHE)
        return found | ({} if after is None else {CACHE: after})

    def _state(self, cache: Any, use_cache: bool | None) -> tuple[Any, bool | None]:
        """The cache to continue from and whether the model returns one: where the last token is classified."""
        if cache is not None and self.config.pooling != "last":
            got = f"past_key_values with pooling={self.config.pooling!r}"
            remedy = "leave it out: pass whole sequences"
            raise argument_error(type(self).__name__, got, "pooling='last', the only one of new tokens alone", remedy)
        if cache is not None:
            return cache, True
        return None, None if use_cache and self.config.pooling == "last" else False

    def _check_positions(self, positions: Tensor | None, mask: Tensor | None) -> None:
        if positions is None:
            return
        starts = positions[:, 1:] == 0
        if mask is not None and mask.shape[-1] == positions.shape[-1]:
            starts = starts & mask[:, 1:].bool() & mask[:, :-1].bool()
        if bool(starts.any()):
            got = "position_ids that start again at 0"
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
    ) -> SequenceClassifierOutput | SequenceClassifierOutputWithPast | tuple[Any, ...]:
        """Logits (batch, num_labels); other arguments and errors as ``SeqConvModel``.

        A causal classifier with ``pooling="last"`` continues from ``past_key_values`` and returns the state with
        ``use_cache=True``.

        Args:
            labels: classes (batch,), or for ``problem_type`` "regression" numbers and for
                "multi_label_classification" 0 and 1, (batch, num_labels); adds ``loss``.
        """
        inputs = {"input_ids": input_ids, "inputs_embeds": inputs_embeds}
        found = self._classify(inputs, attention_mask, labels, output_hidden_states, kwargs)
        kind = SequenceClassifierOutputWithPast if CACHE in found else SequenceClassifierOutput
        output = kind(**found)
        return output if self._wants_dict(return_dict) else output.to_tuple()


class _PixelClassifier(_PooledClassifier):
    """A classifier of what processors give as ``pixel_values``."""

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutput | tuple[Any, ...]:
        """Logits (batch, num_labels).

        Args:
            pixel_values: images (batch, num_channels, image_size, image_size), or videos (batch, num_frames,
                num_channels, image_size, image_size).
            labels: as those of ``SeqConvForSequenceClassification``.
        """
        inputs = {"pixel_values": pixel_values}
        output = ImageClassifierOutput(**self._classify(inputs, None, labels, output_hidden_states, kwargs))
        return output if self._wants_dict(return_dict) else output.to_tuple()


class SeqConvForImageClassification(_PixelClassifier):
    """A classifier of images, read patch by patch or pixel by pixel."""

    modality = "image"


class SeqConvForVideoClassification(_PixelClassifier):
    """A classifier of videos, read as patches that span several frames (tubelets), frame after frame."""

    modality = "video"


class SeqConvForAudioClassification(_PooledClassifier):
    """A classifier of sound: of waveforms or of features."""

    modality = "audio"

    def forward(
        self,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_features: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """Logits (batch, num_labels) of waveforms or features of sound.

        Args:
            input_values: (batch, samples).
            input_features: (batch, frames, features); some extractors call them ``input_values``, which works too.
            attention_mask: 1 at real samples, or at real frames.
            labels: as those of ``SeqConvForSequenceClassification``.
        """
        inputs = {"input_values": input_values, "input_features": input_features}
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
