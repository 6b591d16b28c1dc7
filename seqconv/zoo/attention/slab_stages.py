"""SLAB in stages (Guo et al. 2024, arXiv 2405.11582): Swin and CSwin with its attention in some stages or all.

Batch norms take the place of layer norms in the course of training, also in those that have the attention of Swin
alone (``…_prepbn``). Sizes: ``classification/models/{slab_swin,swin_transformer,slab_cswin}.py`` and
``classification/cfgs`` of xinghaochen/SLAB at f58db00b, accuracies: its README.md; of models without one there the
configuration is published alone. Numbers of parameters, which are not published, are counted.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ...vision.backbones.hierarchical import HierarchicalBackbone
from ..registry import register_model
from .slab import NORM_EPS, SOURCE

SLAB_SWIN, SWIN = "xinghaochen/SLAB:SlabSwinTransformer", "xinghaochen/SLAB:SwinTransformer"
CSWIN = "xinghaochen/SLAB:CSWinTransformer"
LINEAR, SOFTMAX = "L", "S"
"""Kinds of attention of a stage: SLAB's, and that of the model it is put into."""
SWIN_STEPS, PREP_STEPS, CSWIN_STEPS = 60_000, 300_000, 120_000
"""Calls in training until layer norms count no more."""
WINDOW, PATCH_SIZE = 7, 4
SWIN_HEADS, SWIN_BASE_HEADS = (3, 6, 12, 24), (4, 8, 16, 32)
CSWIN_HEADS, STRIPS = (2, 4, 8, 16), (1, 2, 7, None)


def prep_norm(steps: int, layer_eps: float = NORM_EPS) -> dict[str, Any]:
    """Options of a part that has a norm of this kind."""
    return {"norm": "prep_batch", "eps": NORM_EPS, "norm_options": {"steps": steps, "layer_eps": layer_eps}}


def prep_blocks(steps: int, layer_eps: float = NORM_EPS) -> dict[str, Any]:
    """Options of blocks that have norms of this kind."""
    options = prep_norm(steps, layer_eps)
    return {"norm": options["norm"], "norm_eps": options["eps"], "norm_options": options["norm_options"]}


def stage_sizes(image_size: int, patch_size: int, stages: int) -> list[int]:
    """Rows and columns of cells of each stage."""
    return [image_size // (patch_size * 2**stage) for stage in range(stages)]


def swin_stages(
    width: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    kinds: str,
    *,
    steps: int,
    image_size: int = 224,
    patch_size: int = PATCH_SIZE,
    windows: Sequence[int] | None = None,
    d_conv: int = 5,
    qkv_bias: bool = True,
    **options: Any,
) -> HierarchicalBackbone:
    """A Swin of ``width`` in its first stage and the attention ``kinds`` of each, for images of ``image_size``."""
    sizes, mixers = stage_sizes(image_size, patch_size, len(depths)), list[Any]()
    for kind, heads, size, window in zip(kinds, num_heads, sizes, windows or [WINDOW] * len(depths), strict=True):
        shared = {"num_heads": heads, "qkv_bias": qkv_bias}
        cells = min(window, size)
        shifts = [0, cells // 2 if size > window else 0]
        softmax = [shared | {"window": cells, "shift": shift} for shift in shifts]
        mixers.append(shared | {"size": size, "d_conv": d_conv} if kind == LINEAR else softmax)
    norm = prep_norm(steps)
    return HierarchicalBackbone(
        ["slab" if kind == LINEAR else "shifted_window" for kind in kinds],
        dims=[width * 2**stage for stage in range(len(depths))],
        depths=depths,
        stage_options=mixers,
        patch_size=patch_size,
        stem_options=norm,
        downsampling_options=norm,
        block_options=prep_blocks(steps),
        final_norm="prep_batch",
        final_norm_eps=NORM_EPS,
        final_norm_options=norm["norm_options"],
        **{"mlp_ratio": 4.0} | options,
    )


def cswin_stages(
    width: int,
    depths: Sequence[int],
    kinds: str = "LLSS",
    *,
    num_heads: Sequence[int] = CSWIN_HEADS,
    strips: Sequence[int | None] = STRIPS,
    image_size: int = 224,
    d_conv: int = 5,
    qkv_bias: bool = True,
    **options: Any,
) -> HierarchicalBackbone:
    """A CSwin of ``width`` in its first stage and the attention ``kinds`` of each, for images of ``image_size``."""
    sizes, mixers = stage_sizes(image_size, PATCH_SIZE, len(depths)), list[Mapping[str, Any]]()
    for kind, heads, size, strip in zip(kinds, num_heads, sizes, strips, strict=True):
        own = {"size": size, "d_conv": d_conv, "local_conv": 3} if kind == LINEAR else {"strip": strip}
        mixers.append({"num_heads": heads, "qkv_bias": qkv_bias, **own})
    norm = prep_norm(CSWIN_STEPS)
    return HierarchicalBackbone(
        ["slab" if kind == LINEAR else "cross_window" for kind in kinds],
        dims=[width * 2**stage for stage in range(len(depths))],
        depths=depths,
        stage_options=mixers,
        stem="overlap",
        stem_options=norm,
        downsampling="conv",
        downsampling_options=norm,
        block_options=prep_blocks(CSWIN_STEPS),
        final_norm="prep_batch",
        final_norm_eps=NORM_EPS,
        final_norm_options=norm["norm_options"],
        **{"mlp_ratio": 4.0} | options,
    )


@register_model(top1=81.8, millions=30, source=SOURCE, original=SLAB_SWIN)
def slab_swin_tiny(**options: Any) -> HierarchicalBackbone:
    """96 to 768 wide, 12 blocks."""
    return swin_stages(96, (2, 2, 6, 2), SWIN_HEADS, "LLSS", steps=SWIN_STEPS, **options)


@register_model(top1=83.6, millions=51, source=SOURCE, original=SLAB_SWIN)
def slab_swin_small(**options: Any) -> HierarchicalBackbone:
    """96 to 768 wide, 24 blocks."""
    return swin_stages(96, (2, 2, 18, 2), SWIN_HEADS, "LLSS", steps=SWIN_STEPS, **options)


@register_model(top1=None, millions=90, source=SOURCE, original=SLAB_SWIN)
def slab_swin_base(**options: Any) -> HierarchicalBackbone:
    """128 to 1024 wide, 24 blocks; ``slab_swin_b.yaml``, without published weights or accuracy."""
    return swin_stages(128, (2, 2, 18, 2), SWIN_BASE_HEADS, "LLSS", steps=SWIN_STEPS, **options)


@register_model(top1=81.4, millions=28, source=SOURCE, original=SWIN)
def swin_tiny_prepbn(**options: Any) -> HierarchicalBackbone:
    """Swin's own attention: 96 to 768 wide, 12 blocks."""
    return swin_stages(96, (2, 2, 6, 2), SWIN_HEADS, "SSSS", steps=PREP_STEPS, **options)


@register_model(top1=82.8, millions=22, source=SOURCE, original=CSWIN)
def slab_cswin_tiny(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 25 blocks."""
    return cswin_stages(64, (2, 4, 18, 1), **options)


@register_model(top1=None, millions=35, source=SOURCE, original=CSWIN)
def slab_cswin_small(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 40 blocks; ``slab_cswin_s.yaml``, without published weights or accuracy."""
    return cswin_stages(64, (2, 4, 32, 2), **options)
