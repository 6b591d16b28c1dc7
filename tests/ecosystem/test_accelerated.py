"""Adapters of peft in transformers' models on seqconv: every one acts and learns, as without."""

import pytest
import torch
from tiny_families import FAMILIES, build, tokens
from torch import nn

import seqconv
from tolerances import assert_near

pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("default")]
FORBIDDEN = {"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"}
"""Families in which peft itself allows no adapter on out_proj, for fear of the fused kernels."""
PASSED_OVER = {"dt_proj"}
"""Projections whose adapters transformers passes over: it reads their weight."""

UNTRAINED = (".indexer.", ".visual.")
"""Parts that text alone does not train: choosing tokens has no gradient, and there are no images."""


def adapted(peft, family):
    """A model with adapters, away from zero, on every projection, and the names of the projections."""
    model = build(family)
    names = {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if type(m) is nn.Linear and n != "lm_head"}
    names = sorted(names - {"out_proj"}) if family in FORBIDDEN else "all-linear"
    model = peft.get_peft_model(model, peft.LoraConfig(target_modules=names, r=2)).train()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def gradients(model):
    model.zero_grad()
    ids = tokens()
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    return loss, {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad and p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_adapters_on_every_projection_act_and_train_in_accelerated_models(family):
    peft = pytest.importorskip("peft")
    model = adapted(peft, family)
    loss, want = gradients(model)
    with seqconv.accelerate(model):
        accelerated, got = gradients(model)
        trained = {n for n, p in model.named_parameters() if p.requires_grad and not any(u in n for u in UNTRAINED)}
        assert trained == {n for n, g in got.items() if g.any() and not any(u in n for u in UNTRAINED)}
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        optimizer.step()
        assert gradients(model)[0] < accelerated
    if not any(word in name for name in got for word in PASSED_OVER):
        assert_near(accelerated, loss)
        for name, gradient in want.items():
            assert_near(got[name], gradient, what=name)
