"""Blocks of image models: the numbers of the original code."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case, load_variant
from seqconv import from_original
from seqconv.interop.vision.state_space.mamba_ad import CURVES, VIEWS
from seqconv.vision.backbones.local_state_space import LocalStateSpaceBlock
from seqconv.vision.scan_orders import inverse, scan_order

CHANNELS_LAST = {"parcnetv2_block", "sequencer2d_block", "sequencer2d_gru_block", "ecoformer_attention", "mambaad_lss"}
BLOCKS = [
    "aff_block",
    "ecoformer_attention",
    "mambaad_lss",
    "parcnetv2_block",
    "parcnetv2_oversize_conv",
    "restormer_block",
    "sequencer2d_block",
    "sequencer2d_gru_block",
    "spanet_block",
]


def read(name):
    """The case, its importer, and the images with channels last."""
    case = load_case(f"vision/{name}")
    params = {k: v.double() if v.is_floating_point() else v for k, v in case.group("param").items()}
    imported = Imported(case.meta["original"], params, case.hyper)
    x = case.tensors["in.x"].double()
    return case, params, imported, x if name in CHANNELS_LAST else x.movedim(1, -1)


def check(got, want, rtol, what):
    assert_close(got, want.to(got.dtype), rtol, rtol * want.abs().max().item(), what)


@pytest.mark.parametrize("name", BLOCKS)
def test_outputs_and_gradients_of_the_original(name):
    case, params, imported, x = read(name)
    x = x.contiguous().requires_grad_()
    y = imported(x)
    last = (lambda t: t) if name in CHANNELS_LAST else (lambda t: t.movedim(1, -1))
    check(y, last(case.tensors["out.y"]), 1e-9, "output")
    (y * last(case.tensors["cot.y"])).sum().backward()
    gradients = case.group("grad")
    check(x.grad, last(gradients.pop("in.x")), 1e-6, "gradient of the images")
    largest = max(t.abs().max().item() for t in gradients.values())
    check_gradients(imported, {k: v.double() for k, v in gradients.items()}, 1e-6, 1e-6 * largest)
    check(from_original(case.meta["original"], params, **case.hyper)(x), y, 1e-12, "output of the loaded block")


@pytest.mark.parametrize(("scan_type", "directions"), [("sweep", 2), ("scan", 4), ("zigzag", 8), ("zorder", 8)])
def test_scan_orders_of_mambaad_are_those_of_its_state_dict(scan_type, directions):
    """Other curves and numbers of directions; a state dict of another curve raises."""
    case = load_case("vision/mambaad_lss")
    params, rows = case.group("param"), {"A_logs": 12, "Ds": 12, "x_proj_weight": 1, "dt_projs_weight": 1}
    for name, tensor in params.items():
        if (kind := name.rpartition(".")[2]) in {**rows, "dt_projs_bias": 1}:
            params[name] = tensor[: directions * rows.get(kind, 1)]
    hyper = case.hyper | {"scan_type": scan_type, "num_direction": directions}
    with pytest.raises(ValueError, match=rf"another index_flat than that of scan_type='{scan_type}' and size=4"):
        from_original(case.meta["original"], params, **hyper)
    curve = CURVES[scan_type]
    for name in params:
        if "index_flat" in name:
            order = scan_order(curve, 4, 4)
            params[name] = (inverse(order) if name.endswith("inv") else order)[None, None]
    module = from_original(case.meta["original"], params, **hyper)
    assert module.blocks[0].mixer.orders[: directions // 2] == tuple(curve + v for v in VIEWS[: directions // 2])
    assert module(case.tensors["in.x"]).shape == (1, 4, 4, 6)


def test_the_mixer_of_mambaad_alone():
    case = load_variant("scan/mambaad", "ss2d_zigzag_K4")
    hyper = {name: case.meta[name] for name in ("size", "scan_type", "num_direction", "d_model")}
    imported = Imported("lewandofskee/MambaAD:SS2D", case.group("param"), hyper)
    x = case.tensors["in.x"].double().requires_grad_()
    y = imported(x)
    check(y, case.tensors["out.y"], 1e-9, "output")
    (y * case.tensors["cot.y"]).sum().backward()
    check(x.grad, case.tensors["grad.in.x"], 1e-6, "gradient of the images")
    wanted = {k.removeprefix("param."): v.double() for k, v in case.group("grad").items() if k.startswith("param.")}
    check_gradients(imported, wanted, 1e-6, 1e-6 * max(t.abs().max().item() for t in wanted.values()))


def test_convolutions_of_mambaad_begin_as_the_original():
    """Those of the scans too: normal by the outputs, without biases."""
    torch.manual_seed(0)
    conv = LocalStateSpaceBlock(32, depth=1).blocks[0].mixer.conv2d
    assert abs(conv.weight.std().item() - (2 / 9) ** 0.5) < 0.05
    assert not conv.bias.any()


def test_options_of_the_scans_of_mambaad():
    case = load_case("vision/mambaad_lss")
    params = case.group("param")
    for name in list(params):
        if name.endswith("conv2d.bias"):
            del params[name]
        if name.endswith(("in_proj.weight", "self_attention.out_proj.weight")):
            params[name.replace("weight", "bias")] = torch.ones(len(params[name]))
    module = from_original(case.meta["original"], params, **case.hyper | {"conv_bias": False, "bias": True})
    assert module.blocks[0].mixer.conv2d.bias is None
    assert module.blocks[0].mixer.in_proj.bias.sum() == 24
    with pytest.raises(ValueError, match=r"d_conv=1.*odd width of 3"):
        from_original(case.meta["original"], params, **case.hyper | {"d_conv": 1})
