"""Which parameters of published image and video models decay, where their training code departs from the usual rule.

The rule: tensors of two axes and more decay, except for those that their module marks (``A_log``, time step biases, D,
tables of positions and of offsets). Originals split by the shapes and names of their own parameters, which stack some
vectors to matrices (``dt_projs_bias``), give others more axes (γ of RMT, the temperatures of XCiT), or list too few
positions; the flag ``_no_weight_decay`` of the selective scans is read by none of the optimisers below. Read in:

- ``set_weight_decay`` of ``classification/utils/optimizer.py``: MzeroMiko/VMamba at 2ed52ead,
  TerryPei/EfficientVMamba at 0bc5ee28, YuHengsss/MSVMamba at c3940191, hustvl/ViG at dfb9d321 (no exceptions named);
- ``add_weight_decay`` of ``optim/__init__.py`` of lewandofskee/MobileMamba at 0980f48a;
- ``set_weight_decay_and_lr`` of ``classification/optimizer.py`` of xinghaochen/SLAB at f58db00b, whose ``slab_pvt.py``
  names ``cls_token`` alone;
- ``get_parameter_groups`` of ``videomamba/video_sm/optim_factory.py`` of OpenGVLab/VideoMamba at f3427e42;
- timm's ``create_optimizer``, called in the ``main.py`` of hustvl/Vim at dd0358ad, OpenGVLab/VideoMamba (``image_sm``),
  qhfan/RMT at 32ea2141, facebookresearch/xcit at 82f5291f, Meituan-AutoML/Twins at c1ff6714 and ziplab/EcoFormer at
  a277f9e8: tensors of one axis, biases and what ``no_weight_decay`` of the whole model names do not decay;
- ``plain_mamba_configs`` of ChenhongyiYang/PlainMamba at 0975a1d0, which mmcv's ``DefaultOptimizerConstructor`` reads:
  it asks for depthwise convolutions before it asks for biases, and leaves both tensors of them to decay;
- ``src/traintest.py`` of mhamzaerol/Audio-Mamba-AuM at 7f6b38e2: one ``torch.optim.Adam`` of all parameters, so that
  all decay, a little (5e-7); the list of ``no_weight_decay`` in its model is read by nothing.

They keep to the rule in:

- timm's optimisers: ``main_gfnet.py`` of raoyongming/GFNet at 2de48b62, both ``main*.py`` of badripatro/SpectFormers
  at b6cf487a, ``classification/main.py`` of whai362/PVT at 57e2dfaa (PVTv2), ``train.py`` of okojoalg/sequencer at
  408520e7, DoranLyong/SPANet-official at 886ad24d and XuRuihan/ParCNetV2 at b9d85247;
- ``optim_factory.py`` of raoyongming/HorNet at ac9e2105, and of K-H-Ismail/ConvNeXt-dcls at aad45f38, where positions
  of taps do not decay; ``engine.py`` trains these at five times the rate, which no mark says;
- ``src/ksuit/optim/optim_wrapper.py`` and ``src/vislstm/models/single/vislstm.py`` of NX-AI/vision-lstm at 381ba95c;
- ``parameter_list`` of ``affnet/misc/common.py`` of microsoft/TokenMixers at 99dbe38c (AFFNet) under its option
  ``no_decay_bn_filter_bias``, off by default; the configurations that it was trained by are not in the repository.
"""

from collections.abc import Mapping
from fnmatch import fnmatch

from torch import nn

from ..parameters import set_optimizer_options

RATES = {"*.A_log": True}
STACKED = {"*.A_log": True, "*.dt_bias": True}
CONVOLVED_POSITIONS = {"*position_convs.*": False}
ALL = {"*": True}

DEPARTURES: Mapping[str, Mapping[str, bool]] = {
    "MzeroMiko/VMamba:VSSM": STACKED,
    "TerryPei/EfficientVMamba:EfficientVSSM": STACKED,
    "YuHengsss/MSVMamba:VSSM": STACKED,
    "lewandofskee/MobileMamba:MobileMamba": STACKED,
    "hustvl/Vim:VisionMamba": RATES,
    "OpenGVLab/VideoMamba:VisionMamba": RATES,
    "OpenGVLab/VideoMamba:image_sm.VisionMamba": RATES,
    "hustvl/ViG:ViG": {"*position_embedding": True},
    "qhfan/RMT:VisRetNet": {"*_residual.weight": True},
    "facebookresearch/xcit:XCiT": {"*.mixer.temperature": True},
    "xinghaochen/SLAB:PyramidVisionTransformer": {"*positions.[0-9]": True},
    "Meituan-AutoML/Twins:CPVTV2": CONVOLVED_POSITIONS,
    "Meituan-AutoML/Twins:ALTGVT": CONVOLVED_POSITIONS,
    "ziplab/EcoFormer:ALTGVT": CONVOLVED_POSITIONS,
    "ChenhongyiYang/PlainMamba:PlainMamba": {"*.mixer.conv2d.bias": True},
    "mhamzaerol/Audio-Mamba-AuM:AudioMamba": ALL,
}
"""By the name of the original: patterns of parameters, and whether they decay."""


def follow_training_code(model: nn.Module, original: str) -> None:
    """Mark the parameters of a model that decay, or do not, in the training code of its original alone."""
    departures = DEPARTURES.get(original, {})
    for path, module in model.named_modules() if departures else ():
        for name, parameter in module._parameters.items():
            full = f"{path}.{name}" if path else name
            decays = next((decays for pattern, decays in departures.items() if fnmatch(full, pattern)), None)
            if parameter is not None and decays is not None:
                set_optimizer_options(module, name, weight_decay=None if decays else 0.0, decays=decays)
