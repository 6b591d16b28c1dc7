"""Models with int8 weights: near the floating model, in every form; what raises."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForMaskedLM

from representatives import representatives
from seqconv import (
    SeqConvConfig,
    SeqConvForCausalLM,
    SeqConvForMaskedLM,
    SeqConvForSequenceClassification,
    SeqConvModel,
    SeqConvVisionConfig,
    SeqConvVisionForImageClassification,
    SeqConvVisionModel,
    create_mixer,
    list_mixers,
    quantize,
)
from seqconv.layers.linear import Linear
from seqconv.quantization import Int8Linear, int8_layers
from tolerances import assert_near

ROOT = Path(__file__).parents[1]


def model(mixer: str) -> SeqConvForCausalLM:
    torch.manual_seed(0)
    config = SeqConvConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, mixer=mixer, mlp="swiglu")
    return SeqConvForCausalLM(config).eval()


@torch.no_grad()
def dequantized(plain: SeqConvForCausalLM, narrow: SeqConvForCausalLM) -> SeqConvForCausalLM:
    """The floating model with the values that the int8 weights stand for; its head is not tied."""
    rounded = copy.deepcopy(plain)
    for name, layer in narrow.named_modules():
        if isinstance(layer, Int8Linear):
            values = layer.weight_int8.float() * layer.weight_scale[:, None]
            rounded.get_submodule(name).weight = nn.Parameter(values)
    return rounded


@pytest.mark.parametrize("mixer", ["mamba", "mamba2", "attention", "hyena", "gated_deltanet"])
def test_a_model_decodes_with_int8_weights(mixer):
    plain = model(mixer)
    narrow = quantize(copy.deepcopy(plain))
    rounded = dequantized(plain, narrow)
    assert not [m for m in narrow.modules() if type(m) is Linear]
    tokens = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        got = narrow(tokens).logits
        assert_near(got, rounded(tokens).logits)
        assert not torch.equal(got, plain(tokens).logits)
        prefix = narrow(tokens[:, :11], use_cache=True)
        last = narrow(tokens[:, 11:], past_key_values=prefix.past_key_values, use_cache=True)
    assert_near(last.logits[:, 0], got[:, 11])
    assert narrow.generate(tokens, max_new_tokens=3, do_sample=False).shape == (2, 15)


@pytest.mark.parametrize("group_size", [None, 8])
def test_the_layer_equals_its_dequantized_weight(group_size):
    linear = nn.Linear(32, 300)
    layer = Int8Linear(linear, group_size=group_size)
    scale = layer.weight_scale.view(300, -1).repeat_interleave(group_size or 32, 1)
    x = torch.randn(20, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    dense = layer.weight_int8.float() * scale
    for rows in (x, x[:3, None]):
        assert_near(layer(rows), nn.functional.linear(rows, dense, linear.bias))
    layer(x).sum().backward()
    assert_near(x.grad, dense.sum(0).expand(20, -1))
    assert layer.bfloat16().weight_scale.dtype == torch.float32
    assert layer(x.detach().bfloat16()).dtype == torch.bfloat16


def test_what_raises():
    with pytest.raises(ValueError, match=r"quantize: received bits=4; wanted 8"):
        quantize(create_mixer("mamba", 8), bits=4)
    with pytest.raises(ValueError, match=r"quantize: received LayerNorm; wanted a module with Linear layers"):
        quantize(nn.LayerNorm(8))
    mixer = create_mixer("mamba", 8)
    with pytest.raises(ValueError, match=r"quantize_rows: received group_size=3 for 8 inputs"):
        quantize(mixer, group_size=3)
    assert type(mixer.in_proj) is Linear
    with pytest.raises(AttributeError, match="no attribute 'weight'"):
        quantize(mixer).in_proj.weight  # noqa: B018


def assert_same(got, want):
    """Logits of two models, and that both hold the same int8 layers."""
    tokens = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(0))
    assert int8_layers(got) == int8_layers(want) != {}
    with torch.no_grad():
        assert torch.equal(got(tokens).logits, want(tokens).logits)


@pytest.mark.parametrize("mixer", representatives(list_mixers()))
def test_a_quantized_model_is_written_and_read(mixer, tmp_path):
    config = SeqConvConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, mixer=mixer)
    made = quantize(SeqConvForMaskedLM(config)).eval()
    made.save_pretrained(tmp_path)
    assert_same(AutoModelForMaskedLM.from_pretrained(tmp_path), made)


def test_a_checkpoint_of_int8_weights_in_every_way_to_read_it(tmp_path):
    made = quantize(model("mamba"), group_size=2)
    made.model.backbone.blocks[0].mixer.in_proj = Linear(32, 128, bias=False)
    made.tie_weights()
    made.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert weights["lm_head.weight_int8"].dtype == torch.int8
    again = SeqConvForCausalLM.from_pretrained(tmp_path)
    assert_same(again, made)
    assert_same(SeqConvForCausalLM.from_pretrained(tmp_path, low_cpu_mem_usage=True), made)
    base = SeqConvModel.from_pretrained(tmp_path)
    assert int8_layers(base) == {n[6:]: 2 for n in int8_layers(made) if n != "lm_head"}
    classifier = SeqConvForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    assert all(p.requires_grad for p in classifier.classifier.parameters())
    half = SeqConvForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {b.dtype for n, b in half.named_buffers() if n.endswith("weight_scale")} == {torch.float32}
    again.save_pretrained(tmp_path / "again")
    assert_same(SeqConvForCausalLM.from_pretrained(tmp_path / "again"), made)
    base.save_pretrained(tmp_path / "base")
    head_is_new = SeqConvForCausalLM.from_pretrained(tmp_path / "base")
    assert int8_layers(head_is_new.model) == int8_layers(base)


def test_a_process_of_its_own_reads_int8_weights(tmp_path):
    made = quantize(model("s4d"))
    made.save_pretrained(tmp_path / "made")
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        torch.save(made(tokens).logits, tmp_path / "logits.pt")
    code = """
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("made", trust_remote_code=True)
with torch.no_grad():
    assert torch.equal(model(torch.arange(12)[None]).logits, torch.load("logits.pt"))
assert model.generate(torch.arange(12)[None], max_new_tokens=3).shape == (1, 15)
"""
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "kernels")))
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr


def test_models_of_int8_layers_are_built_from_a_configuration():
    plain = model("mamba")
    layers = {n.removeprefix("model."): None for n, m in plain.named_modules() if isinstance(m, Linear)}
    config = SeqConvConfig(**{**plain.config.to_dict(), "int8_layers": layers, "tie_word_embeddings": False})
    torch.manual_seed(1)
    built = SeqConvForCausalLM(config).eval()
    plain.config.tie_word_embeddings = False
    torch.manual_seed(1)
    assert_same(built, quantize(SeqConvForCausalLM(plain.config)).eval())
    with torch.device("meta"):
        empty = SeqConvForCausalLM(config)
    empty.to_empty(device="cpu")
    with pytest.raises(ValueError, match=r"init_weights: received an int8 layer without values \(model.backbone"):
        empty.init_weights()
    empty.load_state_dict(built.state_dict())
    assert_same(empty.eval(), built)


def test_damaged_checkpoints_of_int8_weights_raise(tmp_path):
    made = quantize(model("mamba"))
    made.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    whole = load_file(file)
    save_file({n: t for n, t in whole.items() if n != "lm_head.weight_scale"}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"a checkpoint without lm_head.weight_scale"):
        SeqConvForCausalLM.from_pretrained(tmp_path)
    scale = "model.backbone.blocks.1.mixer.in_proj.weight_scale"
    save_file({n: t for n, t in whole.items() if n != scale}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=rf"a checkpoint without {scale}"):
        SeqConvForCausalLM.from_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "int8_layers": None}))
    with pytest.raises(ValueError, match=r"weight_int8 of dtype I8; wanted floating-point numbers"):
        SeqConvForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"int8_layers={'lm_head': 0}; wanted None, or names with a group size"):
        SeqConvConfig(int8_layers={"lm_head": 0})
    config = SeqConvConfig(hidden_size=8, int8_layers={"backbone.nowhere": None})
    with pytest.raises(ValueError, match=r"an int8 layer at 'backbone.nowhere'; wanted the name of a Linear layer"):
        SeqConvForCausalLM(config)
    with pytest.raises(ValueError, match=r"resize_token_embeddings: received a head with int8 weights"):
        made.resize_token_embeddings(60)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor:UserWarning")
def test_a_model_of_torchs_quantizer_is_not_saved(tmp_path):
    made = torch.ao.quantization.quantize_dynamic(model("mamba"), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ValueError, match=r"save_pretrained: received a layer that torch.ao quantized \(model.*in_proj"):
        made.save_pretrained(tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_image_models_of_int8_layers_are_written_and_read(tmp_path):
    options = {"mixer": "atrous", "dims": [8, 16], "depths": [1, 1]}
    config = SeqConvVisionConfig(backbone_name="hierarchical", backbone_options=options, num_labels=3)
    made = quantize(SeqConvVisionForImageClassification(config)).eval()
    made.save_pretrained(tmp_path)
    again = SeqConvVisionForImageClassification.from_pretrained(tmp_path)
    assert int8_layers(again) == int8_layers(made) != {}
    pixels = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(pixel_values=pixels).logits, made(pixel_values=pixels).logits)
    inner = SeqConvVisionModel.from_pretrained(tmp_path)
    assert {f"backbone.{name}" for name in int8_layers(inner)} == set(int8_layers(made))
