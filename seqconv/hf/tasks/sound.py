"""Heads for every frame of sound: a label per frame, and transcription by connectionist temporal classification.

With the logits ``z_t`` of the frames t of a recording and its labels ``l``, CTC minimises ``-log Σ_π Π_t p(π_t | z_t)``
over all paths ``π`` of labels and blanks that become ``l`` when repetitions are merged and blanks are removed.

Source: Graves et al. 2006, "Connectionist Temporal Classification"; arguments, labels and outputs are those of
transformers' Wav2Vec2 classes.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutput, TokenClassifierOutput

from seqconv_kernels._core.errors import argument_error

from ...layers.linear import Linear
from ..arguments.checks import check_arguments, may_read, state_arguments
from ..base import SeqConvPreTrainedModel
from ..configuration import SeqConvConfig
from ..embeddings import frame_count
from ..model import SeqConvModel
from .heads import Classifier, mean_cross_entropy, require_modality

IGNORED = -100
"""Label of what does not count, as in transformers."""


class _PerFrameModel(SeqConvPreTrainedModel):
    """Base of models with an output for every frame; they add a head and call ``post_init``."""

    accepts_loss_kwargs = False

    def __init__(self, config: SeqConvConfig) -> None:
        require_modality(type(self).__name__, config, "audio")
        if config.audio_input == "spectrogram":
            wanted, remedy = "frames over all bands", "take audio_input='features', or SeqConvForAudioClassification"
            raise argument_error(type(self).__name__, "audio_input='spectrogram'", wanted, remedy)
        super().__init__(config)
        self.main_input_name = config.main_input_name
        self.model = SeqConvModel(config)

    def _read(
        self,
        inputs: dict[str, Tensor | None],
        attention_mask: Tensor | None,
        output_hidden_states: bool | None,
        arguments: dict[str, Any],
    ) -> tuple[BaseModelOutputWithPast, Tensor | None]:
        """Outputs of the backbone, and which frames hold sound, (batch, frames); ``None`` if all do."""
        call = state_arguments(type(self).__name__, arguments)
        check_arguments(type(self).__name__, arguments, "audio")
        x, mask = self.model.embed(attention_mask=attention_mask, **inputs)
        call |= {"inputs_embeds": x, "attention_mask": mask, "output_hidden_states": output_hidden_states}
        return cast(BaseModelOutputWithPast, self.model(**call, return_dict=True)), mask

    def _get_feat_extract_output_lengths(self, input_lengths: Tensor | int) -> Tensor:
        """Number of frames of recordings, from their samples (or frames of features), as in transformers."""
        return frame_count(cast(SeqConvConfig, self.config), torch.as_tensor(input_lengths))

    def get_output_embeddings(self) -> None:
        """None: the head is of no tokens that are inputs too, as in transformers' models of sound."""

    def freeze_base_model(self) -> None:
        """Train the head alone."""
        self.model.requires_grad_(False)


class SeqConvForAudioFrameClassification(_PerFrameModel):
    """A label for every frame of sound."""

    def __init__(self, config: SeqConvConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        with torch.device("meta"):
            self.classifier = Classifier(config)
        self.post_init()

    def forward(
        self,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_features: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput | tuple[Any, ...]:
        """Logits (batch, frames, num_labels); inputs as those of ``SeqConvForAudioClassification``.

        Args:
            labels: the label of each frame, (batch, frames), -100 where none counts; or 1 at the label and 0 elsewhere,
                (batch, frames, num_labels), as transformers' classes take them. Frames of padding never count. Adds
                ``loss``, the mean cross-entropy; 0 where no frame counts.
        """
        inputs = {"input_values": input_values, "input_features": input_features}
        outputs, mask = self._read(inputs, attention_mask, output_hidden_states, kwargs)
        logits, loss = self.classifier(cast(Tensor, outputs.last_hidden_state)), None
        if labels is not None:
            wanted = self._labels(labels, logits.shape)
            wanted = wanted if mask is None else wanted.masked_fill(~mask, IGNORED)
            loss = mean_cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), IGNORED)
        output = TokenClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)
        return output if self._wants_dict(return_dict) else output.to_tuple()

    def _labels(self, labels: Tensor, shape: torch.Size) -> Tensor:
        if labels.shape == shape:
            return labels.argmax(-1)
        if labels.shape != shape[:2]:
            wanted = f"(batch, frames) = {tuple(shape[:2])}, or one-hot rows of {shape[2]} labels"
            remedy = "take the number of frames from _get_feat_extract_output_lengths(samples)"
            raise argument_error(type(self).__name__, f"labels of shape {tuple(labels.shape)}", wanted, remedy)
        return labels


class SeqConvForCTC(_PerFrameModel):
    """Transcription of sound; the blank is ``config.pad_token_id`` (0 where none is given).

    Raises:
        ValueError: a blank outside of the vocabulary.
    """

    def __init__(self, config: SeqConvConfig) -> None:
        config.pad_token_id = 0 if config.pad_token_id is None else config.pad_token_id
        if not 0 <= config.pad_token_id < config.vocab_size:
            got = f"pad_token_id={config.pad_token_id}, the blank"
            raise argument_error(
                type(self).__name__, got, f"ids below vocab_size={config.vocab_size}", "set it to the tokenizer's"
            )
        super().__init__(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        with torch.device("meta"):
            self.lm_head = Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(
        self,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_features: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutput | tuple[Any, ...]:
        """Logits (batch, frames, vocab_size); inputs as those of ``SeqConvForAudioClassification``.

        Args:
            labels: token ids of the transcriptions, (batch, tokens), -100 after the end of each; adds ``loss``, reduced
                as ``config.ctc_loss_reduction`` says.

        Raises:
            ValueError: labels outside of the vocabulary, features padded on the left; see ``SeqConvModel``.
        """
        self._check_labels(labels)
        inputs = {"input_values": input_values, "input_features": input_features}
        outputs, mask = self._read(inputs, attention_mask, output_hidden_states, kwargs)
        logits = self.lm_head(self.dropout(cast(Tensor, outputs.last_hidden_state)))
        loss = None if labels is None else self._ctc_loss(logits, labels.to(logits.device), mask)
        output = CausalLMOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)
        return output if self._wants_dict(return_dict) else output.to_tuple()

    def _check_labels(self, labels: Tensor | None) -> None:
        if labels is None or labels.numel() == 0 or not may_read(labels):
            return
        size, highest = self.config.vocab_size, int(labels.max())
        if labels.dim() != 2 or highest >= size:
            got = f"labels of shape {tuple(labels.shape)} up to {highest}"
            wanted = f"(batch, tokens) of ids below vocab_size={size}"
            raise argument_error(type(self).__name__, got, wanted, "pass the tokenizer's ids, or raise vocab_size")

    @torch.compiler.disable(reason="torch's CTC loss has no compiled form")  # type: ignore[untyped-decorator]
    def _ctc_loss(self, logits: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
        self._check_labels(labels)  # a compiled forward has not
        real = (labels >= 0) & (labels != self.config.pad_token_id)
        mask = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device) if mask is None else mask
        if bool((mask.any(1) & ~mask[:, 0]).any()):
            wanted, remedy = "sound from the first frame", "pad on the right (feature_extractor.padding_side = 'right')"
            raise argument_error(type(self).__name__, "features padded on the left", wanted, remedy)
        loss: Tensor = F.ctc_loss(
            F.log_softmax(logits, dim=-1, dtype=torch.float32).transpose(0, 1),
            labels[real],
            mask.sum(1),
            real.sum(1),
            blank=self.config.pad_token_id,
            reduction=self.config.ctc_loss_reduction,
            zero_infinity=self.config.ctc_zero_infinity,
        )
        return loss
