"""SpectFormer (Patro et al. 2023, arXiv 2304.06446): blocks of filters in the spectrum, then blocks of attention.

Sizes: ``vanilla_architecture/main_spectformer.py`` of badripatro/SpectFormers at b6cf487a.
"""

from collections.abc import Mapping
from typing import Any

from ..vision.backbones.plain_2d import PlainBackbone2d

SPECTRAL_BLOCKS = 4
NUM_HEADS = 6
BLOCK_OPTIONS: Mapping[str, Any] = {"norm_eps": 1e-6}
ATTENTION: Mapping[str, Any] = {
    "num_heads": NUM_HEADS, "bidirectional": True, "rotary": False, "qkv_bias": True, "o_bias": True,
}  # fmt: skip


def spectformer(
    d_model: int, depth: int, *, image_size: int = 224, patch_size: int = 16, **options: Any
) -> PlainBackbone2d:
    """A plain SpectFormer: 4 blocks as GFNet's, then attention with 6 heads."""
    spectral = ("global_filter", {"size": image_size // patch_size}, {"single_residual": True})
    return PlainBackbone2d(
        "scan",
        d_model=d_model,
        depth=depth,
        mixer_options={"mixer": "attention", "mixer_options": ATTENTION, "orders": ["row"]},
        first_mixers=[spectral] * min(SPECTRAL_BLOCKS, depth),
        image_size=image_size,
        patch_size=patch_size,
        block_options=BLOCK_OPTIONS,
        **{"mlp_ratio": 4.0} | options,
    )
