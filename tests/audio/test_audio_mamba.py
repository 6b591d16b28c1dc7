"""Audio Mamba: the original's numbers, its variants, spectrograms of any length."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv import create_model, from_original
from seqconv.vision.backbones.plain import PlainBackbone

ORIGINAL = "mhamzaerol/Audio-Mamba-AuM:AudioMamba"
SMALL = {"d_model": 8, "depth": 2, "image_size": (8, 12), "patch_size": (4, 4), "in_channels": 1}


def small(**options):
    torch.manual_seed(0)
    return PlainBackbone("vim", **{**SMALL, **options}).double().eval()


def test_outputs_and_gradients_of_the_original():
    case = load_case("vision/audio_mamba_model")
    params = {k: v.double() for k, v in case.group("param").items()}
    imported = Imported(ORIGINAL, params, case.hyper)
    x = case.tensors["in.x"].double().requires_grad_()
    y, want = imported(x), case.tensors["out.y"]
    assert_close(y, want, 1e-9, 1e-9 * want.abs().max().item(), "logits")
    (y * case.tensors["cot.y"]).sum().backward()
    gradients = case.group("grad")
    gradient = gradients.pop("in.x")
    assert_close(x.grad, gradient, 1e-6, 1e-6 * gradient.abs().max().item(), "gradient of the spectrogram")
    largest = max(t.abs().max().item() for t in gradients.values())
    check_gradients(imported, gradients, 1e-6, 1e-6 * largest)


def test_columns_are_read_as_the_rows_of_the_turned_image():
    by_column, by_row = small(order="column"), small(image_size=(12, 8))
    tensors = by_column.state_dict()
    tensors["position_embedding"] = tensors["position_embedding"].transpose(0, 1)
    tensors["patch_embedding.weight"] = tensors["patch_embedding.weight"].mT
    by_row.load_state_dict(tensors)
    images = torch.randn(2, 1, 8, 12, dtype=torch.float64)
    torch.testing.assert_close(by_column.pooled(images), by_row.pooled(images.mT))
    torch.testing.assert_close(by_column(images)[0], by_row(images.mT)[0].transpose(1, 2))


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_the_class_token_alone_is_pooled(place):
    backbone, images = small(cls_position=place, depth=1), torch.randn(2, 1, 8, 12, dtype=torch.float64)
    maps, last = backbone.features(images)
    index = {"first": 0, "middle": 3, "last": 6}[place]
    rest = [i for i in range(7) if i != index]
    assert torch.equal(maps[0].flatten(1, 2), last[:, rest])
    torch.testing.assert_close(backbone.pool(last), backbone.norm(last[:, index]))


def test_pairs_read_in_both_directions():
    backbone = small(pairs=True)
    assert backbone.num_stages == 1
    (pair,) = backbone.blocks
    x = torch.randn(2, 7, 8, dtype=torch.float64)
    forwards, backwards = pair.forwards(x) - x, pair.backwards(x.flip(1)) - x.flip(1)
    torch.testing.assert_close(pair(x), 2 * x + forwards + backwards.flip(1))
    with pytest.raises(ValueError, match=r"depth=3.*an even depth of pairs"):
        small(pairs=True, depth=3)


def test_models_by_name_read_spectrograms_of_any_length(unannotated):
    with torch.device("meta"):
        model = create_model("audio_mamba_small")
        assert model(torch.randn(2, 100, 128)).shape == (2, 527)
    model = create_model("audio_mamba_small", num_classes=3, image_size=(16, 32)).eval()
    with pytest.raises(ValueError, match=r"spectrograms of shape \(16, 16\); wanted \(batch, frames, bands\)"):
        model(torch.zeros(16, 16))
    with pytest.raises(ValueError, match=r"spectrograms of 3 frames of 16 bands; wanted at least 16 frames"):
        model(torch.zeros(1, 3, 16))


def test_unchecked_options_raise():
    for options, message in (
        ({"if_rope": True}, r"if_rope=True; wanted if_rope=False"),
        ({"use_double_cls_token": True}, r"use_double_cls_token=True"),
        ({"bimamba_type": "v3"}, r"bimamba_type='v3'"),
        ({"if_cls_token": False, "final_pool_type": "max"}, r"final_pool_type='max' without a class token"),
        ({"transpose_token_sequence": True, "strides": (10, 10)}, r"the original fails otherwise"),
        ({"embed_dims": 8}, r"did you mean 'embed_dim'"),
    ):
        with pytest.raises(ValueError, match=message):
            from_original(ORIGINAL, {}, **options)
