"""torch.compile of models of sound with padding: one graph, and what checks of values say in it."""

import pytest
import torch
from tiny import VOCAB, config

import seqconv
from seqconv import SeqConvVisionConfig
from seqconv.hf import load

FRAMES = {"frame_size": 40, "frame_stride": 20}
SPECTROGRAM = {"audio_input": "spectrogram", "num_audio_features": 8, "patch_size": 4}
TRAINED = {"position_embedding": "learned", "num_labels": 3}
pytestmark = pytest.mark.usefixtures("unannotated")

PADDED = {
    "SeqConvForAudioClassification": FRAMES,
    "SeqConvForAudioFrameClassification": FRAMES,
    "SeqConvForCTC": FRAMES,
    "spectrogram": SPECTROGRAM,
}


def padded(*lengths, bands=()):
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return {"input_values": torch.randn(len(lengths), max(lengths), *bands), "attention_mask": mask.long()}


def compiled(model, **options):
    torch.compiler.reset()
    return torch.compile(model, backend="aot_eager", **options)


@pytest.mark.parametrize("name", PADDED)
def test_padded_sound_is_one_graph(name):
    torch.manual_seed(0)
    kind = "SeqConvForAudioClassification" if name == "spectrogram" else name
    model = load(kind)(config(**PADDED[name], **TRAINED)).eval()
    inputs = padded(12, 7, bands=(8,)) if name == "spectrogram" else padded(400, 130)
    want = model(**inputs).logits
    torch.testing.assert_close(compiled(model, fullgraph=True)(**inputs).logits, want)
    if kind != "SeqConvForCTC":
        torch.export.export(model, (), inputs, strict=False)


def test_spectrograms_on_image_backbones_are_one_graph():
    options = {"mixer": "vim", "d_model": 8, "depth": 1, "image_size": [8, 12], "patch_size": 4}
    plain = SeqConvVisionConfig(backbone_name="plain", backbone_options=options, num_channels=1, num_labels=3)
    model, inputs = seqconv.SeqConvVisionForAudioClassification(plain).eval(), padded(12, 12, bands=(8,))
    want = model(**inputs).logits
    torch.testing.assert_close(compiled(model, fullgraph=True)(**inputs).logits, want)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch reads it where a graph goes on
def test_compiled_transcription_leaves_its_graph_for_the_loss_alone():
    model = load("SeqConvForCTC")(config(**FRAMES, pad_token_id=0))
    inputs, labels = padded(400, 130), torch.tensor([[5, 6, 7], [8, 9, -100]])
    want = model(**inputs, labels=labels).loss
    torch._dynamo.utils.counters.clear()
    run = compiled(model)
    got = run(**inputs, labels=labels).loss
    torch.testing.assert_close(got, want)
    assert len(torch._dynamo.utils.counters["graph_break"]) == 1
    with pytest.raises(ValueError, match=rf"up to {VOCAB}; wanted .*below vocab_size={VOCAB}"):
        run(**inputs, labels=labels.clamp(max=5) + VOCAB - 5)
