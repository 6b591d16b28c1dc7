"""Options of the originals beyond those of the published models: stored numbers of the original code."""

import json

import pytest
import torch
from torch import nn

from golden_cases import GOLDEN, Imported, assert_close, check_gradients, load_case, load_variant
from seqconv import create_model, from_original
from seqconv.interop.importer import get_importer
from seqconv.mixers.state_space.vim import Vim
from seqconv.vision import create_mixer_2d
from seqconv.vision.backbones.hierarchical import HierarchicalBackbone
from seqconv.vision.backbones.plain_2d import PlainBackbone2d
from seqconv.vision.mixers.plain_mamba import PlainMamba2d
from seqconv.vision.mixers.ss2d import SS2D

FOLDER = "vision/options"
VARIANTS = json.loads((GOLDEN / FOLDER / "case.json").read_text())["variants"]
UNTOLD = (
    "plainmamba_layers",
    "vim_without_a_token",
    "vmamba_parts",
    "vig_h_parts",
    "vim_one_direction",
    "afno2d_cut",
    "aff_batch_norm",
)
"""Variants with options that the tensors do not tell."""


@pytest.mark.parametrize("name", VARIANTS)
def test_outputs_and_gradients(name):
    case = load_variant(FOLDER, name)
    params = {k: v.double() if v.is_floating_point() else v for k, v in case.group("param").items()}
    imported = Imported(case.meta["original"], params, case.meta["cfg"])
    x = case.tensors["in.x"].double().requires_grad_()
    y = imported(x)
    want = case.tensors["out.y"]
    assert_close(y, want, 1e-9, 1e-9 * want.abs().max().item(), "outputs")
    (y * case.tensors["cot.y"]).sum().backward()
    gradients = {k: v.double() for k, v in case.group("grad.param").items()}
    largest = max(t.abs().max().item() for t in [*gradients.values(), case.tensors["grad.in.x"]])
    assert_close(x.grad, case.tensors["grad.in.x"].double(), 1e-6, 1e-6 * largest, "gradient of the inputs")
    check_gradients(imported, gradients, 1e-6, 1e-6 * largest)
    if name not in UNTOLD:
        assert_close(from_original(case.meta["original"], params)(x), y, 1e-12, 1e-12, "read from shapes")


def test_gated_mlp_of_vmamba():
    """The gate is the second half of what the first projection gives, in the file whose MLP may be gated."""
    case = load_variant(FOLDER, "vmamba_parts")
    params = {k: v.double() if v.is_floating_point() else v for k, v in case.group("param").items()}
    for stage, dim in enumerate((4, 6)):
        params[f"layers.{stage}.blocks.0.mlp.fc1.weight"] = torch.randn(4 * dim, dim, dtype=torch.float64)
        params[f"layers.{stage}.blocks.0.mlp.fc1.bias"] = torch.randn(4 * dim, dtype=torch.float64)
    model = from_original(case.meta["original"], params, **case.meta["cfg"] | {"gmlp": True, "mlp_act_layer": "gelu"})
    up, down = (params[f"layers.1.blocks.0.mlp.fc{i}.weight"] for i in (1, 2))
    biases = [params[f"layers.1.blocks.0.mlp.fc{i}.bias"] for i in (1, 2)]
    x = torch.randn(3, 6, dtype=torch.float64)
    value, gate = (x @ up.T + biases[0]).chunk(2, -1)
    want = (value * nn.functional.gelu(gate)) @ down.T + biases[1]
    assert_close(model.backbone.stages[1][0].mlp(x), want, 1e-12, 1e-12)


def std(tensor):
    return tensor.detach().std(correction=0).item()


def test_initial_values_are_those_of_the_originals():
    """Distributions that constructors of originals set, beyond PyTorch's."""
    torch.manual_seed(0)
    sizes = {"num_classes": 50, "image_size": 32}
    vim = create_model("vim_tiny", **sizes)
    assert std(vim.backbone.patch_embedding.weight) == pytest.approx(768**-0.5 / 0.8796, rel=0.02)  # timm 0.4.12
    assert vim.backbone.blocks[3].mixer.dt_bias[1].abs().max() == 0
    assert vim.backbone.blocks[3].mixer.dt_bias[0].max() < 0
    vil = create_model("vil_tiny", **sizes)
    assert std(vil.head.weight) == pytest.approx(2e-5, rel=0.05)
    assert std(vil.backbone.stem.proj.weight) == pytest.approx((2 / (768 + 192)) ** 0.5, rel=0.02)
    assert vil.backbone.stem.proj.bias.abs().max() == 0
    assert vil.backbone.pooled_norm.eps == 1e-5
    vmamba = create_model("vmamba_tiny", num_classes=50).backbone.stages[0][0]
    assert std(vmamba.mixer.x_proj.weight) == pytest.approx((3 * 96) ** -0.5, rel=0.05)
    assert std(vmamba.mixer.in_proj.weight) == pytest.approx(0.02, rel=0.05)
    gfnet = create_model("gfnet_tiny", **sizes).backbone.blocks[0]
    assert std(gfnet.mlp.up.weight) == pytest.approx(0.02, rel=0.02)
    convnext = create_model("convnext_dcls_tiny", num_classes=50).backbone
    conv = convnext.stages[0][2].mixer.conv
    assert std(conv.filter.weight) == pytest.approx(0.02, rel=0.05)
    assert conv.bias.abs().max() == convnext.stem.proj.bias.abs().max() == 0
    assert std(convnext.stem.proj.weight) == pytest.approx(0.02, rel=0.05)
    assert std(convnext.shared["0"].position) == pytest.approx(0.5, rel=0.05)
    parcnet = create_model("parcnetv2_xt", num_classes=50).backbone
    assert std(parcnet.stages[0][0].mixer.oversize_conv.conv_h.weight) == pytest.approx(0.02, rel=0.05)
    sequencer = create_model("sequencer2d_s", num_classes=50)
    assert sequencer.head.weight.abs().max() == 0
    assert std(sequencer.backbone.stages[0][0].mlp.up.weight) == pytest.approx((2 / (192 + 576)) ** 0.5, rel=0.02)
    mobile = create_model("mobile_mamba_t2", num_classes=50).backbone.stages[0][0]
    assert mobile.mixer.out_proj.norm.weight.abs().max() == 0
    assert mobile.mixer.scan.ss2d.A_log.abs().max() == 0
    assert 0 <= mobile.mixer.scan.ss2d.dt_bias.min() <= mobile.mixer.scan.ss2d.dt_bias.max() <= 0.1
    video = create_model("videomamba_tiny", num_classes=5, image_size=32, num_frames=2).backbone
    assert video.blocks[0].mixer.dt_bias.abs().max() == video.cls_token.abs().max() == 0
    assert std(video.blocks[0].mixer.in_proj.weight) == pytest.approx(0.02, rel=0.05)


def test_initial_values_of_mixers():
    torch.manual_seed(0)
    twice, once = (PlainMamba2d(64, selection=name).dt_bias.mean().item() for name in ("raster", "scanned"))
    assert twice == pytest.approx(2 * once, rel=0.15)
    assert Vim(8, version="v1").dt_bias.max() < 0
    normal = SS2D(64, initialisation="normal")
    assert std(normal.A_log) == pytest.approx(1.0, rel=0.1)
    assert std(normal.dt_bias) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize(
    ("original", "options", "weight"),
    [
        ("hustvl/Vim:Mamba", {"bimamba_type": "v2"}, "selection.0.dt_proj.weight"),
        ("OpenGVLab/video-mamba-suite:mamba_new.Mamba", {}, "selection.0.dt_proj.weight"),
        ("MzeroMiko/VMamba:SS2D", {"forward_type": "v05"}, "dt_proj.weight"),
    ],
)
def test_initial_projection_to_time_steps(original, options, weight):
    """``dt_init`` and ``dt_scale``, of the forward direction of Vim alone and not of the first SS2D, as there."""
    build = get_importer(original).build
    constant = build(d_model=64, dt_rank=4, dt_init="constant", dt_scale=3.0, **options).state_dict()
    assert (constant[weight] == 1.5).all()
    if original == "hustvl/Vim:Mamba":
        assert constant["selection.1.dt_proj.weight"].abs().max() <= 0.5
    drawn = build(d_model=64, dt_rank=4, dt_scale=3.0, **options).state_dict()[weight].abs().max()
    assert 1.4 < drawn <= 1.5
    if "forward_type" in options:
        first = build(d_model=64, dt_rank=4, dt_init="constant", forward_type="v0").state_dict()[weight]
        assert first.std() > 0
    with pytest.raises(ValueError, match=r"dt_init 'constnat'.*did you mean 'constant'"):
        build(d_model=8, dt_init="constnat", **options)


def test_initial_values_of_attention_and_heads():
    torch.manual_seed(0)
    block = get_importer("OpenGVLab/video-mamba-suite:SpaceTimeBlock").build(time_n=2, dim=64, num_heads=2)
    assert std(block.space.qkv_proj.weight) == pytest.approx((2 / (64 + 192)) ** 0.5, rel=0.03)
    assert block.space.qkv_proj.bias.abs().max() == block.space.o_proj.bias.abs().max() == 0
    aff = create_model("affnet_et", num_classes=64)
    assert std(aff.head.weight) == pytest.approx((2 / sum(aff.head.weight.shape)) ** 0.5, rel=0.03)
    assert aff.head.bias.abs().max() == 0
    build, small = get_importer("raoyongming/HorNet:HorNet").build, {"base_dim": 8, "depths": [1, 1, 1, 1]}
    head = build(**small, orders=[2] * 4, global_filters=[None] * 4, head_init_scale=0.1).head
    assert std(head.weight) == pytest.approx(0.002, rel=0.05)
    with pytest.raises(ValueError, match="uniform_init=True"):
        build(**small, orders=[2] * 4, global_filters=[None] * 4, uniform_init=True)


def test_two_heads_of_mobile_mamba_are_averaged():
    case = load_case("vision/mobilemamba_model")
    params = {k: v.double() if v.is_floating_point() else v for k, v in case.group("param").items()}
    name, hyper = case.meta["original"], case.hyper
    second = {k: v.flip(0) for k, v in params.items() if k.startswith("head.")}
    second["head.bn.running_var"] = second["head.bn.running_var"].abs() + 0.5
    two = params | {k.replace("head.", "head_dist."): v for k, v in second.items()}
    x = torch.randn(2, 1, 32, 48, dtype=torch.float64)
    apart = [from_original(name, tensors, **hyper)(x) for tensors in (params, params | second)]
    assert_close(from_original(name, two, **hyper | {"distillation": True})(x), sum(apart) / 2, 1e-10, 1e-10)


def test_drop_path_of_vision_lstm():
    """The same in all blocks or, if asked, rising from pair to pair."""
    build = get_importer("NX-AI/vision-lstm:VisionLSTM2").build
    sizes = {"dim": 8, "depth": 2, "input_shape": [3, 16, 16], "patch_size": 8, "output_shape": [2]}
    for decay, rates in ((False, [0.3] * 4), (True, [0.0, 0.0, 0.3, 0.3])):
        backbone = build(**sizes, drop_path_rate=0.3, drop_path_decay=decay).backbone
        assert isinstance(backbone, PlainBackbone2d)
        assert [block.drop_path.p for block in backbone.blocks] == pytest.approx(rates)


def test_largest_logit_of_vim_is_no_class():
    """With ``final_pool_type="max"`` the original takes the largest of the logits of the class token."""
    with pytest.raises(ValueError, match="final_pool_type='max'; wanted 'mean' or 'none'"):
        get_importer("hustvl/Vim:VisionMamba").build(final_pool_type="max", embed_dim=8, depth=1)


@pytest.mark.parametrize("name", ["vim_tiny", "vil_tiny", "videomamba_tiny"])
def test_positions_and_tokens_are_not_decayed(name):
    with torch.device("meta"):
        backbone = create_model(name, num_classes=0).backbone
    own = dict(backbone.named_parameters(recurse=False))
    assert "position_embedding" in own
    assert all(parameter._no_weight_decay for parameter in own.values())


def test_positions_of_stages_and_of_offsets_are_not_decayed():
    with torch.device("meta"):
        stages = HierarchicalBackbone("ss2d", dims=[4, 8], depths=[1, 1], position_sizes=[4, 2])
        swin = create_mixer_2d("shifted_window", 4, num_heads=2, window=3)
    assert all(parameter._no_weight_decay for parameter in [*stages.positions, swin.relative_bias])
