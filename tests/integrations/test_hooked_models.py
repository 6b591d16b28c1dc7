"""``accelerate`` on models whose modules run more than the ``forward`` of their class: offloaded, hooked, replaced."""

import copy

import pytest
import torch
from tiny_families import build, tokens

import seqconv
from seqconv.integrations.transformers import patching
from seqconv.integrations.transformers.call import begin
from tolerances import assert_near

pytestmark = pytest.mark.filterwarnings("default")  # transformers warns of its own deprecations
POSITIONS = torch.cat([torch.arange(8), torch.arange(13)])[None]


@pytest.fixture
def calls(monkeypatch):
    """Layers that ran on seqconv, as they were called."""
    seen = []
    monkeypatch.setattr(patching, "begin", lambda *given: seen.append(begin(*given)) or seen[-1])
    return seen


@pytest.mark.parametrize("everywhere", [False, True], ids=["one model", "all models"])
@pytest.mark.parametrize("family", ["mamba", "zaya", "recurrent_gemma"])
@torch.no_grad()
def test_an_offloaded_model_keeps_documents_apart_as_before(family, everywhere, calls):
    hooks = pytest.importorskip("accelerate")
    model, ids = build(family), tokens(1)
    with seqconv.accelerate(model):
        want = model(ids, position_ids=POSITIONS).logits
    hooks.cpu_offload(model, execution_device=torch.device("cpu"))
    bound = {m: m.__dict__["_old_forward"] for m in model.modules() if "_old_forward" in m.__dict__}
    stock = model(ids, use_cache=False).logits
    calls.clear()
    with seqconv.accelerate(None if everywhere else model):
        assert_near(model(ids, position_ids=POSITIONS).logits, want)
        assert_near(model(ids, use_cache=False).logits, stock)
    assert calls
    assert all(m.__dict__["_old_forward"] == method for m, method in bound.items())
    calls.clear()
    assert torch.equal(model(ids, use_cache=False).logits, stock)
    assert not calls


@torch.no_grad()
def test_hooks_may_come_and_go_while_a_model_is_accelerated(calls):
    hooks = pytest.importorskip("accelerate.hooks")
    model, ids = build("mamba"), tokens(1)
    stock = model(ids, use_cache=False).logits
    mixer = model.backbone.layers[0].mixer
    acceleration = seqconv.accelerate(model)
    hooks.add_hook_to_module(mixer, hooks.ModelHook())
    assert_near(model(ids, use_cache=False).logits, stock)
    assert len(calls) == 2
    acceleration.restore()
    hooks.remove_hook_from_module(mixer)  # leaves the bound method on the module
    assert torch.equal(model(ids, use_cache=False).logits, stock)
    assert len(calls) == 2
    with seqconv.accelerate(model):
        assert_near(model(ids, use_cache=False).logits, stock)
    assert len(calls) == 4


def test_a_layer_that_another_library_runs_by_itself():
    model = build("mamba")
    mixer = model.backbone.layers[1].mixer
    mixer.forward = lambda hidden_states, **unused: hidden_states
    before = model(tokens()).logits
    with pytest.raises(ValueError, match=r"MambaMixer with a forward of its own.*accelerate the model first"):
        seqconv.accelerate(model)
    assert torch.equal(model(tokens()).logits, before)


@torch.no_grad()
def test_hooks_of_projections_and_convolutions_that_are_read_for_their_weights():
    model, ids = build("jamba"), tokens()
    doubled = copy.deepcopy(model)
    mixers = [[m for m in each.modules() if hasattr(m, "dt_proj")] for each in (model, doubled)]
    for mixer in mixers[0]:
        mixer.dt_proj.register_forward_hook(lambda module, given, output: 2 * output)
    for mixer in mixers[1]:
        mixer.dt_proj.weight.mul_(2)
        mixer.dt_proj.bias.mul_(2)
    want = doubled(ids, use_cache=False).logits
    with seqconv.accelerate(model):
        assert_near(model(ids, use_cache=False).logits, want)
