"""A published name builds what the reader of its checkpoints builds from the published options of the original."""

import pytest
import torch
from torch import nn

from published_configurations import OPTIONS
from seqconv import create_model, list_models
from seqconv.interop.importer import get_importer
from seqconv.layers.residual import DropPath
from seqconv.zoo import model_entry

IRRELEVANT = {"published", "training", "drop_path"}


def options_of(module: nn.Module) -> dict:
    simple = (bool, int, float, str, tuple, type(None))
    found = {k: v for k, v in vars(module).items() if k not in IRRELEVANT and not k.startswith("_")}
    found = {k: float(v) if type(v) is int else v for k, v in found.items() if isinstance(v, simple)}
    return found | {f"shape of {name}": tuple(p.shape) for name, p in module.named_parameters(recurse=False)}


def test_all_models_have_published_options():
    assert sorted(OPTIONS) == list_models()


FIRST = {model_entry(name).original: name for name in reversed(OPTIONS)}.values()
"""One name of every reader; the others differ in sizes."""


@pytest.mark.parametrize("name", [n if n in FIRST else pytest.param(n, marks=pytest.mark.slow) for n in OPTIONS])
def test_names_have_the_published_options(name):
    entry = model_entry(name)
    with torch.device("meta"):
        named, read = create_model(name), get_importer(entry.original).build(**OPTIONS[name])
    modules, others = dict(named.named_modules()), dict(read.named_modules())
    assert modules.keys() == others.keys()
    for path, module in modules.items():
        assert type(module) is type(others[path]), path
        if not isinstance(module, DropPath):
            assert options_of(module) == options_of(others[path]), path
