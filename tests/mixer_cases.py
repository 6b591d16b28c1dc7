"""Every registered mixer with its example options: what the registry-wide tests run on."""

import zlib
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from representatives import default_representatives, defaults
from seqconv import Mixer, State, create_mixer, list_mixers
from seqconv.registry import mixer_entry

D_MODEL, BATCH, LENGTH = 8, 2, 37


def label(case) -> str:
    name, options = case
    return name + ("[" + ",".join(f"{k}={v}" for k, v in options.items()) + "]" if options else "")


ALL = [(name, dict(options)) for name in list_mixers() for options in ({}, *mixer_entry(name).examples)]
ALL = [case for i, case in enumerate(ALL) if case not in ALL[:i]]
CAUSAL = [case for case in ALL if create_mixer(case[0], D_MODEL, **case[1]).causal]
BIDIRECTIONAL = [(name, {"bidirectional": True}) for name in list_mixers()]

every = pytest.mark.parametrize("case", ALL, ids=label)
causal = pytest.mark.parametrize("case", CAUSAL, ids=label)
each_default = pytest.mark.parametrize("case", defaults(ALL, label))
each_causal_default = pytest.mark.parametrize("case", defaults(CAUSAL, label))
"""Every case; those with options of their own are slow tests: for what options do not change, or takes seconds."""
each_representative = pytest.mark.parametrize("case", default_representatives(ALL, label))
"""Every case; the mixers that another one represents are slow tests as well."""
each_name = pytest.mark.parametrize("name", list_mixers())


def build(case, dtype=torch.float64) -> Mixer:
    """The mixer of a case with every parameter moved off its initial value (biases off zero, gates off symmetry)."""
    name, options = case
    torch.manual_seed(zlib.crc32(label(case).encode()))
    mixer = create_mixer(name, D_MODEL, **options).eval()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return mixer.to(dtype)


def inputs(length: int = LENGTH, batch: int = BATCH, dtype=torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randn(batch, length, D_MODEL, generator=generator, dtype=torch.float64).to(dtype)


def run_in_pieces(mixer: Mixer, x: Tensor, cuts: list[int]) -> tuple[Tensor, State | None]:
    """Prefill the pieces between the cuts; a piece of one token goes through ``step``."""
    state, pieces = None, []
    bounds = [0, *cuts, x.shape[1]]
    for start, end in pairwise(bounds):
        if end - start == 1 and state is not None:
            y, state = mixer.step(x[:, start], state)
            pieces.append(y[:, None])
        else:
            y, state = mixer.prefill(x[:, start:end], state)
            pieces.append(y)
    return torch.cat(pieces, dim=1), state
