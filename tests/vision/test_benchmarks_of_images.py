"""The benchmarks of images: where two models cross, what is measured without originals."""

import pytest

from benchmarks import vision_blocks, vision_resolution
from benchmarks.__main__ import text_table


def resolutions(*ratios):
    """A report of images of 200, 400, … pixels, DeiT-S ``ratio`` times as slow as Vim-S."""
    return {
        "machine": {},
        "rows": [
            {
                "shape": str(side), "length": side, "direction": "forward",
                "ms": {"seqconv": 2.0, "DeiT-S": 2.0 * ratio}, "mb": {"seqconv": 10.0, "DeiT-S": 40.0},
            }
            for side, ratio in zip(range(200, 2000, 200), ratios, strict=False)
        ],
    }  # fmt: skip


def test_the_crossover_is_between_the_resolutions_that_differ():
    assert vision_resolution.crossover(resolutions(0.5, 0.8, 1.2, 3.0)) == pytest.approx(500)
    assert vision_resolution.crossover(resolutions(1.1, 0.9, 1.1)) == pytest.approx(500)
    assert vision_resolution.crossover(resolutions(1.1, 1.2)) == 200
    assert vision_resolution.crossover(resolutions(0.5, 0.9)) is None
    report = resolutions(0.5, 1.5)
    report["summary"] = vision_resolution.summary(report)
    text = text_table("vision_resolution", report)
    assert "from 300 pixels of a side on; its memory at 400 pixels is 0.25 of DeiT-S's." in text


def test_blocks_of_images_are_measured_where_their_originals_are(monkeypatch, tmp_path):
    monkeypatch.setattr(vision_blocks, "FOLDER", tmp_path)
    assert vision_blocks.measure(0.0) == []
    (tmp_path / "MzeroMiko" / "VMamba").mkdir(parents=True)
    (tmp_path / vision_blocks.VMAMBA).touch()
    found = {place.shape.partition(" ")[0] for place in vision_blocks.PLACES if vision_blocks.available(place)}
    assert found == {"VMamba-T"}
