"""The peer of the training benchmark computes what our model computes."""

import pytest
import torch

from benchmarks import lra_training
from lra.recipes.catalog import create_recipe


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_plain_model_has_our_losses_and_gradients(bidirectional):
    recipe = create_recipe("listops", "s4d").override(
        {"mixer.bidirectional": bidirectional, "n_layers": 2, "d_model": 8, "mixer.d_state": 8}
    )
    found, plain = lra_training.build(recipe)
    ids, labels = torch.randint(18, (3, 33)), torch.randint(10, (3,))
    losses = {
        "seqconv": lambda: found(ids, torch.ones_like(ids), labels=labels).loss,
        "plain PyTorch": lambda: torch.nn.functional.cross_entropy(plain(ids), labels),
    }
    lra_training.check(found, plain, losses)
    with torch.no_grad():
        plain.layers[1].D.mul_(1.5)
    with pytest.raises(RuntimeError, match="the contenders differ by"):
        lra_training.check(found, plain, losses)
