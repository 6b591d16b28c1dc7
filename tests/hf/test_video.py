"""Videos: tubelets as VideoMAE's, errors of sizes, and a model that learns the direction of a movement."""

import pytest
import torch
from tiny import config
from transformers import VideoMAEConfig
from transformers.models.videomae.modeling_videomae import VideoMAEEmbeddings

from seqconv import SeqConvForVideoClassification, SeqConvModel
from seqconv.hf.embeddings import TubeletEmbedding

SIZES = {"image_size": 8, "patch_size": 4, "num_frames": 6, "tubelet_size": 2, "num_channels": 3}


def test_tubelets_are_those_of_videomae():
    """The convolution in three dimensions of VideoMAE and a linear map of tubelets, with the same weights."""
    original = VideoMAEEmbeddings(VideoMAEConfig(hidden_size=8, **SIZES)).patch_embeddings.double()
    embedding = TubeletEmbedding(config(modality="video", **SIZES)).double()
    weight = original.projection.weight.detach().flatten(1)
    embedding.projection.load_state_dict({"weight": weight, "bias": original.projection.bias.detach()})
    videos = torch.randn(2, 6, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(embedding(videos), original(videos))


def test_positions_follow_frames_then_rows_then_columns():
    model = SeqConvModel(config(modality="video", position_embedding="learned", **SIZES))
    assert model.config.num_patches == 3 * 2 * 2
    assert model.positions.table.weight.shape == (12, 8)
    videos = torch.zeros(1, 6, 3, 8, 8)
    videos[0, 4:, :, 4:, :4] = 1.0
    patches = model.embed(pixel_values=videos)[0][0]
    changed = (patches - patches[0]).abs().sum(-1) > 0
    assert changed.nonzero().flatten().tolist() == [2 * 4 + 2]  # the third time, the second row, the first column


@pytest.mark.parametrize("shape", [(2, 4, 3, 8, 8), (2, 6, 1, 8, 8), (2, 6, 3, 8, 9)])
def test_videos_of_other_sizes_raise(shape):
    model = SeqConvForVideoClassification(config(**SIZES))
    with pytest.raises(ValueError, match=r"TubeletEmbedding: .*wanted \(batch, 6, 3, 8, 8\).*num_frames"):
        model(torch.zeros(shape))


def test_tubelets_that_do_not_divide_the_frames_raise():
    with pytest.raises(ValueError, match="num_frames=5 and tubelet_size=2; wanted a tubelet size that divides"):
        config(modality="video", **{**SIZES, "num_frames": 5})


def moving_dots(count):
    """A dot that moves to the left (class 0) or to the right (class 1), at any height."""
    labels = torch.arange(count) % 2
    videos, time = torch.zeros(count, 6, 3, 8, 8), torch.arange(6)
    for video, label in zip(videos, labels.tolist(), strict=True):
        row, column = int(torch.randint(8, ())), int(torch.randint(3, ()))
        video[time, :, row, column + time if label else 7 - column - time] = 1.0
    return videos, labels


def test_learns_the_direction_of_a_movement():
    """No single frame tells the classes apart."""
    torch.manual_seed(0)
    options = {"num_labels": 2, "hidden_size": 32, "bidirectional": True, "position_embedding": "learned"}
    model = SeqConvForVideoClassification(config("gla", mixer_options={"num_heads": 2}, **options, **SIZES))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    videos, labels = moving_dots(64)
    for _ in range(60):
        optimizer.zero_grad()
        model(pixel_values=videos, labels=labels).loss.backward()
        optimizer.step()
    videos, labels = moving_dots(64)
    assert (model.eval()(videos).logits.argmax(-1) == labels).float().mean() > 0.85
