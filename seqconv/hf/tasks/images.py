"""Masked image modelling: the pixels of hidden patches from those that are seen.

With the patches M that a learned token replaces, the loss is ``mean_{pixels of M} |x - x̂|``, x̂ a linear function of
the outputs at the patches of M.

Source: Xie et al. 2021 (arXiv 2111.09886), as transformers' ViTForMaskedImageModeling.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast, MaskedImageModelingOutput

from seqconv_kernels._core.errors import argument_error

from ...layers.linear import Linear
from ..arguments.checks import check_arguments, state_arguments
from ..base import SeqConvPreTrainedModel
from ..configuration import SeqConvConfig
from ..model import SeqConvModel
from .heads import require_modality

FLOOR = 1e-5
"""Added to the number of hidden pixels, as transformers does: without any the loss is 0."""


class SeqConvForMaskedImageModeling(SeqConvPreTrainedModel):
    """Images with hidden patches; with ``bidirectional=True`` a patch depends on those before and after it."""

    accepts_loss_kwargs = False

    def __init__(self, config: SeqConvConfig) -> None:
        require_modality(type(self).__name__, config, "image")
        super().__init__(config)
        self.main_input_name = config.main_input_name
        self.model = SeqConvModel(config)
        with torch.device("meta"):
            self.mask_token = nn.Embedding(1, config.hidden_size)
            self.decoder = Linear(config.hidden_size, config.num_channels * config.patch_size**2)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        bool_masked_pos: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> MaskedImageModelingOutput | tuple[Any, ...]:
        """``reconstruction`` (batch, num_channels, image_size, image_size) of ``pixel_values`` of that shape.

        Args:
            bool_masked_pos: True (or 1) at hidden patches, (batch, patches) in raster order; adds ``loss``.
        """
        call = state_arguments(type(self).__name__, kwargs)
        check_arguments(type(self).__name__, kwargs, "image")
        x, _ = self.model.embed(pixel_values=pixel_values)
        pixels = cast(Tensor, pixel_values)
        hidden = None if bool_masked_pos is None else self._hidden(bool_masked_pos, x)
        if hidden is not None:
            x = torch.where(hidden[..., None], self.mask_token.weight[0].to(x.dtype), x)
        call |= {"inputs_embeds": x, "output_hidden_states": output_hidden_states}
        outputs = cast(BaseModelOutputWithPast, self.model(**call, return_dict=True))
        reconstruction = self._image(self.decoder(cast(Tensor, outputs.last_hidden_state)))
        loss = None if hidden is None else self._hidden_loss(reconstruction, pixels, hidden)
        output = MaskedImageModelingOutput(
            loss=loss, reconstruction=reconstruction, hidden_states=outputs.hidden_states
        )
        return output if self._wants_dict(return_dict) else output.to_tuple()

    def _hidden(self, marks: Tensor, x: Tensor) -> Bool[Tensor, "batch patches"]:
        if marks.shape != x.shape[:2]:
            wanted = f"(batch, patches) = {tuple(x.shape[:2])}"
            remedy = "mark whole patches, (image_size / patch_size)² of each image"
            raise argument_error(type(self).__name__, f"bool_masked_pos of shape {tuple(marks.shape)}", wanted, remedy)
        return marks.to(x.device).bool()

    def _image(self, patches: Float[Tensor, "batch patches pixels"]) -> Float[Tensor, "batch channels height width"]:
        """Patches in raster order, each (channels, row, column), put together."""
        return F.fold(patches.mT, self.config.image_size, self.config.patch_size, stride=self.config.patch_size)

    def _hidden_loss(self, reconstruction: Tensor, pixels: Tensor, hidden: Tensor) -> Tensor:
        """Mean absolute error over the pixels of hidden patches."""
        side = self.config.image_size // self.config.patch_size
        of_pixels = hidden.view(-1, 1, side, side).float()
        of_pixels = F.interpolate(of_pixels, scale_factor=self.config.patch_size, mode="nearest")
        error = (pixels.to(reconstruction.dtype) - reconstruction).abs() * of_pixels
        mean: Tensor = error.sum() / (of_pixels.sum() + FLOOR) / self.config.num_channels
        return mean
