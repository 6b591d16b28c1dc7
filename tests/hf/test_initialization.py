"""Initial values: construction on the meta device, what a checkpoint leaves out, loading in half precision."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import config, each_default, prompts

from seqconv import (
    SeqConvForAudioClassification,
    SeqConvForCausalLM,
    SeqConvForImageClassification,
    SeqConvForMaskedLM,
    SeqConvForSequenceClassification,
    SeqConvForTokenClassification,
    SeqConvModel,
)
from seqconv.parameters import kept_parameters, parameter_groups

every_model = pytest.mark.parametrize(
    ("kind", "options"),
    [
        (SeqConvModel, {"position_embedding": "learned", "embedding_norm": True}),
        (SeqConvForCausalLM, {"residual": "highway", "mlp": "rwkv7"}),
        (SeqConvForMaskedLM, {"bidirectional": True, "norm": "batch"}),
        (SeqConvForSequenceClassification, {"pooling": "cls", "residual": "affine"}),
        (SeqConvForTokenClassification, {"norm": "layer_scalar", "tie_word_embeddings": False}),
        (SeqConvForImageClassification, {"image_size": 8, "patch_size": 4, "classifier_hidden": 5}),
        (SeqConvForAudioClassification, {"frame_size": 20, "frame_stride": 10, "norm": "scale"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)


def tensors(model):
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def on_meta(kind, made):
    """Built on the meta device, given memory filled with what no initial value is, and initial values."""
    with torch.device("meta"):
        model = kind(made)
    model.to_empty(device="cpu")
    for tensor in tensors(model).values():
        tensor.data.fill_(float("nan") if tensor.is_floating_point() else 77)
    torch.manual_seed(0)
    model.init_weights()
    return model


def assert_same(got, want):
    got, want = tensors(got), tensors(want)
    assert got.keys() == want.keys()
    assert [name for name in want if not torch.equal(got[name], want[name])] == []


@each_default
def test_init_weights_after_meta_construction_gives_what_the_constructor_gives(case):
    kind = SeqConvForCausalLM if causal(case) else SeqConvForMaskedLM
    torch.manual_seed(0)
    want = kind(config(case[0], mixer_options=case[1]))
    assert_same(on_meta(kind, config(case[0], mixer_options=case[1])), want)


def causal(case):
    with torch.device("meta"):
        return SeqConvModel(config(case[0], mixer_options=case[1])).causal


@every_model
def test_every_class_starts_alike_from_the_meta_device(kind, options):
    torch.manual_seed(0)
    want = kind(config(**options))
    assert_same(on_meta(kind, config(**options)), want)
    assert all(tensor.isfinite().all() for tensor in tensors(want).values())


@each_default
def test_a_missing_tensor_is_drawn_and_the_loaded_ones_are_left_alone(tmp_path, case):
    """What transformers does for a new head, here for every parameter of the backbone in turn of modules."""
    torch.manual_seed(0)
    model = SeqConvModel(config(case[0], mixer_options=case[1]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    missing = [name for name in saved if name.startswith("backbone.blocks.1.mixer.")][::2]
    save_file({n: t for n, t in saved.items() if n not in missing}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="without"):
        SeqConvModel.from_pretrained(tmp_path)
    read = transformers_own_loading(SeqConvModel, tmp_path)
    for name, tensor in tensors(read).items():
        if name in missing:
            assert tensor.isfinite().all(), name
        elif name in saved:
            assert torch.equal(tensor, saved[name]), name


def transformers_own_loading(kind, folder):
    """Without the check of the loading report that rejects what does not fit."""
    from transformers import PreTrainedModel

    return PreTrainedModel.from_pretrained.__func__(kind, folder)


@each_default
@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)])
def test_loading_in_half_precision_keeps_what_stays_in_float32(tmp_path, case, dtype):
    torch.manual_seed(0)
    model = SeqConvModel(config(case[0], mixer_options=case[1]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 1 / 3)
    model.save_pretrained(tmp_path)
    read = SeqConvModel.from_pretrained(tmp_path, dtype=dtype)
    model.to(dtype)
    assert_same(read, model)
    marks = {name: getattr(p, "_optim", None) for name, p in SeqConvModel(model.config).named_parameters()}
    assert {name: getattr(p, "_optim", None) for name, p in read.named_parameters()} == marks
    kept = kept_parameters([read])
    assert all(p.dtype == (torch.float32 if id(p) in kept else dtype) for p in read.parameters())
    assert len(parameter_groups(read, lr=1e-3)) == len(parameter_groups(SeqConvModel(model.config), lr=1e-3))
    assert read(prompts()).last_hidden_state.dtype == dtype


def test_nothing_is_computed_before_a_checkpoint_is_read(tmp_path, monkeypatch):
    SeqConvForCausalLM(config("mamba", mlp="gelu")).save_pretrained(tmp_path)
    resets = []
    monkeypatch.setattr(torch.nn.Linear, "reset_parameters", lambda self: resets.append(self.weight.is_meta))
    read = SeqConvForCausalLM.from_pretrained(tmp_path)
    assert all(resets)
    assert all(not p.is_meta for p in read.parameters())
