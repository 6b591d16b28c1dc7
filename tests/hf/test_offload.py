"""Models whose parameters stay elsewhere until a module is called: accelerate's offloading to memory and to files."""

import accelerate
import pytest
import torch
from test_export import INPUTS, modality, model_of, tensors
from tiny import each_causal, language_model, left_padded, prompts

from seqconv.hf import MODELS
from tolerances import assert_near

pytestmark = pytest.mark.usefixtures("unannotated")
GENERATE = {"max_new_tokens": 5, "do_sample": False}


def to_memory(model, tmp_path):
    return accelerate.cpu_offload(model, execution_device=torch.device("cpu"), offload_buffers=True)


def to_files(model, tmp_path):
    """Blocks in files, the rest where it is."""
    places = {name: "disk" if name.endswith("backbone") else "cpu" for name, _ in model.model.named_children()}
    places = {f"model.{name}": place for name, place in places.items()} | {"lm_head": "cpu"}
    options = {"main_device": "cpu", "offload_dir": tmp_path, "offload_buffers": True, "force_hooks": True}
    return accelerate.dispatch_model(model, places, **options)


@pytest.mark.parametrize("offload", [to_memory, to_files])
@each_causal
@torch.no_grad()
def test_offloaded_language_models_read_and_generate_as_others(mixer, offload, tmp_path):
    model, ids = language_model(mixer, mlp="gelu", num_hidden_layers=1), prompts()
    padded, mask = left_padded(7, 4)
    want, generated = model(ids, use_cache=False).logits, model.generate(ids, **GENERATE)
    with_padding = model.generate(padded, attention_mask=mask, **GENERATE)
    model = offload(model, tmp_path)
    assert any(parameter.is_meta for parameter in model.parameters())
    assert_near(model(ids, use_cache=False).logits, want)
    first = model(ids[:, :4])
    second = model(ids[:, 4:], past_key_values=first.past_key_values)
    assert_near(torch.cat([first.logits, second.logits], 1), want)
    assert torch.equal(model.generate(ids, **GENERATE), generated)
    assert torch.equal(model.generate(padded, attention_mask=mask, **GENERATE), with_padding)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_every_model_is_offloaded(name, tmp_path):
    model, inputs = model_of(name), INPUTS[modality(name)](2)
    want = model(**inputs, use_cache=False)
    got = to_memory(model, tmp_path)(**inputs, use_cache=False)
    for a, b in zip(tensors(got), tensors(want), strict=True):
        assert_near(a, b)
