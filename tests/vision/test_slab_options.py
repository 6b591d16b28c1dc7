"""What the readers of SLAB's classifiers make of norms and dropout, which training alone depends on."""

from functools import partial

import pytest
from torch import nn

from seqconv.interop.importer import get_importer

ORIGINALS = {
    "VisionTransformer": 1e-6,
    "deit.VisionTransformer": 1e-6,
    "PyramidVisionTransformer": 1e-6,
    "PyramidVisionTransformerV2": 1e-6,
    "SlabSwinTransformer": 1e-5,
    "SwinTransformer": 1e-5,
    "CSWinTransformer": 1e-5,
}
"""Classes, and ε of the layer norms that their published models begin training with."""


class RepBN(nn.Module):
    """Stands for the original's norm of that name."""


class LinearNorm(nn.Module):
    """Stands for the original's norm of that name."""


def build(original, **hyper):
    small = {"img_size": 56, "patch_size": 4, "embed_dim": 16, "num_heads": 2, "num_classes": 2}
    if "Pyramid" in original:
        small = {"img_size": 64, "la_sr_ratios": "1111", "embed_dims": [8] * 4, "depths": [1] * 4, "num_heads": [1] * 4}
        small |= {"patch_size": 4}
    elif "VisionTransformer" not in original:
        depth = {"depth" if "CS" in original else "depths": [1, 1, 1, 1]}
        split = {"la_split_size": "16-8-4-2"} if "CS" in original else {"window_size": 64}
        small = {"img_size": 64, "embed_dim": 8, "num_heads": [1, 1, 1, 1], **depth, **split}
    return get_importer(f"xinghaochen/SLAB:{original}").build(**small | hyper)


def prep_norm(eps, **options):
    return partial(LinearNorm, norm1=partial(nn.LayerNorm, eps=eps), norm2=RepBN, **options)


@pytest.mark.parametrize("original", ORIGINALS)
def test_norms_that_were_checked(original):
    norms = [prep_norm(ORIGINALS[original]), prep_norm(ORIGINALS[original], step=10, warm=3), RepBN, "linearnorm", None]
    for norm in norms:
        build(original, norm_layer=norm, drop_rate=0.0, attn_drop_rate=0.0)


@pytest.mark.parametrize("original", ORIGINALS)
def test_norms_and_dropout_that_no_classifier_has(original):
    eps = ORIGINALS[original]
    for norm in (prep_norm(10 * eps), prep_norm(eps, r0=0.5), partial(LinearNorm, norm1=nn.BatchNorm1d), nn.LayerNorm):
        with pytest.raises(ValueError, match=f"wanted RepBN, or LinearNorm of a LayerNorm of eps={eps} and RepBN"):
            build(original, norm_layer=norm)
    for option in ("drop_rate", "attn_drop_rate"):
        with pytest.raises(ValueError, match=f"received {option}=0.1; wanted {option}=0.0"):
            build(original, **{option: 0.1})


def test_layer_norms_of_default_eps():
    default = partial(LinearNorm, norm1=nn.LayerNorm, norm2=RepBN)
    build("SwinTransformer", norm_layer=default)
    with pytest.raises(ValueError, match="eps=1e-06"):
        build("deit.VisionTransformer", norm_layer=default)


@pytest.mark.parametrize("original", ["PyramidVisionTransformer", "PyramidVisionTransformerV2"])
def test_attention_of_pyramids_is_linear_where_it_is_not_said(original):
    named, unnamed = (build(original, attn_type=kinds).state_dict().keys() for kinds in ("LLLL", None))
    assert named == unnamed
