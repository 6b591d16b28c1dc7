"""Published vision models: parameter counts, features, and the numbers of the original code's tiny models."""

import re

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case, load_variant
from seqconv import create_model, from_original, list_models
from seqconv.interop.importer import Weights, get_importer
from seqconv.vision.backbones.hierarchical import HierarchicalBackbone
from seqconv.vision.backbones.plain import PlainBackbone
from seqconv.vision.backbones.plain_2d import PlainBackbone2d
from seqconv.zoo import model_entry

SIZED = ("xcit_", "videomamba_")
VMAMBA, VIM = "MzeroMiko/VMamba:VSSM", "hustvl/Vim:VisionMamba"
MSVMAMBA = "YuHengsss/MSVMamba:VSSM"
PARAMETERS = {
    "affnet": 5_568_696,
    "affnet_et": 1_436_264,
    "affnet_t": 2_654_232,
    "audio_mamba_base": 92_107_535,
    "audio_mamba_small": 25_539_215,
    "convnext_dcls_base": 88_582_632,
    "convnext_dcls_small": 50_217_064,
    "convnext_dcls_tiny": 28_587_688,
    "deit_small_prepbn": 22_069_889,
    "deit_tiny_prepbn": 5_727_041,
    "efficient_vmamba_base": 33_717_136,
    "efficient_vmamba_small": 11_273_688,
    "efficient_vmamba_tiny": 6_493_660,
    "gfnet_base": 43_120_616,
    "gfnet_h_base": 53_744_200,
    "gfnet_h_small": 32_162_632,
    "gfnet_h_tiny": 15_085_096,
    "gfnet_small": 24_869_608,
    "gfnet_tiny": 7_511_784,
    "gfnet_xsmall": 15_985_768,
    "hornet_base_7x7": 87_256_680,
    "hornet_base_gf": 88_421_352,
    "hornet_base_gf_img384": 92_099_560,
    "hornet_large_7x7": 209_080_987,
    "hornet_large_gf": 210_827_995,
    "hornet_large_gf_img384": 216_345_307,
    "hornet_small_7x7": 49_528_264,
    "hornet_small_gf": 50_401_768,
    "hornet_tiny_7x7": 22_409_512,
    "hornet_tiny_gf": 22_991_848,
    "mobile_mamba_b1": 17_070_625,
    "mobile_mamba_b2": 17_070_625,
    "mobile_mamba_b4": 17_070_625,
    "mobile_mamba_s6": 14_996_696,
    "mobile_mamba_t2": 8_806_682,
    "mobile_mamba_t4": 14_137_690,
    "msvmamba_micro": 11_879_272,
    "msvmamba_nano": 6_864_136,
    "msvmamba_tiny": 33_046_312,
    "parcnetv2_base": 56_368_360,
    "parcnetv2_small": 39_436_520,
    "parcnetv2_tiny": 24_935_144,
    "parcnetv2_xt": 7_427_720,
    "plain_mamba_l1": 7_551_656,
    "plain_mamba_l2": 26_145_832,
    "plain_mamba_l3": 50_956_456,
    "pvt_medium_prepbn": 44_253_117,
    "pvt_small_prepbn": 24_507_801,
    "pvt_tiny_prepbn": 13_239_554,
    "pvt_v2_b0": 3_666_760,
    "pvt_v2_b1": 14_009_000,
    "pvt_v2_b2": 25_362_856,
    "pvt_v2_b3": 45_238_696,
    "pvt_v2_b4": 62_556_072,
    "pvt_v2_b5": 81_956_008,
    "pvtv2_b0_ecoformer": 3_136_328,
    "pvtv2_b1_ecoformer": 11_891_368,
    "pvtv2_b2_ecoformer": 20_367_528,
    "pvtv2_b3_ecoformer": 34_084_008,
    "pvtv2_b4_ecoformer": 45_665_704,
    "rmt_base": 54_154_896,
    "rmt_base_label": 54_667_896,
    "rmt_large": 95_464_864,
    "rmt_large_label": 96_105_864,
    "rmt_small": 26_967_240,
    "rmt_small_label": 27_480_240,
    "rmt_tiny": 14_334_216,
    "sequencer2d_l": 54_249_064,
    "sequencer2d_m": 38_273_896,
    "sequencer2d_s": 27_627_112,
    "slab_cswin_small": 35_493_565,
    "slab_cswin_tiny": 21_227_167,
    "slab_deit_small": 22_992_257,
    "slab_deit_tiny": 6_198_209,
    "slab_pvt_medium": 37_267_300,
    "slab_pvt_small": 21_683_788,
    "slab_pvt_tiny": 12_157_692,
    "slab_pvt_v2_b0": 3_599_968,
    "slab_pvt_v2_b1": 12_941_504,
    "slab_pvt_v2_b2": 22_564_880,
    "slab_pvt_v2_b3": 38_301_992,
    "slab_pvt_v2_b4": 51_875_330,
    "slab_pvt_v2_b5": 67_111_640,
    "slab_swin_base": 89_029_373,
    "slab_swin_small": 50_552_965,
    "slab_swin_tiny": 29_216_605,
    "spanet_b": 75_829_672,
    "spanet_bx": 99_682_984,
    "spanet_m": 41_666_984,
    "spanet_mx": 54_742_184,
    "spanet_s": 28_591_784,
    "spectformer_h_base": 33_052_880,
    "spectformer_h_large": 54_675_792,
    "spectformer_h_small": 22_226_928,
    "spectformer_small": 32_449_768,
    "spectformer_tiny": 9_158_376,
    "spectformer_xsmall": 20_028_520,
    "swin_tiny_prepbn": 28_313_151,
    "twins_pcpvt_base": 43_828_456,
    "twins_pcpvt_large": 60_989_672,
    "twins_pcpvt_small": 24_106_216,
    "twins_svt_base": 56_070_952,
    "twins_svt_large": 99_271_400,
    "twins_svt_s_ecoformer": 21_522_088,
    "twins_svt_small": 24_060_776,
    "videomamba_image_base": 97_598_440,
    "videomamba_image_middle": 74_217_448,
    "videomamba_image_middle_448": 74_556_136,
    "videomamba_image_middle_576": 74_851_048,
    "videomamba_image_small": 25_796_584,
    "videomamba_image_small_448": 26_022_376,
    "videomamba_image_small_576": 26_218_984,
    "videomamba_image_tiny": 7_148_008,
    "videomamba_image_tiny_448": 7_260_904,
    "videomamba_image_tiny_576": 7_359_208,
    "videomamba_middle": 73_875_856,
    "videomamba_middle_breakfast_f32": 73_664_650,
    "videomamba_middle_breakfast_f64": 73_683_082,
    "videomamba_middle_coin_f32": 73_762_740,
    "videomamba_middle_coin_f64": 73_781_172,
    "videomamba_middle_f16": 73_880_464,
    "videomamba_middle_f32": 73_889_680,
    "videomamba_middle_f64": 73_908_112,
    "videomamba_middle_f64_384": 74_126_992,
    "videomamba_middle_ssv2": 73_745_454,
    "videomamba_middle_ssv2_f16": 73_750_062,
    "videomamba_middle_ssv2_f16_288": 73_823_790,
    "videomamba_small": 25_568_656,
    "videomamba_small_breakfast_f32": 25_427_722,
    "videomamba_small_breakfast_f64": 25_440_010,
    "videomamba_small_coin_f32": 25_493_172,
    "videomamba_small_coin_f64": 25_505_460,
    "videomamba_small_f16": 25_571_728,
    "videomamba_small_f32": 25_577_872,
    "videomamba_small_f64": 25_590_160,
    "videomamba_small_f64_384": 25_736_080,
    "videomamba_small_ssv2": 25_481_646,
    "videomamba_small_ssv2_f16": 25_484_718,
    "videomamba_small_ssv2_f16_288": 25_533_870,
    "videomamba_tiny": 7_033_744,
    "videomamba_tiny_breakfast_f32": 6_963_082,
    "videomamba_tiny_breakfast_f64": 6_969_226,
    "videomamba_tiny_coin_f32": 6_995_892,
    "videomamba_tiny_coin_f64": 7_002_036,
    "videomamba_tiny_f16": 7_035_280,
    "videomamba_tiny_f32": 7_038_352,
    "videomamba_tiny_f64": 7_044_496,
    "videomamba_tiny_f64_384": 7_117_456,
    "videomamba_tiny_ssv2": 6_990_126,
    "videomamba_tiny_ssv2_f16": 6_991_662,
    "videomamba_tiny_ssv2_f16_288": 7_016_238,
    "vig_base": 89_068_264,
    "vig_h_base": 88_904_360,
    "vig_h_small": 50_051_688,
    "vig_h_tiny": 28_600_680,
    "vig_small": 22_638_184,
    "vig_tiny": 5_846_056,
    "vil_base": 89_263_528,
    "vil_small": 23_398_696,
    "vil_tiny": 6_391_528,
    "vil_v1_base": 88_070_056,
    "vil_v1_base_stride8": 88_070_056,
    "vil_v1_small": 22_801_960,
    "vil_v1_small_plus": 24_639_032,
    "vil_v1_small_plus_stride8": 24_639_032,
    "vil_v1_tiny": 6_093_160,
    "vil_v1_tiny_plus": 7_283_600,
    "vil_v1_tiny_plus_stride8": 7_283_600,
    "vim_base": 97_598_440,
    "vim_small": 25_796_584,
    "vim_small_plus": 26_001_256,
    "vim_tiny": 7_148_008,
    "vim_tiny_plus": 7_250_344,
    "vmamba_base": 88_557_800,
    "vmamba_base_s1l20": 86_614_504,
    "vmamba_small": 50_147_752,
    "vmamba_small_s1l20": 49_012_840,
    "vmamba_tiny": 30_249_064,
    "vmamba_tiny_s2l5": 30_705_832,
    "vmamba_v0_base": 76_254_056,
    "vmamba_v0_small": 44_417_416,
    "vmamba_v0_tiny": 22_893_448,
    "xcit_large_24_p16": 189_096_136,
    "xcit_large_24_p16_384": 189_096_136,
    "xcit_large_24_p8": 188_932_648,
    "xcit_large_24_p8_384": 188_932_648,
    "xcit_medium_24_p16": 84_395_752,
    "xcit_medium_24_p16_384": 84_395_752,
    "xcit_medium_24_p8": 84_323_624,
    "xcit_medium_24_p8_384": 84_323_624,
    "xcit_nano_12_p16": 3_053_224,
    "xcit_nano_12_p16_384": 3_053_224,
    "xcit_nano_12_p8": 3_049_016,
    "xcit_nano_12_p8_384": 3_049_016,
    "xcit_small_12_p16": 26_253_304,
    "xcit_small_12_p16_384": 26_253_304,
    "xcit_small_12_p8": 26_213_032,
    "xcit_small_12_p8_384": 26_213_032,
    "xcit_small_24_p16": 47_671_384,
    "xcit_small_24_p16_384": 47_671_384,
    "xcit_small_24_p8": 47_631_112,
    "xcit_small_24_p8_384": 47_631_112,
    "xcit_tiny_12_p16": 6_716_272,
    "xcit_tiny_12_p16_384": 6_716_272,
    "xcit_tiny_12_p8": 6_706_504,
    "xcit_tiny_12_p8_384": 6_706_504,
    "xcit_tiny_24_p16": 12_116_896,
    "xcit_tiny_24_p16_384": 12_116_896,
    "xcit_tiny_24_p8": 12_107_128,
    "xcit_tiny_24_p8_384": 12_107_128,
}


def check(got, want, rtol, what):
    assert_close(got, want.to(got.dtype), rtol, rtol * want.abs().max().item(), what)


def check_all_gradients(imported, want):
    """Stored in float32: relative to the largest of all gradients."""
    largest = max(t.abs().max().item() for t in want.values())
    check_gradients(imported, {k: v.double() for k, v in want.items()}, 1e-6, 1e-6 * largest)


@pytest.mark.parametrize("name", ["vmamba_vssm", "vmamba_v0_vanilla"])
def test_whole_vmamba(name):
    case = load_case(f"vision/{name}")
    params = {k: v.double() for k, v in case.group("param").items()}
    imported = Imported(VMAMBA, params, case.hyper)
    x = case.tensors["in.x"].double().requires_grad_()
    y = imported(x)
    check(y, case.tensors["out.y"], 1e-9, "logits")
    (y * case.tensors["cot.y"]).sum().backward()
    want = case.group("grad")
    check(x.grad, want.pop("in.x"), 1e-6, "gradient of the images")
    check_all_gradients(imported, want)
    read = from_original(VMAMBA, params)  # without hyper-parameters
    check(read(x), case.tensors["out.y"], 1e-9, "logits of the model read from shapes")


def test_whole_vim():
    case = load_variant("scan/vim", "vision_mamba")
    params = {k: v.double() for k, v in case.group("param").items()}
    imported = Imported(VIM, params, case.meta["cfg"])
    features = []
    imported.module.head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    x = case.tensors["in.x"].double().requires_grad_()
    logits = imported(x)
    check(logits, case.tensors["out.logits"], 1e-9, "logits")
    check(features[0], case.tensors["out.features"], 1e-9, "features")
    loss = (logits * case.tensors["cot.logits"]).sum() + (features[0] * case.tensors["cot.features"]).sum()
    loss.backward()
    check(x.grad, case.tensors["grad.in.x"], 1e-6, "gradient of the images")
    check_all_gradients(imported, case.group("grad.param"))
    read = from_original(VIM, params)  # without hyper-parameters
    check(read(x), case.tensors["out.logits"], 1e-9, "logits of the model read from shapes")


@pytest.mark.parametrize(
    ("grid", "patch", "told"),
    [
        (27, 16, {"img_size": 224, "stride": 8}),
        (14, 16, {"img_size": 224}),
        (24, 16, {"img_size": 384}),
        (7, 4, {"img_size": 28}),
    ],
)
def test_overlapping_patches_of_vim_are_told_by_their_number(grid, patch, told):
    params = load_case("vision/vim_fine_model").group("param")
    params |= {"pos_embed": torch.zeros(1, grid**2 + 1, 8), "patch_embed.proj.weight": torch.zeros(8, 1, patch, patch)}
    found = get_importer(VIM).infer(Weights(VIM, params))
    assert {name: found.get(name) for name in ("img_size", "stride")} == {"stride": None} | told


def every_model():
    """All names; models of another's blocks, for other frames, pixels or classes, in the slow run."""
    size = re.compile(r"_(f\d+|\d{3}|ssv2|breakfast|coin)$")
    for name in list_models():
        yield pytest.param(name, marks=[pytest.mark.slow] if name.startswith(SIZED) and size.search(name) else [])


@pytest.mark.parametrize("name", list(every_model()))
def test_parameters_are_as_many_as_published(name):
    with torch.device("meta"):
        model = create_model(name)
    count = sum(p.numel() for p in model.parameters())
    assert count == PARAMETERS[name]
    without_classifier = count - sum(p.numel() for p in model.head.parameters())  # some papers leave it out
    assert min(abs(n / 1e6 - model_entry(name).millions) for n in (count, without_classifier)) < 1


def test_names_with_pixels_are_of_images_of_that_size():
    named = {name: int(name[-3:]) for name in list_models() if name[-3:].isdecimal()}
    assert len(named) > 20
    assert {name: model_entry(name).image_size for name in named} == named
    assert {model_entry(name).image_size for name in list_models("affnet*")} == {256}


def small(kind):
    torch.manual_seed(0)
    if kind == "plain":
        return PlainBackbone("vim", d_model=8, depth=3, image_size=16, patch_size=4, out_indices=[0, 2])
    options = {"d_state": 1, "gate": "none"}
    return HierarchicalBackbone("ss2d", dims=[8, 12, 16], depths=[1, 1, 1], mixer_options=options, layer_scale=0.5)


@pytest.mark.parametrize("size", [(16, 16), (21, 10), (4, 5)])
@pytest.mark.parametrize("kind", ["plain", "hierarchical"])
def test_features_of_any_size(kind, size):
    backbone = small(kind)
    features = backbone(torch.randn(2, 3, *size))
    assert len(features) == len(backbone.dims) == len(backbone.strides)
    for cells, dim, stride in zip(features, backbone.dims, backbone.strides, strict=True):
        rows, columns = (-(-(side // 4) * 4 // stride) for side in size)
        assert cells.shape == (2, rows, columns, dim)
    assert backbone.pooled(torch.randn(2, 3, *size)).shape == (2, backbone.dims[-1])


@pytest.mark.parametrize("kind", ["plain", "hierarchical"])
def test_checkpointing_changes_no_gradient(kind):
    backbone, x = small(kind).double(), torch.randn(1, 3, 16, 16, dtype=torch.float64)
    gradients = []
    for checkpointing in (False, True):
        backbone.gradient_checkpointing = checkpointing
        backbone.zero_grad()
        backbone(x)[-1].square().sum().backward()
        gradients.append([p.grad.clone() for p in backbone.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 10
    for a, b in zip(*gradients, strict=True):
        assert_close(a, b, 1e-12, 1e-14)


def test_position_embeddings_are_resized_smoothly():
    backbone = small("plain")
    with torch.no_grad():
        backbone.position_embedding.copy_(torch.linspace(0, 1, 4)[:, None, None].expand(4, 4, 8))
    assert backbone._positions(4, 4) is backbone.position_embedding
    rows = backbone._positions(8, 6)[:, 0, 0]
    assert (rows.diff() > -0.05).all()
    assert rows[-1] - rows[0] > 0.9


def test_drop_path_leaves_out_blocks_in_training_alone():
    torch.manual_seed(0)
    backbone, x = HierarchicalBackbone("ss2d", dims=[8], depths=[2], drop_path=0.9), torch.randn(16, 3, 16, 16)
    assert not torch.equal(backbone(x)[0], backbone(x)[0])
    backbone.eval()
    assert torch.equal(backbone(x)[0], backbone(x)[0])


@pytest.mark.parametrize("kind", ["plain", "hierarchical"])
def test_a_backbone_built_on_meta_and_reset_equals_one_that_was_built(kind):
    def reset(module):
        for child in module.children():
            reset(child)
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()

    want = small(kind).state_dict()
    with torch.device("meta"):
        backbone = small(kind)
    torch.manual_seed(0)
    reset(backbone.to_empty(device="cpu"))
    got = backbone.state_dict()
    assert [name for name in want if not torch.equal(got[name], want[name])] == []


def test_names_and_features_only():
    assert list_models("vim*") == ["vim_base", "vim_small", "vim_small_plus", "vim_tiny", "vim_tiny_plus"]
    with torch.device("meta"):
        backbone = create_model("vmamba_tiny", features_only=True)
        model = create_model("vim_tiny", num_classes=7, in_channels=1)
    assert backbone.dims == (96, 192, 384, 768)
    assert backbone.strides == (4, 8, 16, 32)
    assert model.backbone.in_channels == 1
    assert model.head.out_features == 7


def test_errors_say_what_to_do(unannotated):
    vim = small("plain")
    case = load_case("vision/vmamba_vssm")
    cases = {
        r"model 'vmamba_tny'.*did you mean 'vmamba_tiny'": lambda: create_model("vmamba_tny"),
        r"num_classes=-1.*0 or more": lambda: create_model("vim_tiny", num_classes=-1),
        r"num_classes='10'.*an integer": lambda: create_model("vim_tiny", num_classes="10"),
        r"option 'drop_pth'.*did you mean 'drop_path'": lambda: create_model("vmamba_tiny", drop_pth=0.1),
        r"dims=\(8,\).*an option that vmamba_tiny leaves open": lambda: create_model("vmamba_tiny", dims=(8,)),
        r"in_channels=0.*at least 1": lambda: create_model("vmamba_tiny", in_channels=0),
        r"model 'sashimi_sc09'.*to_transformers\('sashimi_sc09'\)": lambda: create_model("sashimi_sc09"),
        r"epoch, model, no tensors.*pass checkpoint\['model'\]": lambda: from_original(
            VMAMBA, {"model": case.group("param"), "epoch": 3}
        ),
        r"names that all begin with 'module\.'": lambda: from_original(
            VMAMBA, {f"module.{name}": tensor for name, tensor in case.group("param").items()}
        ),
        r"names tell no sizes \(it has pos_embed\)": lambda: from_original(MSVMAMBA, {"pos_embed": torch.zeros(1)}),
        r"images of 3 by 9 pixels.*at least 4": lambda: vim(torch.zeros(1, 3, 3, 9)),
        r"images of shape \(1, 1, 16, 16\).*grey": lambda: vim(torch.zeros(1, 1, 16, 16)),
        r"dims=\(8,\), depths=\(1, 1\)": lambda: HierarchicalBackbone("ss2d", dims=[8], depths=[1, 1]),
        r"1 stage_blocks.*one value of every other list per stage": lambda: HierarchicalBackbone(
            "ss2d", dims=[8, 8], depths=[1, 1], stage_blocks=["mobile"]
        ),
        r"2 position_sizes.*at most one": lambda: HierarchicalBackbone(
            "ss2d", dims=[8], depths=[1], position_sizes=[4, 2]
        ),
        r"2 first_mixers.*at most one": lambda: PlainBackbone2d(
            "ss2d", d_model=8, depth=1, first_mixers=[("ss2d", {}, {})] * 2
        ),
        r"conv_layers=\(1,\).*indices from 0 to 0": lambda: PlainBackbone2d(
            "ss2d", d_model=8, depth=1, conv_layers=[1]
        ),
        r"stem 'cnv'.*did you mean 'conv'": lambda: HierarchicalBackbone("ss2d", dims=[8], depths=[1], stem="cnv"),
        r"pooling 'class'.*one of": lambda: PlainBackbone("vim", d_model=8, depth=1, pooling="class"),
        r"out_indices=\(3,\)": lambda: PlainBackbone("vim", d_model=8, depth=1, out_indices=[3]),
        r"downsample_version='v4'.*checked": lambda: from_original(
            VMAMBA, case.group("param"), **case.hyper | {"downsample_version": "v4"}
        ),
        r"if_rope=True.*checked": lambda: from_original(VIM, {}, if_rope=True),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
