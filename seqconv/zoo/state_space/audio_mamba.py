"""Audio Mamba (Erol et al. 2024, arXiv 2406.03344): Vision Mamba's blocks on patches of 16 bands by 16 frames.

Sizes and figures, on AudioSet's 527 classes: README.md and ``src/run.py`` of mhamzaerol/Audio-Mamba-AuM at 7f6b38e. The
base model scans forwards and backwards after one convolution and was trained from scratch; the small one began with the
weights of Vision Mamba. A spectrogram has 128 bands and 1,024 frames; other lengths resize the position embeddings.
"""

from typing import Any

from ...vision.backbones.backbone import SpectrogramClassifier
from ...vision.backbones.plain import PlainBackbone
from ..registry import register_model

DEPTH = 24
BANDS_AND_FRAMES = (128, 1024)
ENTRY: dict[str, Any] = {
    "source": "https://github.com/mhamzaerol/Audio-Mamba-AuM",
    "original": "mhamzaerol/Audio-Mamba-AuM:AudioMamba",
    "measure": "mAP on AudioSet",
    "num_classes": 527,
    "classifier": SpectrogramClassifier,
}


def _audio_mamba(d_model: int, version: str, **options: Any) -> PlainBackbone:
    common: dict[str, Any] = {"in_channels": 1, "image_size": BANDS_AND_FRAMES, "mixer_options": {"version": version}}
    return PlainBackbone("vim", d_model=d_model, depth=DEPTH, **{**common, **options})


@register_model(top1=39.74, millions=25.5, **ENTRY)
def audio_mamba_small(**options: Any) -> PlainBackbone:
    """384 wide, a convolution for each direction."""
    return _audio_mamba(384, "v2", **options)


@register_model(top1=32.74, millions=92.1, **ENTRY)
def audio_mamba_base(**options: Any) -> PlainBackbone:
    """768 wide, one convolution for both directions."""
    return _audio_mamba(768, "v1", **options)
