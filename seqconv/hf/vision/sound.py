"""Classifiers of spectrograms on image backbones: time from left to right, low bands on top (Audio Mamba)."""

from typing import Any

from torch import Tensor
from transformers.modeling_outputs import SequenceClassifierOutput

from seqconv_kernels._core.errors import argument_error

from ...vision.backbones.backbone import check_spectrogram_sizes
from ..arguments.checks import may_read, require_tensor
from .configuration import SeqConvVisionConfig
from .models import SeqConvVisionForImageClassification


class SeqConvVisionForAudioClassification(SeqConvVisionForImageClassification):
    """A classifier of spectrograms of a fixed number of frames, such as ``ASTFeatureExtractor`` makes.

    Weights are those of ``SeqConvVisionForImageClassification``, of one channel. What is padded counts as silence.

    Raises:
        ValueError: a configuration of images in colour.
    """

    main_input_name = "input_values"
    input_modalities = "audio"

    def __init__(self, config: SeqConvVisionConfig) -> None:
        if config.num_channels != 1:
            got, remedy = f"num_channels={config.num_channels}", "set num_channels=1 in the configuration"
            raise argument_error(type(self).__name__, got, "spectrograms, of one channel", remedy)
        super().__init__(config)

    def forward(  # type: ignore[override]  # sound instead of pixels
        self,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_features: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """Logits (batch, num_labels).

        Args:
            input_values: spectrograms (batch, frames, bands), also by the name ``input_features``.
            attention_mask: of ones alone, since these models know no padding.
            labels: as in transformers' classifiers of sound, they add ``loss``.

        Raises:
            ValueError: no spectrograms or twice, another rank, padding.
        """
        sound = self._sound(input_values, input_features, attention_mask)
        options: dict[str, Any] = {"output_hidden_states": output_hidden_states, "return_dict": True, **kwargs}
        found = super().forward(sound.mT[:, None], labels, **options)
        assert not isinstance(found, tuple)
        output = SequenceClassifierOutput(loss=found.loss, logits=found.logits, hidden_states=found.hidden_states)
        return output if self._wants_dict(return_dict) else output.to_tuple()

    def _sound(self, values: Tensor | None, features: Tensor | None, mask: Tensor | None) -> Tensor:
        given = [x for x in (values, features) if x is not None]
        for sound in given:
            require_tensor(type(self).__name__, "input_values", sound)
        remedy = "pass what ASTFeatureExtractor returns (seqconv.hf.feature_extractor.audio_feature_extractor)"
        if len(given) != 1 or given[0].dim() != 3:
            got = f"spectrograms of shape {tuple(given[0].shape)}" if len(given) == 1 else f"{len(given)} spectrograms"
            raise argument_error(type(self).__name__, got, "input_values (batch, frames, bands)", remedy)
        if mask is not None and may_read(mask) and not bool(mask.bool().all()):
            raise argument_error(
                type(self).__name__, "an attention_mask with padding", "spectrograms of one length", remedy
            )
        check_spectrogram_sizes(type(self).__name__, given[0], self.backbone.model)
        return given[0]
