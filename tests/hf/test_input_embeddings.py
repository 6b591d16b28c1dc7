"""``get_input_embeddings`` of models of images, videos and sound, for transformers' quantisers and adapters."""

import pytest
import torch
from tiny import config as sequence_config

import seqconv
from seqconv import SeqConvVisionConfig
from seqconv.hf import load

PIXELS = {"image_size": 8, "patch_size": 4}
HIERARCHICAL = {"mixer": "gnconv", "dims": [8, 16], "depths": [1, 1]}
PLAIN = {"mixer": "vig", "d_model": 8, "depth": 1, "image_size": 16, "patch_size": 4}


def vision(**options):
    name = "plain_2d" if "d_model" in options else "hierarchical"
    return SeqConvVisionConfig(backbone_name=name, backbone_options=options, num_labels=3)


CASES = {
    "sequence of patches": ("SeqConvForImageClassification", lambda: sequence_config(**PIXELS), (3, 8, 8)),
    "videos": ("SeqConvForVideoClassification", lambda: sequence_config(num_frames=2, **PIXELS), (2, 3, 8, 8)),
    "waveforms": ("SeqConvForCTC", lambda: sequence_config(frame_size=40, frame_stride=20), (100,)),
    "maps": ("SeqConvVisionForImageClassification", lambda: vision(**HIERARCHICAL), (3, 32, 32)),
    "plain maps": ("SeqConvVisionForImageClassification", lambda: vision(**PLAIN), (3, 16, 16)),
    "segments": ("SeqConvForSemanticSegmentation", lambda: vision(**HIERARCHICAL), (3, 32, 32)),
    "backbone": ("SeqConvBackbone", lambda: vision(**HIERARCHICAL), (3, 32, 32)),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_reach_the_input_embeddings_of_frozen_models(case):
    name, options, shape = CASES[case]
    model = load(name)(options()).requires_grad_(False)
    model.enable_input_require_grads()
    seen = []
    model.get_input_embeddings().register_forward_hook(lambda module, args, output: seen.append(output))
    output = model(torch.randn(2, *shape), return_dict=True)
    (output["feature_maps"][-1] if case == "backbone" else output["logits"]).sum().backward()
    assert len(seen) == 1
    assert seen[0].grad_fn is None
    assert seen[0].grad.isfinite().all()


def test_tokens_are_embedded_as_before():
    model = seqconv.SeqConvForCausalLM(sequence_config())
    assert model.get_input_embeddings() is model.model.embed_tokens
    assert model.get_output_embeddings() is model.lm_head
    assert load("SeqConvForCTC")(sequence_config()).get_output_embeddings() is None
