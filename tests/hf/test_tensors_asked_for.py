"""Inputs that are no tensors: what processors and tokenizers return when no tensors are asked of them."""

import numpy as np
import pytest
import torch
from tiny import config
from transformers import BatchEncoding, BatchFeature

from seqconv import SeqConvVisionConfig
from seqconv.hf import load

pytestmark = pytest.mark.usefixtures("unannotated")

PIXELS, SOUND = np.zeros((1, 3, 16, 16), np.float32), np.zeros((1, 60), np.float32)
INPUTS = {
    "SeqConvForImageClassification": ("pixel_values", PIXELS, {"image_size": 16, "patch_size": 4}),
    "SeqConvForAudioClassification": ("input_values", SOUND, {"frame_size": 20, "frame_stride": 10}),
    "SeqConvForCTC": ("input_values", SOUND, {"frame_size": 20, "frame_stride": 10}),
    "SeqConvForCausalLM": ("input_ids", np.ones((1, 5), np.int64), {}),
    "SeqConvForSequenceClassification": (
        "input_ids",
        np.ones((1, 5), np.int64),
        {"pooling": "last", "pad_token_id": 0},
    ),
    "SeqConvForMultipleChoice": ("input_ids", np.ones((1, 2, 5), np.int64), {}),
    "SeqConvVisionForImageClassification": ("pixel_values", PIXELS, {}),
    "SeqConvForSemanticSegmentation": ("pixel_values", PIXELS, {}),
    "SeqConvVisionForAudioClassification": ("input_values", np.zeros((1, 16, 16), np.float32), {"num_channels": 1}),
}


def build(name, options):
    if "Vision" not in name and "Segmentation" not in name:
        return load(name)(config(**options))
    sizes = {"mixer": "gnconv", "dims": [8], "depths": [1]}
    return load(name)(
        SeqConvVisionConfig(backbone_name="hierarchical", backbone_options=sizes, num_labels=2, **options)
    )


@pytest.mark.parametrize("name", INPUTS)
def test_lists_arrays_and_what_was_not_unpacked_raise(name):
    argument, values, options = INPUTS[name]
    model = build(name, options).eval()
    for given in (values, list(values), values.tolist()):
        with pytest.raises(
            ValueError, match=rf"{argument} of type (ndarray|list); wanted a torch.Tensor.*return_tensors='pt'"
        ):
            model(given)
    made = BatchEncoding if argument == "input_ids" else BatchFeature
    inputs = made({argument: values}, tensor_type="pt")
    with pytest.raises(ValueError, match=rf"{made.__name__}; wanted a torch.Tensor.*model\(\*\*inputs\)"):
        model(inputs)
    assert model(**inputs).logits.isfinite().all()


def test_masks_that_are_lists_raise():
    model = build("SeqConvForCausalLM", {})
    with pytest.raises(ValueError, match=r"attention_mask of type list; wanted a torch.Tensor"):
        model(torch.ones(1, 2, dtype=torch.long), attention_mask=[[1, 1]])


def test_a_single_image_lacks_the_axis_of_the_batch():
    model = build("SeqConvVisionForImageClassification", {})
    with pytest.raises(ValueError, match=r"wanted \(batch, 3, height, width\)\. Remedy: add the axis of the batch"):
        model(torch.zeros(3, 16, 16))
