"""Masked image modelling: the loss of transformers' ViT, hidden patches that are really hidden, heads that go on."""

import pytest
import torch
import torch.nn.functional as F
from tiny import config
from transformers import AutoModelForImageClassification, AutoModelForMaskedImageModeling
from transformers.modeling_outputs import MaskedImageModelingOutput

from seqconv import SeqConvForImageClassification, SeqConvForMaskedImageModeling

SIZES = {"image_size": 8, "patch_size": 2, "num_channels": 3, "bidirectional": True, "position_embedding": "learned"}


def build(**options):
    torch.manual_seed(0)
    return SeqConvForMaskedImageModeling(config(**{**SIZES, **options})).eval()


def images():
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, 3, 8, 8, generator=generator), torch.rand(2, 16, generator=generator) < 0.4


def test_loss_and_reconstruction_are_those_of_a_vit():
    model, (pixels, hidden) = build(), images()
    output = model(pixels, bool_masked_pos=hidden)
    assert type(output) is MaskedImageModelingOutput
    assert output.reconstruction.shape == pixels.shape
    x = model.model.embed(pixel_values=pixels)[0]
    x = torch.where(hidden[..., None], model.mask_token.weight[0], x)
    patches = model.decoder(model.model(inputs_embeds=x).last_hidden_state)
    want = F.pixel_shuffle(patches.mT.unflatten(-1, (4, 4)), 2)  # as the decoder of ViTForMaskedImageModeling
    torch.testing.assert_close(output.reconstruction, want)
    mask = hidden.view(-1, 4, 4).repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
    error = (F.l1_loss(pixels, want, reduction="none") * mask).sum() / (mask.sum() + 1e-5) / 3
    torch.testing.assert_close(output.loss, error)
    torch.testing.assert_close(model(pixels, bool_masked_pos=hidden.long(), return_dict=False)[0], error)
    output.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_hidden_patches_are_not_read():
    model, (pixels, hidden) = build(), images()
    whole = F.interpolate(hidden.view(-1, 1, 4, 4).float(), scale_factor=2).bool()
    changed = torch.where(whole, torch.full_like(pixels, 9.0), pixels)
    first, second = (model(p, bool_masked_pos=hidden).reconstruction for p in (pixels, changed))
    assert torch.equal(first, second)
    assert not torch.allclose(model(pixels).reconstruction, model(changed).reconstruction)
    assert model(pixels).loss is None
    assert model(pixels, bool_masked_pos=torch.zeros(2, 16)).loss == 0


def test_wrong_marks_raise():
    with pytest.raises(ValueError, match=r"bool_masked_pos of shape \(2, 64\); wanted \(batch, patches\) = \(2, 16\)"):
        build()(images()[0], bool_masked_pos=torch.zeros(2, 64))
    with pytest.raises(ValueError, match=r"interpolate_pos_encoding that would change"):
        build()(images()[0], interpolate_pos_encoding=True)


def test_a_classifier_goes_on_from_it(tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    again = AutoModelForMaskedImageModeling.from_pretrained(tmp_path)
    pixels, hidden = images()
    torch.testing.assert_close(again(pixels, bool_masked_pos=hidden).loss, model(pixels, bool_masked_pos=hidden).loss)
    classifier = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=3)
    assert isinstance(classifier, SeqConvForImageClassification)
    weight = model.model.embed_pixels.projection.weight
    assert torch.equal(classifier.model.embed_pixels.projection.weight, weight)
    classifier.save_pretrained(tmp_path / "classifier")
    SeqConvForMaskedImageModeling.from_pretrained(tmp_path / "classifier")
