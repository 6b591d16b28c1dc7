"""badripatro/SpectFormers: plain classifiers.

Read in ``vanilla_architecture/spectformer.py`` (SpectFormer, Block, Block_attention) at b6cf487a: four blocks of
filters in the spectrum, then attention with six heads; options and the names of all other tensors are GFNet's.
"""

from typing import Any

from seqconv_kernels._core.errors import argument_error

from ...vision.backbones.backbone import ImageClassifier
from ...zoo.spectformer import NUM_HEADS, spectformer
from ..importer import add_importer
from .spectral import convert, infer, read

MODEL = "badripatro/SpectFormers:SpectFormer"


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original."""
    o = read(MODEL, hyper)
    if o.embed_dim % NUM_HEADS:
        wanted = f"a width that {NUM_HEADS} heads divide"
        raise argument_error(f"from_original({MODEL!r})", f"embed_dim={o.embed_dim}", wanted, "correct the width")
    backbone = spectformer(
        o.embed_dim,
        o.depth,
        image_size=o.img_size,
        patch_size=o.patch_size,
        in_channels=o.in_chans,
        mlp_ratio=float(o.mlp_ratio),
        drop_path=float(o.drop_path_rate),
    )
    return ImageClassifier(backbone, o.num_classes)


add_importer(MODEL, build=build, convert=convert, infer=infer)
