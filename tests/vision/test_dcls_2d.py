"""DCLS over images: the original's numbers where an image has one row, where taps lie, shared places, errors."""

from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file, save_file

from golden_cases import assert_close, load_case
from seqconv import SeqConvVisionConfig, from_original
from seqconv.filters.explicit.dcls import DCLSFilter
from seqconv.filters.explicit.dcls_2d import DCLSFilter2d
from seqconv.hf.vision.models import SeqConvVisionForImageClassification
from seqconv.vision import create_mixer_2d
from seqconv.vision.backbones.hierarchical import HierarchicalBackbone

ORIGINAL = "K-H-Ismail/Dilated-Convolution-with-Learnable-Spacings-PyTorch:Dcls2d"
MODEL = "K-H-Ismail/ConvNeXt-dcls:ConvNeXt_dcls"


@pytest.mark.parametrize("name", ["dcls1d_v1", "dcls1d_max"])
def test_one_row_is_the_original_in_one_dimension(name):
    """Taps in the middle row alone, of no width: the golden numbers of sequences."""
    case = load_case(name)
    params = case.group("param")
    params["P"] = torch.cat([params["P"], torch.zeros_like(params["P"])])  # columns, then rows
    if "SIG" in params:
        params["SIG"] = torch.cat([params["SIG"], torch.zeros_like(params["SIG"])])
    module = from_original(ORIGINAL, params, **case.hyper)
    x = case.tensors["in.x"].movedim(1, -1)  # (batch, length, channels)
    want = case.tensors["out.y"].movedim(1, -1)
    row = case.hyper["padding"] - case.hyper["dilated_kernel_size"] // 2  # where the middle of the window meets it
    assert_close(module(x[:, None])[:, row], want, 1e-6, 1e-6 * want.abs().max().item())


@pytest.mark.parametrize(("version", "first"), [("v0", "row"), ("v1", "column"), ("max", "column")])
def test_places_of_taps(version, first):
    """A tap one row down and two columns to the right; the original's order of axes depends on the version."""
    filter = DCLSFilter2d(1, kernel_count=1, span=5, version=version)
    with torch.no_grad():
        filter.weight.fill_(1.0)
        filter.position[:, 0, 0] = torch.tensor([1.0, 2.0])
    want = torch.zeros(5, 5)
    want[3, 4] = 1
    assert_close(filter()[0], want, 1e-6, 1e-6)
    row_first = torch.tensor([1.0, 2.0]) if first == "row" else torch.tensor([2.0, 1.0])
    params = {"weight": torch.ones(1, 1, 1), "P": row_first.view(2, 1, 1, 1), "bias": torch.zeros(1)}
    params |= {"SIG": torch.zeros(2, 1, 1, 1)} if version == "max" else {}
    hyper = {"in_channels": 1, "out_channels": 1, "kernel_count": 1, "dilated_kernel_size": 5, "version": version}
    assert_close(from_original(ORIGINAL, params, **hyper).filter()[0], want, 1e-6, 1e-6)


def test_a_tap_between_cells_is_shared_out():
    filter = DCLSFilter2d(1, kernel_count=1, span=3, version="v1")
    with torch.no_grad():
        filter.weight.fill_(1.0)
        filter.position[:, 0, 0] = torch.tensor([0.25, -0.5])
    want = torch.tensor([[0.0, 0.0, 0.0], [0.375, 0.375, 0.0], [0.125, 0.125, 0.0]])
    assert_close(filter()[0], want, 1e-5, 1e-6)


def read_model():
    """The tiny model of the original's code, in float64, and its images."""
    case = load_case("vision/convnext_dcls_model")
    params = {name: tensor.double() for name, tensor in case.group("param").items()}
    return from_original(MODEL, params), case.tensors["in.x"].double()


def staged(**options):
    """A backbone of two blocks that share the places of their taps."""
    torch.manual_seed(0)
    taps = {"kernel_count": 3, "span": 5, "shared_positions": True, **options}
    return HierarchicalBackbone("dcls", dims=[4, 6], depths=[2, 1], mixer_options=taps)


def test_blocks_of_a_stage_share_one_parameter():
    backbone = staged()
    places = [name for name, _ in backbone.named_parameters() if "position" in name]
    assert places == ["shared.0.position", "shared.1.position"]
    assert all(p._no_weight_decay for name, p in backbone.named_parameters() if name in places)
    filters = [block.mixer.conv.filter for block in backbone.stages[0]]
    windows = [filter(backbone.shared["0"]()) for filter in filters]
    alone = DCLSFilter2d(4, kernel_count=3, span=5)
    alone.load_state_dict({"weight": filters[1].weight, **backbone.shared["0"].state_dict()})
    assert torch.equal(windows[1], alone())
    backbone(torch.randn(1, 3, 16, 16))[-1].sum().backward()
    assert backbone.shared["0"].position.grad.abs().max() > 0
    with torch.no_grad():
        backbone.shared["0"].position.fill_(9.0)
    backbone.shared["0"].clamp_positions()
    assert backbone.shared["0"].position.unique().tolist() == [2.0]


def test_shared_places_are_kept_by_copies_files_and_meta_devices(tmp_path):
    def reset(module):
        for child in module.children():
            reset(child)
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()

    model, images = read_model()
    want = model(images)
    copied = deepcopy(model)
    copied.backbone.shared["0"].position.data.zero_()
    assert_close(model(images), want, 0, 0)
    assert (copied(images) - want).abs().max() > 1e-3
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    copied.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert_close(copied(images), want, 0, 0)
    built = staged(init_std=0.02).state_dict()
    with torch.device("meta"):
        backbone = staged(init_std=0.02)
    torch.manual_seed(0)
    reset(backbone.to_empty(device="cpu"))
    assert [name for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, built[name])] == []


def test_shared_places_in_other_calls():
    """Computed again in the backward pass, and narrow parameters around the wide ones."""
    model, images = read_model()
    gradients = []
    for model.backbone.gradient_checkpointing in (False, True):
        model.zero_grad()
        model.train()(images).sum().backward()
        gradients.append(model.backbone.shared["2"].position.grad.clone())
    assert_close(gradients[1], gradients[0], 1e-12, 1e-14)
    narrow = staged().bfloat16()
    assert narrow.shared["0"].position.dtype == torch.float32
    assert narrow(torch.randn(1, 3, 16, 16, dtype=torch.bfloat16))[-1].isfinite().all()


def test_transformers_saves_and_loads_shared_places(tmp_path):
    torch.manual_seed(0)
    options = {"mixer": "dcls", "dims": [4, 6], "depths": [2, 1]}
    options["mixer_options"] = {"kernel_count": 3, "span": 5, "shared_positions": True}
    config = SeqConvVisionConfig(backbone_name="hierarchical", backbone_options=options, num_labels=2)
    model = SeqConvVisionForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    images = torch.randn(1, 3, 16, 16)
    loaded = SeqConvVisionForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(images).logits, model(images).logits)


@pytest.mark.parametrize("make", [DCLSFilter, DCLSFilter2d])
def test_a_tap_at_the_end_of_the_window_moves_back(make):
    """In the original's v0 its cell loses what the tap moves away, and the next cell is outside of the window."""
    filter = make(1, kernel_count=1, span=5, version="v0").double()
    with torch.no_grad():
        filter.weight.fill_(1.0)
        filter.position.fill_(2.0)
        if make is DCLSFilter:
            filter.position.fill_(0.0)  # the newest lag is the last cell there
    window = filter(5) if make is DCLSFilter else filter()
    window.sum().backward()
    assert filter.position.grad.flatten().tolist() == ([1.0] if make is DCLSFilter else [-1.0, -1.0])


def test_errors_say_what_to_do(unannotated):
    sizes = {"in_channels": 1, "out_channels": 1, "kernel_count": 1}
    cells, params = torch.zeros(1, 5, 5, 4), load_case("vision/convnext_dcls_model").group("param")
    cases = {
        r"span=4.*odd": lambda: create_mixer_2d("dcls", 4, span=4),
        r"version 'v2'.*one of": lambda: create_mixer_2d("dcls", 4, version="v2"),
        r"kernel_count=0": lambda: create_mixer_2d("dcls", 4, kernel_count=0),
        r"dilated_kernel_size=\[3, 5\].*square": lambda: from_original(
            ORIGINAL, {}, **sizes, dilated_kernel_size=[3, 5]
        ),
        r"no shared values.*HierarchicalBackbone": lambda: create_mixer_2d("dcls", 4, shared_positions=True)(cells),
        r"shared values.*leave shared out": lambda: create_mixer_2d("dcls", 4)(cells, shared=cells),
        r"positions P that differ between the blocks of stages\.0": lambda: from_original(
            MODEL, params | {"stages.0.1.dwconv.P": params["stages.0.1.dwconv.P"] + 1}
        ),
        r"stride=2": lambda: from_original(ORIGINAL, {}, **sizes, stride=2),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
