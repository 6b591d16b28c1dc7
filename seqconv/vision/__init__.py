"""2-D mixers: (batch, height, width, channels) in and out, by name as sequence mixers are."""

from ..filters.spatial import DirectFilter2d, HyenaFilter2d
from .folding import fold_norms
from .mixer_2d import Mixer2d
from .mixers.continuous.ckconv_nd import CKConvNd
from .mixers.frequency.spectral import FNO2d, SpectralConvolution2d
from .mixers.gnconv import GnConv2d
from .mixers.hyena_nd import Hyena2d, HyenaNd
from .mixers.plain_mamba import PlainMamba2d
from .mixers.scan import Scan2d
from .mixers.ss2d import SS2D
from .packed_images import PackedImages, pack_images, packing_collator
from .registry import create_mixer_2d, list_mixers_2d, mixer_2d_config, register_2d
from .scan_orders import scan_order
from .video.scan import Scan3d
from .volume_orders import volume_order

__all__ = [
    "SS2D",
    "CKConvNd",
    "DirectFilter2d",
    "FNO2d",
    "GnConv2d",
    "Hyena2d",
    "HyenaFilter2d",
    "HyenaNd",
    "Mixer2d",
    "PackedImages",
    "PlainMamba2d",
    "Scan2d",
    "Scan3d",
    "SpectralConvolution2d",
    "create_mixer_2d",
    "fold_norms",
    "list_mixers_2d",
    "mixer_2d_config",
    "pack_images",
    "packing_collator",
    "register_2d",
    "scan_order",
    "volume_order",
]
