"""Image tasks of transformers: detectors and mask heads on the backbone, pipelines in a fresh process, bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from test_vision import config, picture, pictures, train
from tiny import config as sequence_config
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import seqconv
from golden_cases import GOLDEN, load_case
from seqconv import create_model, from_original
from seqconv.hf.image_processor import image_processor
from seqconv.vision.backbones.hierarchical import HierarchicalBackbone

ROOT = Path(__file__).parents[2]
HEAD = {"encoder_layers": 1, "num_queries": 4, "num_labels": 2}
WIDTHS = {"ffn_dim": 16, "attention_heads": 2}


def parameters_without_gradient(model):
    """Names of parameters of the backbone that the loss did not reach."""
    backbones = [m for m in model.modules() if isinstance(m, seqconv.SeqConvBackbone)]
    assert len(backbones) == 1
    return [name for name, p in backbones[0].named_parameters() if p.grad is None or not p.grad.any()]


def test_detr_trains_and_finds_boxes_on_the_backbone():
    torch.manual_seed(0)
    sizes = {f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in WIDTHS.items()}
    detr = transformers.DetrConfig(
        use_timm_backbone=False, backbone_config=config(out_features=["stage4"]), d_model=16, decoder_layers=1,
        auxiliary_loss=False, **HEAD, **sizes,
    )  # fmt: skip
    model = transformers.DetrForObjectDetection(detr).train()
    pixels, _ = pictures()
    boxes = {"class_labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]])}
    losses = train(model, pixel_values=pixels, labels=[boxes, boxes])
    assert losses[-1] < losses[0]
    model(pixel_values=pixels, labels=[boxes, boxes]).loss.backward()
    assert parameters_without_gradient(model) == []
    with torch.no_grad():
        found = model.eval()(pixels[:, :, :48])
    assert found.logits.shape == (2, 4, 3)
    assert ((found.pred_boxes > 0) & (found.pred_boxes < 1)).all()


def test_mask2former_trains_and_segments_on_the_backbone():
    torch.manual_seed(0)
    mask2former = transformers.Mask2FormerConfig(
        backbone_config=config(), feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        dim_feedforward=16, decoder_layers=2, num_attention_heads=2, train_num_points=64, **HEAD,
    )  # fmt: skip
    model = transformers.Mask2FormerForUniversalSegmentation(mask2former).train()
    pixels, labels = pictures()
    masks = [torch.stack([mask == 0, mask == 1]).float() for mask in labels]
    inputs = {"pixel_values": pixels, "mask_labels": masks, "class_labels": [torch.tensor([0, 1])] * 2}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert np.isfinite(train(model, **inputs)).all()
    assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters() if "encoder" in name)
    model(**inputs).loss.backward()
    assert parameters_without_gradient(model) == []
    with torch.no_grad():
        output = model.eval()(pixels)
    processor = transformers.Mask2FormerImageProcessor()
    for segmented in processor.post_process_semantic_segmentation(output, target_sizes=[(64, 64)] * 2):
        assert segmented.shape == (64, 64)
        assert set(segmented.unique().tolist()) <= {0, 1}


def without_class(folder):
    """Take the name of its class out of a saved image processor."""
    path = folder / "preprocessor_config.json"
    saved = json.loads(path.read_text())
    del saved["image_processor_type"]
    path.write_text(json.dumps(saved))


def test_folders_of_image_models_have_a_default_image_processor(tmp_path):
    labels = {"num_labels": 2, "id2label": {0: "dark", 1: "bright"}}
    sequence = sequence_config(image_size=8, patch_size=4, num_channels=3, **labels)
    models = {
        "maps": (seqconv.SeqConvVisionForImageClassification(config(**labels)), 32),
        "patches": (seqconv.SeqConvForImageClassification(sequence), None),
    }
    for name, (model, size) in models.items():
        folder = tmp_path / name
        model.eval().save_pretrained(folder)
        with pytest.raises(OSError, match=r"directory containing a preprocessor_config\.json"):
            transformers.AutoImageProcessor.from_pretrained(folder)
        made = image_processor(model.config, image_size=size)
        made.save_pretrained(folder)
        without_class(folder)
        read = transformers.AutoImageProcessor.from_pretrained(folder)
        assert type(read) is ViTImageProcessorPil
        side = size or 8
        assert (dict(read.size), tuple(read.image_mean)) == ({"height": side, "width": side}, (0.485, 0.456, 0.406))
        pixels = made(picture("coffee"), return_tensors="pt")["pixel_values"]
        assert pixels.shape == (1, 3, side, side)
        found = transformers.pipeline("image-classification", model=str(folder), device="cpu")(picture("coffee"))
        want = model(pixels).logits.softmax(-1)[0]
        assert {part["label"]: part["score"] for part in found} == pytest.approx(
            {"dark": want[0].item(), "bright": want[1].item()}, abs=1e-6
        )


def test_image_processors_of_other_inputs_raise():
    for other in (config(num_channels=1), sequence_config(modality="video")):
        with pytest.raises(ValueError, match=r"num_channels=.*images of three channels.*pixel_values yourself"):
            image_processor(other)
    wide = image_processor(config(), image_size=(16, 24), image_mean=[0.5] * 3)
    assert (dict(wide.size), list(wide.image_mean)) == ({"height": 16, "width": 24}, [0.5] * 3)
    options = config().backbone_options
    assert dict(image_processor(config()).size) == {"height": 224, "width": 224}
    published = seqconv.SeqConvVisionConfig(backbone_name="xcit_nano_12_p16_384")
    assert dict(image_processor(published).size) == {"height": 384, "width": 384}
    assert "image_size" not in options


def test_the_processor_of_segmentation_reads_labels_and_serves_the_pipeline(tmp_path):
    labels = {"num_labels": 2, "id2label": {0: "dark", 1: "bright"}}
    model = seqconv.SeqConvForSemanticSegmentation(config(**labels)).eval()
    model.save_pretrained(tmp_path)
    image_processor(model.config, image_size=32, segmentation=True, do_reduce_labels=True).save_pretrained(tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    drawn = picture("coffee").convert("L").point(lambda value: value % 3)
    batch = processor([picture("coffee")], segmentation_maps=[drawn], return_tensors="pt")
    assert set(batch["labels"].unique().tolist()) == {0, 1, model.config.semantic_loss_ignore_index}
    assert model(**batch).loss > 0
    segment = transformers.pipeline("image-segmentation", model=str(tmp_path), device="cpu")
    sizes = [(40, 24), (24, 56)]
    found = segment([picture("coffee").resize(size) for size in sizes], batch_size=2)
    assert [part[0]["mask"].size for part in found] == sizes


FRESH = """
import json, sys
import numpy as np
import torch
import seqconv
from transformers import AutoModelForMaskedImageModeling, pipeline
from transformers.pipelines import video_classification

folder, image = sys.argv[1:]
segments = pipeline("image-segmentation", f"{folder}/segments", device="cpu")(image)
features = pipeline("image-feature-extraction", f"{folder}/features", device="cpu")(image, pool=True)
classes = pipeline("image-classification", f"{folder}/classes", device="cpu")(image)

class Container:  # reading files of videos is PyAV's part, which is not installed everywhere
    streams = type("Streams", (), {"video": [type("Stream", (), {"frames": 6})]})

video_classification.np, video_classification.requires_backends = np, lambda *args: None
video_classification.av = type("av", (), {"open": staticmethod(lambda video: Container)})
video_classification.read_video_pyav = lambda container, indices: np.zeros((len(indices), 8, 8, 3), np.uint8)
videos = pipeline("video-classification", f"{folder}/videos", device="cpu")("clip.mp4")
masked = AutoModelForMaskedImageModeling.from_pretrained(f"{folder}/masked")
pixels = torch.zeros(1, 3, 8, 8)
loss = masked(pixels, bool_masked_pos=torch.ones(1, 4)).loss.item()
print(json.dumps({
    "segments": sorted({part["label"] for part in segments}), "sizes": [part["mask"].size for part in segments],
    "features": np.array(features).shape, "classes": len(classes), "videos": len(videos), "loss": loss,
}))
"""


@pytest.mark.slow
def test_pipelines_of_images_and_videos_read_folders_in_a_fresh_process(tmp_path):
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    labels = {"num_labels": 2, "id2label": {0: "dark", 1: "bright"}}
    small = {"image_size": 8, "patch_size": 4, "num_channels": 3}
    models = {
        "segments": seqconv.SeqConvForSemanticSegmentation(config(**labels)),
        "features": seqconv.SeqConvVisionModel(config()),
        "classes": seqconv.SeqConvVisionForImageClassification(config()),
        "masked": seqconv.SeqConvForMaskedImageModeling(sequence_config(bidirectional=True, **small)),
        "videos": seqconv.SeqConvForVideoClassification(
            sequence_config(num_frames=6, tubelet_size=2, num_labels=3, **small)
        ),
    }
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
    made = image_processor(models["classes"].config, image_size=32)
    made.save_pretrained(tmp_path / "classes")
    without_class(tmp_path / "classes")
    transformers.SegformerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "segments")
    transformers.VideoMAEImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}).save_pretrained(
        tmp_path / "videos"
    )
    image = GOLDEN / "pictures" / "astronaut.png"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "kernels")))}
    command = [sys.executable, "-c", FRESH, str(tmp_path), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["segments"]) <= {"dark", "bright"}
    assert found["sizes"] == [[64, 64]] * len(found["sizes"])
    assert found["features"] == [1, 20]
    assert (found["classes"], found["videos"]) == (3, 3)
    assert found["loss"] > 0


def test_grey_pictures_become_colours_in_the_processor_and_raise_without_it():
    model = seqconv.SeqConvVisionForImageClassification(config()).eval()
    classify = transformers.pipeline(
        "image-classification", model=model, image_processor=ViTImageProcessorPil(size={"height": 32, "width": 32})
    )
    colour = picture("coffee").convert("L").convert("RGB")
    assert classify(picture("coffee").convert("L")) == classify(colour)
    with pytest.raises(ValueError, match=r"images of shape \(1, 1, 32, 32\).*repeat grey images over the channels"):
        model(torch.zeros(1, 1, 32, 32))


def test_images_that_stages_cannot_halve_raise():
    options = {"dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
    halving = HierarchicalBackbone("ss2d", downsampling="conv2", **options)
    with pytest.raises(ValueError, match=r"images of 24 by 64 pixels; wanted at least 32 by 32.*enlarge the images"):
        halving(torch.zeros(1, 3, 24, 64))
    padding = HierarchicalBackbone("ss2d", downsampling="merge", **options)
    assert [maps.shape[1:3] for maps in padding(torch.zeros(1, 3, 24, 64))] == [(6, 16), (3, 8), (2, 4), (1, 2)]
    with torch.device("meta"):
        model = create_model("efficient_vmamba_tiny")
    with pytest.raises(ValueError, match="images of 3 by 64 pixels"):
        model(torch.zeros(1, 3, 3, 64, device="meta"))


def test_checkpoints_of_another_size_raise(tmp_path):
    seqconv.SeqConvVisionForImageClassification(config()).save_pretrained(tmp_path)
    wider = config(backbone_options={**config().backbone_options, "dims": [8, 12, 16, 24]})
    read = seqconv.SeqConvVisionForImageClassification.from_pretrained
    with pytest.raises(ValueError, match=r"received a checkpoint with .* of shape \(20,.*not \(24,.*config\.json"):
        read(tmp_path, config=wider)
    fresh = read(tmp_path, num_labels=7, id2label={i: str(i) for i in range(7)}, ignore_mismatched_sizes=True)
    assert fresh(pictures()[0]).logits.shape == (2, 7)
    case = load_case("vision/vmamba_vssm")
    original = "MzeroMiko/VMamba:VSSM"
    with pytest.raises(ValueError, match=r"size mismatch for head\.weight: .*\[5, 12\].*\[77, 12\]"):
        from_original(original, case.group("param"), **{**case.hyper, "num_classes": 77})
