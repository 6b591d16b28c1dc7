"""Options of originals that were read in their source: taken as there, or unsupported (commits: docs/importing.md)."""

from functools import partial

import pytest
import torch
from torch import nn

from seqconv.interop.importer import Weights, from_original, get_importer

S4, BACKBONE = "state-spaces/s4:S4Block", "state-spaces/s4:SequenceModel"
MEGA, MEGA_LAYER = "facebookresearch/mega:MovingAverageGatedAttention", "facebookresearch/mega:MegaSentenceEncoderLayer"
GLA = "fla-org/flash-linear-attention:GatedLinearAttention"
SIZES = {"embed_dim": 4, "zdim": 2, "hdim": 6, "ndim": 2}
UNSUPPORTED = {
    "models/s4/s4.py: the constructor reads self.layer before it exists": (S4, {"d_model": 4, "gate": 2}, "gate=2"),
    "models/s4/s4.py: input_linear has the width of its output": (S4, {"d_model": 4, "bottleneck": 2}, "bottleneck=2"),
    "src/models/sequence/modules/s4block.py: GLU halves the width in front of the output": (
        BACKBONE, {"d_model": 4, "layer": {"activation": "glu"}}, "activation='glu'",
    ),
    "src/utils/registry.py: no such layer": (
        BACKBONE, {"d_model": 4, "layer": {"_name_": "s4block"}}, "layer 's4block'",
    ),
    "fairseq/utils.py: get_activation_fn": (MEGA, SIZES | {"activation": "tanh"}, "activation 'tanh'"),
    "mega_sentence_encoder_layer.py: no such argument": (MEGA_LAYER, {"norm_affine": False}, "'norm_affine'"),
    "mamba_ssm/modules/mamba2.py: a part of the layer": (
        "state-spaces/mamba:Mamba2", {"d_model": 8, "process_group": "tp"}, "process_group=tp",
    ),
    "mamba_ssm/models/mixer_seq_simple.py: another layer": (
        "state-spaces/mamba:Mamba", {"d_model": 8, "layer": "Mamba2"}, "layer='Mamba2'",
    ),
    "stripedhyena/engine.py: F.conv1d correlates, with the taps in order": (
        "togethercomputer/stripedhyena:ParallelHyenaFilter",
        {"hidden_size": 4, "state_size": 2, "long_fir_threshold": 3}, "long_fir_threshold=3",
    ),
    "mamba-1p1p1/mamba_ssm/modules/mamba_simple.py: only the fused functions have two directions": (
        "hustvl/Vim:Mamba", {"d_model": 4, "bimamba_type": "v2", "use_fast_path": False}, "use_fast_path=False",
    ),
    "classification/models/vig.py: the MLP and the output's activation": (
        "hustvl/ViG:GLABlock", {"hidden_size": 4, "num_attention_heads": 2, "hidden_act": "gelu"}, "hidden_act='gelu'",
    ),
    "classification/models/vig_h.py: _ACTLAYERS": ("hustvl/ViG:HierViG", {"mlp_act_layer": "sigmoid"}, "='sigmoid'"),
    "xcit.py: of the MLP and the local convolutions": (
        "facebookresearch/xcit:XCABlock", {"dim": 4, "num_heads": 2, "act_layer": nn.ReLU}, "act_layer='ReLU'",
    ),
    "xcit.py: a norm with another epsilon": (
        "facebookresearch/xcit:XCABlock",
        {"dim": 4, "num_heads": 2, "norm_layer": partial(nn.LayerNorm, eps=1e-6)}, "norm_layer=.LayerNorm.eps=1e-06",
    ),
    "classification/models/vmamba.py: _ACTLAYERS": ("MzeroMiko/VMamba:VSSM", {"ssm_act_layer": "gelu"}, "='gelu'"),
    "classification/models/vmamba.py: the gate without its activation": (
        "YuHengsss/MSVMamba:SS2D", {"sscore_type": "multiscale_4scan_12", "forward_type": "v2nozact"}, "v2nozact",
    ),
    "classification/lib/models/mamba/efficient_mamba.py: any class": (
        "TerryPei/EfficientVMamba:EfficientVSSM", {"norm_layer": nn.BatchNorm2d}, "norm_layer='BatchNorm2d'",
    ),
    "model/mobilemamba/mobilemamba.py: stages without downsampling": (
        "lewandofskee/MobileMamba:MobileMamba", {"down_ops": [[""]] * 3}, "down_ops=",
    ),
    "plain_mamba.py: the norm after all layers": (
        "ChenhongyiYang/PlainMamba:PlainMamba", {"norm_cfg": {"type": "BN"}}, "norm_cfg=.*BN",
    ),
    "fla/modules/activations.py: ACT2FN": (GLA, {"hidden_size": 8, "feature_map": "tanh"}, "feature_map 'tanh'"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_an_option_that_the_original_does_not_have_or_fails_with_raises(case):
    original, hyper, got = case
    with pytest.raises(ValueError, match=rf"from_original\('{original}'\): received .*{got}.*Remedy"):
        get_importer(original).build(**hyper)


def test_fairseq_approximates_gelu_by_name():
    """``fairseq/utils.py``: ``gelu_accurate`` and ``gelu_fast`` are the approximation by tanh, ``gelu`` is exact."""
    names = {name: get_importer(MEGA).build(**SIZES, activation=name).activation for name in ("gelu", "gelu_accurate")}
    assert names == {"gelu": "gelu", "gelu_accurate": "gelu_tanh"}


def test_one_learning_rate_of_s4_covers_C_and_P_follows_A():
    """``Kernel.__init__`` and ``register_params`` of ``models/s4/s4.py``."""
    one = get_importer("state-spaces/s4:SSMKernelDPLR").build(H=4, d_state=4, L=8, lr=1e-2)
    assert one.C._optim == {"lr": 1e-2}
    assert one.P._optim == {"lr": 1e-2, "weight_decay": 0.0}
    some = get_importer("state-spaces/s4:SSMKernelDPLR").build(H=4, d_state=4, L=8, lr={"A": 1e-3})
    assert some.P._optim == some.A_real._optim == {"lr": 1e-3, "weight_decay": 0.0}
    assert some.B._optim == {"weight_decay": 0.0}
    frozen = get_importer("state-spaces/s4:SSMKernelDiag").build(H=4, d_state=4, L=8, lr=0.0)
    assert list(frozen.parameters()) == []


def test_dropouts_of_s4_are_where_the_originals_have_them():
    """Minimal S4D: once, after the activation. Backbone: the dropout after the convolution is never tied."""
    minimal = get_importer("state-spaces/s4:S4D").build(d_model=4, d_state=4, dropout=0.3)
    assert (minimal.conv_dropout.p, minimal.dropout.p, minimal.dropout.tied) == (0.0, 0.3, True)
    tied = {"d_state": 4, "dropout": 0.3, "tie_dropout": True}
    backbone = get_importer(BACKBONE).build(d_model=4, layer=tied, dropout=0.2, residual=None)
    block = backbone.layers[0]
    assert (block.mixer.conv_dropout.tied, block.mixer.dropout.tied, block.dropout.p) == (False, True, 0.0)


def test_an_imported_s4_block_decodes_to_its_length_and_no_further():
    torch.manual_seed(0)
    layer = get_importer(S4).build(d_model=4, d_state=4, l_max=6, mode="s4d").double().eval()
    x = torch.randn(1, 8, 4, dtype=torch.float64)
    y, state = layer.prefill(x[:, :6])
    torch.testing.assert_close(y, layer(x)[:, :6])
    with pytest.raises(ValueError, match=r"7 tokens with truncation=6.*Remedy"):
        layer.step(x[:, 6], state)


def test_weight_norm_that_the_original_takes_and_does_not_read():
    """``models/s4/s4.py``: only the blocks of ``src`` normalise; gradients are those of the plain weight."""
    torch.manual_seed(0)
    importer = get_importer(S4)
    plain = importer.build(d_model=4, d_state=4, l_max=6, mode="s4d")
    weights = {f"layer.kernel.{k.rpartition('.')[2]}": v for k, v in plain.state_dict().items() if "filter" in k}
    weights |= {"layer.D": plain.D.detach(), "layer.kernel.B": weights["layer.kernel.B"][None]}
    weights |= {f"output_linear.0.{k}": getattr(plain.out_proj, k).detach() for k in ("weight", "bias")}
    weights["output_linear.0.weight"].requires_grad_()
    hyper = {"d_model": 4, "d_state": 4, "l_max": 6, "mode": "s4d", "weight_norm": True}
    x, found = torch.randn(2, 6, 4), []
    converted = importer.convert(Weights(S4, weights), hyper)
    y = torch.func.functional_call(importer.build(**hyper), converted, (x,))
    torch.testing.assert_close(y, plain(x))
    found.append(torch.autograd.grad(y.square().sum(), weights["output_linear.0.weight"])[0])
    found.append(torch.autograd.grad(plain(x).square().sum(), plain.out_proj.weight)[0])
    torch.testing.assert_close(*found)


def test_softmax_of_linear_attention_counts_the_coordinate():
    """scaomath/galerkin-transformer, ``libs/layers.py``: positions come before the softmax, not after it."""
    torch.manual_seed(0)
    heads, width, length = 2, 3, 7
    layers = [nn.Linear(6, 6, dtype=torch.float64) for _ in range(3)]
    fc = nn.Linear(6 + heads, 6, dtype=torch.float64)
    weights = {f"linears.{i}.{name}": p for i, layer in enumerate(layers) for name, p in layer.named_parameters()}
    weights |= {f"fc.{name}": p for name, p in fc.named_parameters()}
    original = "scaomath/galerkin-transformer:SimpleAttention"
    module = from_original(original, weights, n_head=heads, d_model=6, attention_type="linear", pos_dim=1)
    x, place = torch.randn(2, length, 6, dtype=torch.float64), torch.linspace(0, 1, length, dtype=torch.float64)
    q, k, v = (layer(x).view(2, length, heads, width) for layer in layers)
    front = place[None, :, None, None].expand(2, length, heads, 1)
    q, k, v = (torch.cat([front, part], -1) for part in (q, k, v))
    memory = torch.einsum("blhd,blhe->bhde", k.softmax(1), v) / length
    y = torch.einsum("blhd,bhde->blhe", q.softmax(-1), memory).flatten(2)
    torch.testing.assert_close(module(x), fc(y))


def test_a_filter_of_gfnet_counts_its_frequencies():
    """raoyongming/GFNet, ``gfnet.py``: ``w`` of ``GlobalFilter`` are those of a row, for 6 and for 7 columns."""
    torch.manual_seed(0)
    weight, x = torch.randn(6, 4, 3, 2, dtype=torch.float64), torch.randn(2, 6, 7, 3, dtype=torch.float64)
    module = from_original("raoyongming/GFNet:GlobalFilter", {"complex_weight": weight}, dim=3, h=6, w=4)
    assert module.size == (6, 6)
    for columns in (6, 7):
        spectrum = torch.fft.rfft2(x[:, :, :columns], dim=(1, 2), norm="ortho") * torch.view_as_complex(weight)
        want = torch.fft.irfft2(spectrum, s=(6, columns), dim=(1, 2), norm="ortho")
        torch.testing.assert_close(module(x[:, :, :columns]), want)


def test_defaults_of_constructors():
    """``DCLS/construct/modules.py`` at 83de5624: Gaussian taps. ``vig.py``: one epsilon for all norms of a block."""
    dcls = "K-H-Ismail/Dilated-Convolution-with-Learnable-Spacings-PyTorch:Dcls1d"
    assert get_importer(dcls).build(in_channels=2, out_channels=2, kernel_count=2).filter.version == "gauss"
    block = get_importer("hustvl/ViG:GLABlock").build(hidden_size=4, num_attention_heads=2, rms_norm_eps=0.1)
    assert {block.mixer_norm.eps, block.mlp_norm.eps, block.mixer.norm.eps} == {0.1}


def test_a_layer_of_s5_rescales_the_steps_of_its_ssm():
    """lindermanlab/S5, ``s5/layers.py``: ``self.ssm(step_rescale=self.step_rescale)``."""
    importer = get_importer("lindermanlab/S5:SequenceLayer")
    assert importer.build(H=4, P_full=4, layer={"step_rescale": 2.0}).mixer.rate == 2.0
    assert importer.build(H=4, P_full=4, step_rescale=0.5).mixer.rate == 0.5
