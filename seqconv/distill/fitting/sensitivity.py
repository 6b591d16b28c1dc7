"""What a calibration batch says about the filters of a language model: which errors in them would be seen.

Replacing the taps ``h`` of a filter by ``h - e`` changes the model's predictions by a divergence of, to second
order, ``KL = 1/2 E[(e . G)^2]`` per sequence, where G is the gradient of the log-likelihood of a sequence whose
labels are drawn from the model itself, with respect to the taps (Fisher information). With the gradient g at the
output of the convolution taken as independent of its input v, this is ``1/2 mean_omega |E|^2 E[g^2] S_v`` per token,
S_v the power spectrum of v: fewer samples suffice for it, and it is the weight that residues are solved under.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...convolution.long_convolution import LongConvolution
from ...convolution.replacement import long_convolutions
from .second_order import coloured

MINIMUM_TOKENS = 64
"""Tokens that a calibration batch needs at least."""


@dataclass(frozen=True)
class Sensitivity:
    """How the predictions of a model depend on one filter.

    Attributes:
        gradients: of the log-likelihood of one drawn sequence each, with respect to the taps.
        spectrum: ``E[g^2] S_v`` at the ``length + 1`` frequencies from 0 to half the sampling rate.
        tokens: of a sequence.
    """

    gradients: Float[Tensor, "samples channels taps"]
    spectrum: Float[Tensor, "channels bins"]
    tokens: int

    def from_taps(self, error: Float[Tensor, "channels length"]) -> Float[Tensor, " channels"]:
        """Nats per token that an error in the taps costs, by the sampled gradients of the taps."""
        reach = min(self.gradients.shape[2], error.shape[1])
        shift = torch.einsum("sct,ct->sc", self.gradients[:, :, :reach], error[:, :reach])
        return shift.square().mean(0) / (2 * self.tokens)

    def from_spectrum(self, error: Float[Tensor, "channels length"]) -> Float[Tensor, " channels"]:
        """The same, by the spectra at both ends of the convolution."""
        return coloured(error, self.spectrum).square().sum(1) / 2


def sensitivities(
    model: nn.Module, input_ids: Int[Tensor, "batch length"], lengths: dict[str, int], *, draws: int = 2, seed: int = 0
) -> dict[str, Sensitivity]:
    """Sensitivities of the filters in the long convolutions called ``lengths``, whose values are numbers of taps.

    Args:
        model: causal language model; ``model(input_ids=...).logits``.
        input_ids: calibration sequences.
        lengths: taps of each filter that are distilled.
        draws: label sequences drawn per calibration sequence.
        seed: of the draws.
    """
    convolutions = {name: long_convolutions(model)[name] for name in lengths}
    taps: dict[str, Tensor] = {}
    samples: dict[str, list[Tensor]] = {name: [] for name in lengths}
    spectra = {n: torch.zeros(c.filter.channels, lengths[n] + 1, dtype=torch.float64) for n, c in convolutions.items()}
    handles = [c.filter.register_forward_hook(_keeper(taps, name)) for name, c in convolutions.items()]
    generator = torch.Generator().manual_seed(seed)
    for name, convolution in convolutions.items():
        stages = spectra[name].chunk(convolution.stages)
        convolution.observers = tuple(partial(_watch, stage, convolution) for stage in stages)
    try:
        for sequence in input_ids.repeat_interleave(draws, dim=0).split(1):
            log_probabilities = model(input_ids=sequence, use_cache=False).logits[0].double().log_softmax(-1)
            drawn = torch.multinomial(log_probabilities.exp().detach().cpu(), 1, generator=generator)
            likelihood = log_probabilities.gather(1, drawn.to(log_probabilities.device)).sum()
            found = torch.autograd.grad(likelihood, [taps[name] for name in lengths])
            for name, gradient in zip(lengths, found, strict=True):
                samples[name].append(gradient.detach().double().cpu())
    finally:
        for handle in handles:
            handle.remove()
        for convolution in convolutions.values():
            convolution.observers = (None,) * convolution.stages
    count, tokens = draws * len(input_ids), input_ids.shape[1]
    return {name: Sensitivity(torch.stack(samples[name]), spectra[name] / count, tokens) for name in lengths}


def measured_divergence(original: nn.Module, distilled: nn.Module, input_ids: Int[Tensor, "batch length"]) -> float:
    """Mean Kullback-Leibler divergence of the distilled model's predictions from the original's, nats per token."""
    total = 0.0
    with torch.no_grad():
        for sequence in input_ids.split(1):
            p, q = (
                m(input_ids=sequence, use_cache=False).logits.double().log_softmax(-1) for m in (original, distilled)
            )
            total += float((p.exp() * (p - q)).sum(-1).mean())
    return total / len(input_ids)


def check_calibration(input_ids: Tensor) -> None:
    """Raise for a calibration batch that is not one, or too short.

    Raises:
        ValueError: wrong shape or dtype, fewer than :data:`MINIMUM_TOKENS` tokens.
    """
    if input_ids.dim() != 2 or input_ids.dtype not in (torch.int32, torch.int64):
        got = f"calibration of shape {tuple(input_ids.shape)} and dtype {input_ids.dtype}"
        raise argument_error("distill", got, "token ids (batch, length)", "tokenize the calibration text")
    if input_ids.numel() < MINIMUM_TOKENS:
        got = f"{input_ids.numel()} calibration tokens"
        raise argument_error("distill", got, f"at least {MINIMUM_TOKENS}", "give a longer calibration text")


def _watch(spectrum: Float[Tensor, "channels bins"], convolution: LongConvolution, v: Tensor, y: Tensor) -> None:
    """Add ``E[g^2] S_v`` of one convolution to the spectrum of its filter, once the gradient g of y is known."""
    entering, channels = v.detach(), len(spectrum)

    def add(g: Tensor) -> None:
        power = g.double().square().mean((0, 1)).cpu()[:, None] * _power(entering, spectrum.shape[1] - 1)
        spectrum.add_(power.unflatten(0, (-1, channels)).sum(0))

    y.register_hook(add)


def _power(v: Float[Tensor, "batch length channels"], reach: int) -> Float[Tensor, "channels bins"]:
    """Power spectrum from pieces as long as the filter, at twice as many points: every lag counts, none wraps."""
    pieces = [torch.fft.rfft(piece.double(), n=2 * reach, dim=1) for piece in v.split(reach, dim=1)]
    energy = sum(piece.abs().square().sum(0) for piece in pieces)
    return torch.as_tensor(energy).T.cpu() / (v.shape[0] * v.shape[1])


def _keeper(seen: dict[str, Tensor], name: str) -> Callable[..., None]:
    def keep(_module: nn.Module, _args: Any, taps: Tensor) -> None:
        seen[name] = taps

    return keep
