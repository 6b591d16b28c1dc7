"""Modules built on the meta device: ``reset_parameters`` gives what the constructor gives, calls give shapes."""

import pytest
import torch
from torch import nn

from seqconv import create_mixer
from seqconv.filters.explicit.sgconv import SGConvFilter
from seqconv.filters.state_space.modal import ModalFilter
from seqconv.filters.state_space.pole_residue import PoleResidueFilter
from seqconv.vision import Hyena2d, create_mixer_2d

MODULES = {
    "hyena2d product": lambda: Hyena2d(3, l_max=5, directions="4dir", window="learned"),
    "hyena2d joint": lambda: Hyena2d(3, l_max=5, form="joint", window="symmetric", directions="4dirp"),
    "hyena2d direct": lambda: Hyena2d(3, l_max=5, direct=True, directions="parallel"),
    "cosines": lambda: SGConvFilter(6, l_max=32, kernel_dim=8, init="cos", decay="fixed_power"),
    "ring": lambda: PoleResidueFilter(4, n_ssm=2),
    "zero modes": lambda: ModalFilter(torch.zeros(3, 2) + 0j, torch.zeros(3, 2) + 0j, torch.zeros(3, 1)),
}


def reset(module: nn.Module) -> None:
    """Children before their parent, as constructors fill them in."""
    for child in module.children():
        reset(child)
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()


@pytest.mark.parametrize("build", MODULES.values(), ids=MODULES)
def test_a_module_built_on_meta_and_reset_equals_one_that_was_built(build):
    torch.manual_seed(5)
    want = build()
    with torch.device("meta"):
        module = build()
    assert all(t.is_meta for t in [*module.parameters(), *module.buffers()])
    torch.manual_seed(5)
    reset(module.to_empty(device="cpu"))
    got, wanted = (dict([*m.named_parameters(), *m.named_buffers()]) for m in (module, want))
    assert got.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(got[name], wanted[name])] == []


FLOAT32_INSIDE = ("fno", "lru", "multihyena", "s4d")
FLOAT32_INSIDE_2D = ("flexconv", "global_filter", "hyena", "hyena_nd")


def test_mixers_that_switch_autocast_off_give_shapes_on_the_meta_device():
    """Estimates of memory and work call models there; ``torch.autocast`` does not know that device."""
    with torch.device("meta"):
        for name in FLOAT32_INSIDE:
            x = torch.empty(2, 9, 8)
            assert create_mixer(name, 8)(x).shape == x.shape, name
        for name in FLOAT32_INSIDE_2D:
            images = torch.empty(2, 5, 4, 8)
            assert create_mixer_2d(name, 8)(images).shape == images.shape, name
        tokens = torch.empty(2, 9, 8)
        assert create_mixer("slab", 8, max_positions=16)(tokens).shape == tokens.shape
