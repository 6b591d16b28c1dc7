"""Training of EcoFormer's hash functions: codes that agree where attention is high, and differ where it is low.

With the unit vectors x of the tokens of each image and head (:mod:`~seqconv.vision.mixers.attention.hashed`), and s_ij
of 1 where j is one of the k tokens nearest to i, -1 for the k farthest, 0 else, the anchors a become tokens of the
first image, μ the mean of ``exp(-|x_i - a|²/2σ)`` over all tokens, and each row ``A_r`` of the weights in turn descends
::

    L_r = -mean_heads y^T S_r y / (N b),    y = tanh(φ A_r / 2)

by steps of Nesterov's momentum. It is kept if the signs of its codes have a lower L than those of the row before;
``S_1 = b s``, and ``S_{r+1} = S_r - h h^T`` with the signs h of the row that was kept: later bits correct earlier ones.

The original does so at the first batch of every k-th epoch, layer by layer in the course of a forward pass, so that
each layer sees the codes of those before it: :func:`train_hashes`, and for transformers' ``Trainer``
:class:`~seqconv.hf.vision.hash_callback.HashTraining`.

Source: Liu et al. 2022 (arXiv 2209.09004); ``EcoformerFastAttention.forward`` of ``pvt/performer.py`` and
``KernelSH.train_hashing_weight_woeig`` of ``pvt/hashing/ksh.py`` in ziplab/EcoFormer at a277f9e8.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from .hashed import HashedAttention

TOP_K, STEPS, LEARNING_RATE, MOMENTUM = 10, 100, 5e-4, 0.9
"""The original's settings."""


def train_hash(
    attention: HashedAttention,
    x: Float[Tensor, "batch length d_model"],
    *,
    top_k: int = TOP_K,
    steps: int = STEPS,
    lr: float = LEARNING_RATE,
    anchors: Float[Tensor, "heads anchors head_dim"] | None = None,
    generator: torch.Generator | None = None,
) -> list[float]:
    """Learn the hash function of one layer from its inputs, in place; time and memory grow with the length squared.

    Args:
        attention: the layer; ``attention`` of a ``"hashed"`` 2-D mixer.
        x: its inputs, those of a batch.
        top_k: nearest and farthest tokens of each.
        steps, lr: of each bit.
        anchors: unit vectors; by default random tokens of the first image.
        generator: of their choice.

    Returns:
        The loss of the signs for every bit.

    Raises:
        ValueError: fewer tokens than ``top_k`` or anchors, anchors of another shape, numbers out of range, a loss that
            is not finite.
    """
    _check(attention, x, top_k, steps, lr, anchors)
    with torch.no_grad():
        unit = attention.unit_vectors(x)
        similarity = _similarity(unit, top_k)
        if anchors is None:
            chosen = torch.randperm(x.shape[1], generator=generator)[: attention.anchors.shape[1]]
            anchors = unit[0, :, chosen.to(x.device)]
        features = attention.kernel(unit, anchors.to(unit))
        mean = features.mean(-2).mean(0)
        weight, losses = _fit_bits(features - mean[:, None], similarity, attention.hash_weight.to(unit), steps, lr)
        for buffer, value in ((attention.anchors, anchors), (attention.mean, mean), (attention.hash_weight, weight)):
            buffer.copy_(value)
    return losses


def train_hashes(model: nn.Module, *inputs: Any, **options: Any) -> Mapping[str, list[float]]:
    """Learn the hash functions of all layers of a model by one forward pass.

    Args:
        model: any model with :class:`HashedAttention` in it.
        *inputs: of the model.
        **options: see :func:`train_hash`.

    Returns:
        Losses by the names of the layers.

    Raises:
        ValueError: a model without such a layer; see :func:`train_hash`.
    """
    with training_at_the_next_call(model, **options) as losses, torch.no_grad():
        model(*inputs)
    return losses


@contextmanager
def training_at_the_next_call(model: nn.Module, **options: Any) -> Iterator[dict[str, list[float]]]:
    """Within this context the first call of each layer trains its hash function; yields the losses by name."""
    losses, hooks = dict[str, list[float]](), []
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, HashedAttention)}
    if not layers:
        wanted = "a model with layers of hashed attention"
        raise argument_error("train_hashes", f"a {type(model).__name__} without any", wanted, "mixer='hashed'")

    def hook(name: str) -> Any:
        def train(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
            if name not in losses and isinstance(layer, HashedAttention):
                losses[name] = train_hash(layer, arguments[0].detach(), **options)

        return train

    for name, layer in layers.items():
        hooks.append(layer.register_forward_pre_hook(hook(name)))
    try:
        yield losses
    finally:
        for handle in hooks:
            handle.remove()


def _similarity(
    unit: Float[Tensor, "batch heads length head_dim"], top_k: int
) -> Float[Tensor, "batch heads length length"]:
    """S of the module's docstring, without b; where a token is both near and far, it is far."""
    scores = unit @ unit.mT
    similarity = torch.zeros_like(scores)
    similarity.scatter_(3, scores.topk(top_k, dim=3).indices, 1.0)
    return similarity.scatter_(3, scores.topk(top_k, dim=3, largest=False).indices, -1.0)


def _fit_bits(
    features: Float[Tensor, "batch heads length anchors"],
    similarity: Float[Tensor, "batch heads length length"],
    weight: Float[Tensor, "heads bits anchors"],
    steps: int,
    lr: float,
) -> tuple[Float[Tensor, "heads bits anchors"], list[float]]:
    """Rows of the weights one after the other."""
    bits = weight.shape[1]
    target, rows, losses = similarity * bits, list[Tensor](), list[float]()
    for initial in weight.unbind(1):
        fitted = _descend(features, target, initial, steps, lr, bits)
        if not bool(fitted.isfinite().all()):
            got, wanted = (
                f"weights of bit {len(rows)} that are not finite",
                "finite inputs and a descent that converges",
            )
            raise argument_error("train_hash", got, wanted, "lower lr")
        signs = [torch.where(_project(features, row) > 0, 1.0, -1.0).to(features) for row in (initial, fitted)]
        before, after = (float(_loss(sign, target, bits)) for sign in signs)
        better = after < before
        rows.append(fitted if better else initial)
        losses.append(after if better else before)
        kept = signs[int(better)]
        target = target - kept[..., :, None] * kept[..., None, :]
    return torch.stack(rows, dim=1), losses


def _descend(
    features: Tensor, target: Tensor, initial: Float[Tensor, "heads anchors"], steps: int, lr: float, bits: int
) -> Float[Tensor, "heads anchors"]:
    """The row after ``steps`` steps on the smooth codes."""
    row = initial.clone().requires_grad_()
    optimizer = torch.optim.SGD([row], lr=lr, momentum=MOMENTUM, nesterov=True)
    for _ in range(steps):
        with torch.enable_grad():
            loss = _loss(torch.tanh(_project(features, row) / 2), target, bits)
        (row.grad,) = torch.autograd.grad(loss, row)
        optimizer.step()
    return row.detach()


def _project(features: Tensor, row: Float[Tensor, "heads anchors"]) -> Float[Tensor, "batch heads length"]:
    return (features @ row[..., None]).squeeze(-1)


def _loss(y: Float[Tensor, "batch heads length"], target: Tensor, bits: int) -> Tensor:
    return -((target @ y[..., None]).squeeze(-1) * y).sum(-1).mean() / (y.shape[-1] * bits)


def _check(attention: HashedAttention, x: Tensor, top_k: int, steps: int, lr: float, anchors: Tensor | None) -> None:
    wanted_shape, number = attention.anchors.shape, attention.anchors.shape[1]
    if anchors is not None and anchors.shape != wanted_shape:
        got, wanted = f"anchors of shape {tuple(anchors.shape)}", f"{tuple(wanted_shape)}"
        raise argument_error("train_hash", got, wanted, "pass unit vectors (heads, anchors, head_dim)")
    fewest = max(top_k, number if anchors is None else 1)
    if x.dim() != 3 or x.shape[0] < 1 or x.shape[1] < fewest or top_k < 1:
        got, wanted = (
            f"x of shape {tuple(x.shape)}, top_k={top_k}",
            f"(batch, length, d_model) of {fewest} tokens or more",
        )
        raise argument_error("train_hash", got, wanted, "pass larger images, or build the layer with fewer num_anchors")
    if steps < 0 or not lr > 0:
        raise argument_error("train_hash", f"steps={steps}, lr={lr}", "steps >= 0 and lr > 0", "correct the numbers")
