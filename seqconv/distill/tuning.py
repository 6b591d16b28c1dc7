"""Distillation-aware fine-tuning: the modal filters of a distilled model, trained on against the exact model.

Loss: ``KL(p || q)`` per token, p the exact model's predictions and q the distilled one's, or the cross-entropy of text.
Every value is trained relative to a scale of its own: ``pole = pole_0 + (1 - |pole_0|) d`` with ``|d| <= 0.9``, so that
poles stay stable; residues and taps relative to the largest of their channel. One learning rate then serves all.
"""

import copy
from collections.abc import Callable, Iterable, Sized
from dataclasses import replace
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.func import functional_call

from seqconv_kernels._core.complex import as_complex
from seqconv_kernels._core.errors import argument_error, unknown_name

from ..convolution.replacement import long_convolutions
from ..filters.mixed import MixedFilter
from ..filters.state_space.modal import ModalFilter
from .certificates.certificate import Certificate, certify
from .certificates.tail import taps_beyond
from .fitting.gradient_mode import with_gradients
from .model import DistilledModel

Target = Literal["logits", "labels"]

FARTHEST = 0.9
"""Share of its distance to the unit circle that a pole may move."""


class Trained(NamedTuple):
    """A parameter in training: its value before, its scale, and what is learned."""

    start: Tensor
    scale: Tensor
    change: Tensor

    def value(self) -> Tensor:
        """What the model computes with."""
        return self.start + self.scale * self.change


@with_gradients
def fine_tune(
    distilled: DistilledModel,
    exact: nn.Module,
    batches: Iterable[Int[Tensor, "batch length"]],
    *,
    lr: float = 1e-3,
    target: Target = "logits",
    length: int | None = None,
    watch: Callable[[int, float], None] | None = None,
) -> DistilledModel:
    """Train the modal filters of a distilled language model on, one step of Adam per batch; nothing else changes.

    Args:
        distilled: what :func:`~seqconv.distill.distill` made of ``exact``; it is copied.
        exact: the model that was distilled.
        batches: token ids; as many as there shall be steps. The learning rate falls to zero over them if they have a
            length.
        lr: learning rate, relative to the size of each value. On a byte model 1e-3 lowered the divergence on other
            text, 1e-2 raised it.
        target: ``"logits"``: the divergence from the exact model; ``"labels"``: the loss on the text itself.
        length: taps that the certificates compare, if ``distill`` was given a ``length`` or ``within``.
        watch: called with the step and its loss.

    Returns:
        The trained model, with certificates of its filters as they are now; a tolerance that was met may no longer be,
        so they state none. Divergences measured before are left out.

    Raises:
        ValueError: an unknown target, no modal filter in the model, a filter without end and no ``length``.
    """
    if target not in get_args(Target):
        raise unknown_name("fine_tune", "target", target, get_args(Target))
    model = copy.deepcopy(distilled.model).eval()
    trained = _trained_parameters(model)
    if not trained:
        raise argument_error("fine_tune", "a model without modal filters", "a distilled model", "distil it first")
    reaches = {name: _reach(name, exact, length) for name in distilled.certificates}
    optimizer = torch.optim.Adam([t.change for t in trained.values()], lr=lr)
    steps = len(batches) if isinstance(batches, Sized) else None
    for step, ids in enumerate(batches):
        if steps is not None:
            optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        values = {name: t.value() for name, t in trained.items()}
        loss = _loss(model, exact, values, ids, target)
        gradients = torch.autograd.grad(loss, [t.change for t in trained.values()], allow_unused=True)
        for t, gradient in zip(trained.values(), gradients, strict=True):
            t.change.grad = gradient
        optimizer.step()
        _keep_stable(trained)
        if watch is not None:
            watch(step, float(loss.detach()))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in trained:
                parameter.copy_(trained[name].value())
    certificates = {
        name: _certified(name, c, model, exact, reaches[name]) for name, c in distilled.certificates.items()
    }
    return replace(distilled, model=model, certificates=certificates, predicted_kl=None, measured_kl=None)


def _trained_parameters(model: nn.Module) -> dict[str, Trained]:
    """Parameters of all modal filters, by name."""
    trained: dict[str, Trained] = {}
    for name, filter in _modal_filters(model).items():
        offsets, residues, head = (p.detach().clone() for p in (filter.offsets, filter.residues, filter.head))
        distance = 1 - (1 + as_complex(offsets.double())).abs()
        scales = (
            distance.clamp_min(0).to(offsets.dtype)[..., None].expand_as(offsets),
            residues.abs().amax((1, 2), keepdim=True).expand_as(residues),
            head.abs().amax(1, keepdim=True).expand_as(head),
        )
        for part, start, scale in zip(("offsets", "residues", "head"), (offsets, residues, head), scales, strict=True):
            trained[f"{name}.{part}"] = Trained(start, scale, torch.zeros_like(start).requires_grad_())
    return trained


def _modal_filters(model: nn.Module) -> dict[str, ModalFilter]:
    places = {f"{name}.filter".lstrip("."): c.filter for name, c in long_convolutions(model).items()}
    mixed = {f"{name}.modal": f.modal for name, f in places.items() if isinstance(f, MixedFilter)}
    return {name: f for name, f in places.items() if isinstance(f, ModalFilter)} | mixed


def _loss(model: nn.Module, exact: nn.Module, values: dict[str, Tensor], ids: Tensor, target: Target) -> Tensor:
    logits = cast(Any, functional_call(model, values, (), {"input_ids": ids, "use_cache": False})).logits
    if target == "labels":
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    with torch.no_grad():
        wanted = exact(input_ids=ids, use_cache=False).logits.log_softmax(-1)
    divergence: Tensor = (wanted.exp() * (wanted - logits.log_softmax(-1))).sum(-1).mean()
    return divergence


@torch.no_grad()
def _keep_stable(trained: dict[str, Trained]) -> None:
    for name, t in trained.items():
        if name.endswith("offsets"):
            moved = t.change.norm(dim=-1, keepdim=True).clamp_min(FARTHEST)
            t.change.mul_(FARTHEST / moved)


def _reach(name: str, exact: nn.Module, length: int | None) -> int:
    """Taps of a filter that its certificate compares."""
    reaches = [n for n in (length, long_convolutions(exact)[name].filter.max_length) if n is not None]
    if not reaches:
        remedy = "pass the length that it was distilled with"
        raise argument_error("fine_tune", f"a filter without end in {name!r}", "a length", remedy)
    return min(reaches)


@torch.no_grad()
def _certified(name: str, before: Certificate, model: nn.Module, exact: nn.Module, reach: int) -> Certificate:
    """The certificate of a filter as it is now; channels that were left exact keep their entries."""
    filter, whole = (long_convolutions(m)[name].filter for m in (model, exact))
    modal = filter.modal if isinstance(filter, MixedFilter) else filter
    if not isinstance(modal, ModalFilter):
        return before
    rows = before.met.nonzero().flatten()
    taps = cast(Tensor, whole(reach)).double().cpu()[rows]
    beyond = taps_beyond(whole, reach)[rows]
    now = certify(taps, copy.deepcopy(modal).cpu(), before.singular_values[rows], beyond=beyond)
    note = "modal filters were trained on after the fit"
    tensors = before.tensors()
    for field, values in now.tensors().items():
        tensors[field] = tensors[field].clone()
        tensors[field][rows] = values
    tensors["met"] = before.met
    return replace(before, **cast(Any, tensors), tolerance=None, notes=(*before.notes, note))
