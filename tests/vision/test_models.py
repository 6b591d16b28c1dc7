"""Whole models: the numbers of the original code's tiny ones, read with and without hyper-parameters."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case, load_variant
from seqconv import SeqConvBackbone, SeqConvVisionConfig, from_original
from seqconv.vision.backbones.aff import AFFBackbone
from seqconv.zoo.sequencer import sequencer2d
from seqconv_kernels import cross_selective_scan

MODELS = {
    "vision/affnet_model": "microsoft/TokenMixers:AffNet",
    "vision/convnext_dcls_model": "K-H-Ismail/ConvNeXt-dcls:ConvNeXt_dcls",
    "vision/deit_prepbn_model": "xinghaochen/SLAB:deit.VisionTransformer",
    "vision/ecoformer_pvt_model": "ziplab/EcoFormer:PyramidVisionTransformerV2",
    "vision/ecoformer_twins_model": "ziplab/EcoFormer:ALTGVT",
    "vision/efficientvmamba_model": "TerryPei/EfficientVMamba:EfficientVSSM",
    "vision/gfnet_h_model": "raoyongming/GFNet:GFNetPyramid",
    "vision/gfnet_model": "raoyongming/GFNet:GFNet",
    "vision/hornet_model": "raoyongming/HorNet:HorNet",
    "vision/mobilemamba_model": "lewandofskee/MobileMamba:MobileMamba",
    "vision/msvmamba_vssm": "YuHengsss/MSVMamba:VSSM",
    "vision/parcnetv2_model": "XuRuihan/ParCNetV2:ParCNetV2",
    "vision/pvt_v2_model": "whai362/PVT:PyramidVisionTransformerV2",
    "vision/rmt_model": "qhfan/RMT:VisRetNet",
    "vision/sequencer2d_model": "okojoalg/sequencer:Sequencer2D",
    "vision/slab_cswin_model": "xinghaochen/SLAB:CSWinTransformer",
    "vision/slab_deit_model": "xinghaochen/SLAB:VisionTransformer",
    "vision/slab_pvt_model": "xinghaochen/SLAB:PyramidVisionTransformer",
    "vision/slab_pvt_v2_model": "xinghaochen/SLAB:PyramidVisionTransformerV2",
    "vision/slab_swin_model": "xinghaochen/SLAB:SlabSwinTransformer",
    "vision/spanet_model": "DoranLyong/SPANet-official:SPANet",
    "vision/spectformer_h_model": "badripatro/SpectFormers:HierarchicalSpectFormer",
    "vision/spectformer_model": "badripatro/SpectFormers:SpectFormer",
    "vision/swin_prepbn_model": "xinghaochen/SLAB:SwinTransformer",
    "vision/twins_pcpvt_model": "Meituan-AutoML/Twins:CPVTV2",
    "vision/twins_svt_model": "Meituan-AutoML/Twins:ALTGVT",
    "vision/videomamba_image_model": "OpenGVLab/VideoMamba:image_sm.VisionMamba",
    "vision/vig_h_model": "hustvl/ViG:HierViG",
    "vision/vil2_model": "NX-AI/vision-lstm:VisionLSTM2",
    "vision/vim_fine_model": "hustvl/Vim:VisionMamba",
    "vision/xcit_model": "facebookresearch/xcit:XCiT",
    "vision/xcit_nano_model": "facebookresearch/xcit:XCiT",
}
VARIANTS = {
    ("scan/vig", "vig_model"): "hustvl/ViG:ViG",
    ("scan/vision_lstm", "v1"): "NX-AI/vision-lstm:VisionLSTM",
    ("scan/vision_lstm", "v2"): "NX-AI/vision-lstm:VisionLSTM2",
}
HEIGHT_WIDTH = (5, 7)
UNTOLD = {
    "vision/affnet_model",
    "vision/deit_prepbn_model",
    "vision/rmt_model",
    "vision/slab_cswin_model",
    "vision/slab_pvt_model",
    "vision/slab_pvt_v2_model",
    "vision/spanet_model",
    "vision/spectformer_h_model",
    "vision/twins_svt_model",
    "vision/vim_fine_model",
    "vision/xcit_model",
    ("scan/vig", "vig_model"),
}
"""Cases whose sizes the shapes alone do not tell, or whose output the original's options change."""


def read_case(name):
    """The case, its parameters and hyper-parameters."""
    if isinstance(name, tuple):
        case = load_variant(*name)
        return case, case.meta["cfg"], case.group("grad.param"), case.tensors["grad.in.x"]
    case = load_case(name)
    gradients = case.group("grad")
    return case, case.hyper, gradients, gradients.pop("in.x")


def check(got, want, rtol, what):
    assert_close(got, want.to(got.dtype), rtol, rtol * want.abs().max().item(), what)


def check_model(original, name):
    case, hyper, gradients, gradient = read_case(name)
    params = {k: v.double() if v.is_floating_point() else v for k, v in case.group("param").items()}
    imported = Imported(original, params, hyper)
    x = case.tensors["in.x"].double().requires_grad_()
    y = imported(x)
    check(y, case.tensors["out.y"], 1e-9, "logits")
    (y * case.tensors["cot.y"]).sum().backward()
    check(x.grad, gradient, 1e-6, "gradient of the images")
    # Stored in float32: relative to the largest of all gradients.
    largest = max(t.abs().max().item() for t in gradients.values())
    check_gradients(imported, {k: v.double() for k, v in gradients.items()}, 1e-6, 1e-6 * largest)
    if name not in UNTOLD:
        check(from_original(original, params)(x), y, 1e-12, "logits of the model read from shapes")


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_of_the_original(name):
    check_model(MODELS[name], name)


@pytest.mark.parametrize("name", VARIANTS, ids="/".join)
def test_outputs_and_gradients_of_variants(name):
    check_model(VARIANTS[name], name)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("rmt_label_model", load_case("vision/rmt_model")), ("vil_v1_stride", load_variant("scan/vision_lstm", "v1"))],
    ids=["rmt_label", "vil_stride"],
)
def test_variants_with_the_parameters_and_images_of_another_case(name, parameters):
    case = load_case(f"vision/{name}")
    params = parameters.group("param") | case.group("param")
    imported = Imported(
        case.meta["original"], {k: v.double() if v.is_floating_point() else v for k, v in params.items()}, case.hyper
    )
    x = parameters.tensors["in.x"].double().requires_grad_()
    y = imported(x)
    check(y, case.tensors["out.y"], 1e-9, "logits")
    (y * case.tensors["cot.y"]).sum().backward()
    gradients = case.group("grad")
    check(x.grad, gradients.pop("in.x"), 1e-6, "gradient of the images")
    for name, want in gradients.items():
        check(imported.gradients()[name], want, 1e-6, f"gradient of {name}")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_published_files_of_vision_lstm_have_names_of_their_own(version):
    """As ``load_model`` of ``hubconf.py`` reads them: blocks one after the other, the head with its norm."""
    case = load_variant("scan/vision_lstm", version)
    params = {k: v.double() for k, v in case.group("param").items()}
    original = VARIANTS["scan/vision_lstm", version]
    norms = ("norm", "legacy_norm") if version == "v1" else ("legacy_norm", "norm")
    params |= {
        f"legacy_norm.{kind}": params[f"norm.{kind}"].repeat(1 if version == "v1" else 2) for kind in ("weight", "bias")
    }
    if version == "v1":
        del params["legacy_norm.bias"]
    published = {}
    for name, tensor in params.items():
        parts = name.split(".")
        if parts[0] in norms:
            published[name.replace(parts[0], "head.0" if parts[0] == norms[0] else "post_blocks_norm", 1)] = tensor
        elif parts[0] == "head":
            published[f"head.1.{parts[1]}"] = tensor
        elif parts[0] == "blocks":
            if version == "v2":
                parts[1:3] = [str(2 * int(parts[1]) + (parts[2] == "rowwise_from_bot_right"))]
                parts = ["conv1d" if part == "conv" else part for part in parts]
            parts = ["xlstm_norm" if part == "norm" else "xlstm" if part == "layer" else part for part in parts]
            published[".".join(["xlstm", *parts])] = tensor
        else:
            published[name] = tensor
    x = case.tensors["in.x"].double()
    assert torch.equal(from_original(original, published)(x), from_original(original, params)(x))


def test_plain_mamba_with_its_map_of_features():
    case = load_case("vision/plainmamba_model")
    original, params = "ChenhongyiYang/PlainMamba:PlainMamba", {k: v.double() for k, v in case.group("param").items()}
    hyper = {k: v for k, v in case.hyper.items() if k != "layer_cfgs"}
    imported = Imported(original, params, hyper)
    maps = []
    imported.module.backbone.norm.register_forward_hook(lambda *call: maps.append(call[2].movedim(-1, 1)))
    x = case.tensors["in.x"].double().requires_grad_()
    logits = imported(x)
    check(logits, case.tensors["out.logits"], 1e-9, "logits")
    check(maps[0], case.tensors["out.feature_map"], 1e-9, "feature map")
    ((logits * case.tensors["cot.logits"]).sum() + (maps[0] * case.tensors["cot.feature_map"]).sum()).backward()
    gradients = case.group("grad")
    check(x.grad, gradients.pop("in.x"), 1e-6, "gradient of the images")
    largest = max(t.abs().max().item() for t in gradients.values())
    check_gradients(imported, {k: v.double() for k, v in gradients.items()}, 1e-6, 1e-6 * largest)
    check(from_original(original, params)(x), logits, 1e-12, "logits of the model read from shapes")


@pytest.mark.parametrize(("kind", "original"), [("whole", "VisionRetentionAll"), ("chunk", "VisionRetentionChunk")])
def test_manhattan_retention_of_the_original(kind, original):
    case = load_variant("scan/rmt", f"retention_{kind}")
    sizes = ("embed_dim", "num_heads", "initial_value", "heads_range")
    params = {k[5:]: v for k, v in case.group("param").items() if k.startswith("attn.")}
    imported = Imported(f"qhfan/RMT:{original}", params, {name: case.meta[name] for name in sizes})
    check_part(case, imported, "attn.")


@pytest.mark.parametrize("kind", ["whole", "chunk"])
def test_blocks_of_rmt(kind):
    case = load_variant("scan/rmt", f"block_{kind}")
    params = {k[6:]: v for k, v in case.group("param").items() if k.startswith("block.")}
    hyper = {"embed_dim": 16, "num_heads": 4, "ffn_dim": 32, "retention": kind}
    check_part(case, Imported("qhfan/RMT:RetBlock", params, hyper), "block.")


@pytest.mark.parametrize("variant", ["layer", "layer_dw"])
def test_layers_of_plain_mamba(variant):
    case = load_variant("scan/plainmamba", variant)
    mixer = {"d_state": 4, "conv_size": 3, "bias": True}
    hyper = {"embed_dims": 12, "with_dwconv": variant == "layer_dw", "mamba_cfg": mixer}
    imported = Imported("ChenhongyiYang/PlainMamba:PlainMambaLayer", case.group("param"), hyper)
    check_part(case, imported, "", lambda x: x.unflatten(1, HEIGHT_WIDTH))


@pytest.mark.parametrize(
    ("variant", "original", "extra"),
    [
        ("gla_eval", "GatedLinearAttention", {}),
        ("gla_trainpath", "GatedLinearAttention", {"evaluation": False}),
        ("block", "GLABlock", {}),
    ],
)
def test_parts_of_vig(variant, original, extra):
    case = load_variant("scan/vig", variant)
    imported = Imported(f"hustvl/ViG:{original}", case.group("param"), case.meta["cfg"] | extra)
    check_part(case, imported, "", lambda x: x.unflatten(1, HEIGHT_WIDTH))


def test_mixer_of_msvmamba():
    case = load_variant("scan/msvmamba", "ms2d")
    check_part(case, Imported("YuHengsss/MSVMamba:SS2D", case.group("param"), case.meta["cfg"]), "")


def test_mixer_of_efficient_vmamba():
    case = load_variant("scan/efficientvmamba", "es2d")
    check_part(case, Imported("TerryPei/EfficientVMamba:SS2D", case.group("param"), case.meta["cfg"]), "")


@pytest.mark.parametrize(
    ("variant", "original", "hyper"),
    [
        ("mbwtconv2d", "MBWTConv2d", {"in_channels": 16, "kernel_size": 3}),
        ("module", "MobileMambaModule", {"dim": 32, "global_ratio": 0.5, "local_ratio": 0.25, "ssm_ratio": 2}),
        ("block", "MobileMambaBlock", {"ed": 32, "global_ratio": 0.5, "local_ratio": 0.25, "ssm_ratio": 2}),
    ],
)
def test_parts_of_mobile_mamba(variant, original, hyper, monkeypatch):
    """Without Triton the original (csm_tritonk2.py, scans == 2) adds up the forward scans of all images of a batch.

    In the backward pass they do so again, so that gradients are those of the model, whose case has one image.
    """

    def merged_as_there(u, delta, A, B, C, D, *, orders, delta_bias, **options):
        ys = []
        for k in range(2):
            one = slice(k, k + 1)
            dt, b, c = (t[:, :, one] for t in (delta, B, C))
            along = {"orders": orders[:, one], "delta_bias": delta_bias[one]}
            ys.append(cross_selective_scan(u, dt, A[one], b, c, D[one], **along, **options))
        return ys[0].sum(0, keepdim=True) + len(u) * ys[1]

    monkeypatch.setattr("seqconv.vision.mixers.ss2d.cross_selective_scan", merged_as_there)
    case = load_variant("scan/mobilemamba", variant)
    params = case.group("param")
    name = next(name for name in params if name.endswith("wavelet_convs.0.weight"))
    size = params[name].shape[-1]
    hyper = hyper | ({"kernel_size": size} if "kernel_size" in hyper else {"kernels": size})
    imported = Imported(f"lewandofskee/MobileMamba:{original}", params, hyper)
    y = imported(case.tensors["in.x"].double().movedim(1, -1)).movedim(-1, 1)
    check(y, case.tensors["out.y"], 1e-9, "outputs")


@pytest.mark.parametrize(
    ("name", "original", "shape"),
    [
        ("gfnet_global_filter", "raoyongming/GFNet:GlobalFilter", (6, 5)),
        ("afno1d", "NVlabs/AFNO-transformer:AFNO1D", (1, 9)),
        ("afno2d", "NVlabs/AFNO-transformer:AFNO2D", (4, 5)),
        ("xcit_block", "facebookresearch/xcit:XCABlock", (4, 5)),
    ],
)
def test_layers_of_other_projects(name, original, shape):
    case = load_case(f"vision/{name}")
    imported = Imported(original, case.group("param"), case.hyper)
    x = case.tensors["in.x"].double().requires_grad_()
    y = imported(x.unflatten(1, shape)).view_as(x)
    check(y, case.tensors["out.y"], 1e-9, "outputs")
    (y * case.tensors["cot.y"]).sum().backward()
    gradients = case.group("grad")
    check(x.grad, gradients.pop("in.x"), 1e-6, "gradient of the input")
    largest = max(t.abs().max().item() for t in gradients.values())
    check_gradients(imported, {k: v.double() for k, v in gradients.items()}, 1e-6, 1e-6 * largest)


def check_part(case, imported, prefix, image=lambda x: x):
    """Outputs and gradients of a part of a model on images with channels last."""
    x = case.tensors["in.x"].double().requires_grad_()
    y = imported(image(x)).view_as(x)
    check(y, case.tensors["out.y"], 1e-9, "outputs")
    (y * case.tensors["cot.y"]).sum().backward()
    check(x.grad, case.tensors["grad.in.x"], 1e-6, "gradient of the input")
    gradients = {k.removeprefix(prefix): v for k, v in case.group("grad.param").items()}
    largest = max(t.abs().max().item() for t in gradients.values())
    check_gradients(imported, gradients, 1e-6, 1e-6 * largest)


def test_a_sequencer_whose_stages_keep_the_resolution():
    backbone = sequencer2d([1, 1, 1], dims=[4, 6, 6], mixers=[{}] * 3, patch_sizes=[3, 2, 1])
    assert backbone.strides == (3, 6, 6)
    assert [m.shape[1:3] for m in backbone(torch.randn(1, 3, 13, 20))] == [(4, 6), (2, 3), (2, 3)]
    with pytest.raises(ValueError, match=r"at least 6 by 6"):
        backbone(torch.zeros(1, 3, 5, 12))


def test_masks_of_frequencies_are_those_of_the_radius():
    case = load_case("vision/spanet_block")
    with pytest.raises(ValueError, match=r"not that of r=1.*pass the radius"):
        from_original("DoranLyong/SPANet-official:SPANetBlock", case.group("param"), **case.hyper | {"r": 1})


def test_affnet_as_a_backbone_of_transformers():
    sizes = {"dims": [8, 8, 16], "depths": [1, 1, 2], "drop_path": 0.5}
    backbone = AFFBackbone(**sizes)
    assert [layer.drop_path.p for layer in backbone.stages[2][1].layers] == [0.0, 0.5]
    config = SeqConvVisionConfig(backbone_name="affnet_et", out_indices=[0, 4])
    with torch.device("meta"):
        maps = SeqConvBackbone(config)(torch.zeros(1, 3, 40, 33)).feature_maps
    assert [tuple(m.shape) for m in maps] == [(1, 32, 20, 17), (1, 144, 2, 2)]
