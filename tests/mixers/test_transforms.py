"""torch.func over whole mixers: gradients of single rows, and forward mode, where PyTorch has the derivative."""

import pytest
import torch
from torch.func import functional_call, grad, jvp, vmap

from mixer_cases import D_MODEL, build, each_default
from tolerances import assert_near

pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch.jit.script. is deprecated:DeprecationWarning", "ignore:There is a performance drop:UserWarning"
)
WITHOUT_BATCHES = ("log_linear_mamba2", "lru")
"""Mixers for which ``vmap`` raises: they read sizes of levels, or rely on operations without a batching rule."""
STEP = 1e-6


def rows(count=2):
    return torch.randn(count, 9, D_MODEL, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@each_default
def test_gradients_of_rows_by_vmap_are_those_of_autograd(case):
    mixer, x = build(case).eval(), rows()
    fixed = dict(mixer.named_buffers())
    values = {name: p.detach() for name, p in mixer.named_parameters()}

    def loss(parameters, row):
        return functional_call(mixer, {**parameters, **fixed}, (row[None],)).square().sum()

    for_each = vmap(grad(loss), (None, 0))
    if case[0] in WITHOUT_BATCHES:
        with pytest.raises(RuntimeError, match=r"vmap|Batching rule"):
            for_each(values, x)
        gradients = {n: torch.stack(g) for n, g in _by_name(grad(loss)(values, row) for row in x).items()}
    else:
        gradients = for_each(values, x)
    for i, row in enumerate(x):
        mixer.zero_grad()
        mixer(row[None]).square().sum().backward()
        for name, p in mixer.named_parameters():
            assert_near(gradients[name][i], torch.zeros_like(p) if p.grad is None else p.grad, what=name)


@each_default
def test_forward_mode_gives_the_tangent_or_raises(case):
    mixer, x = build(case).eval().requires_grad_(False), rows(1)
    tangent = torch.randn_like(x)
    try:
        got = jvp(mixer, (x,), (tangent,))[1]
    except NotImplementedError as error:
        assert "forward AD" in str(error)  # noqa: PT017  (both outcomes are right)
        return
    want = (mixer(x + STEP * tangent) - mixer(x - STEP * tangent)) / (2 * STEP)
    assert (got - want).abs().max() < 1e-6 * max(1.0, want.abs().max().item())


def _by_name(found):
    gathered = {}
    for gradients in found:
        for name, g in gradients.items():
            gathered.setdefault(name, []).append(g)
    return gathered
