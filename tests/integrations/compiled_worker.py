"""Compiled models against uncompiled ones, in a process without checks of shapes: the compiler cannot trace these."""

import sys

import torch
from tiny_families import build, tokens

import seqconv


def gradients(model, run):
    """Loss and gradients of a call."""
    model.zero_grad()
    ids = tokens()
    loss = run(ids, labels=ids, use_cache=False).loss
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def main(family):
    """Print the largest difference, relative to the largest magnitude."""
    model = build(family)
    with seqconv.accelerate(model):
        want = gradients(model, model)
        got = gradients(model, torch.compile(model, fullgraph=True, backend="aot_eager"))
    print(max(((g - w).abs().max() / w.abs().max().clamp(min=1e-3)).item() for g, w in zip(got, want, strict=True)))


main(sys.argv[1])
