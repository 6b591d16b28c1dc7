"""Pictures of a certificate: singular values, filter against fit, spectrum of the error."""

import os

import torch
from jaxtyping import Float
from torch import Tensor

from ..filters.mixed import MixedFilter
from ..filters.state_space.modal import ModalFilter
from .certificates.certificate import Certificate


def plot_certificate(
    path: str | os.PathLike[str],
    h: Float[Tensor, "channels length"],
    filter: ModalFilter | MixedFilter,
    certificate: Certificate,
    *,
    channel: int | None = None,
) -> None:
    """Draw one channel (by default the distilled one with the largest relative error) into an image file.

    Needs matplotlib (``pip install seqconv[lra]``).
    """
    from matplotlib.figure import Figure

    mixed = filter if isinstance(filter, MixedFilter) else None
    modal = filter.modal if isinstance(filter, MixedFilter) else filter
    drawn = torch.arange(modal.channels) if mixed is None else mixed.distilled.cpu()
    share = (certificate.hinf / certificate.norm_hinf.clamp_min(1e-300))[drawn]
    worst = int(drawn[share.argmax()]) if channel is None else channel
    taps = h[worst].detach().cpu().double()
    fit = modal.in_float64().impulse_response(len(taps))[int((drawn == worst).nonzero())]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    values, response, spectrum = figure.subplots(1, 3)
    values.semilogy(certificate.singular_values[worst].clamp_min(1e-17), marker=".")
    values.axvline(int(certificate.order[worst]), color="grey", linestyle=":")
    values.set(title=f"Hankel singular values, channel {worst}", xlabel="order")
    response.plot(taps, label="filter")
    response.plot(fit, label=f"order {int(certificate.order[worst])}", linestyle="--")
    response.set(title="impulse response", xlabel="lag")
    response.legend()
    frequency = torch.linspace(0, 0.5, 4 * len(taps) + 1)
    for label, signal in (("filter", taps), ("error", taps - fit)):
        spectrum.semilogy(frequency, torch.fft.rfft(signal, n=8 * len(taps)).abs().clamp_min(1e-17), label=label)
    spectrum.axhline(float(certificate.lower_bound[worst].clamp_min(1e-17)), color="grey", linestyle=":")
    spectrum.set(title="spectrum; dotted: no method can do better", xlabel="cycles per step")
    spectrum.legend()
    figure.savefig(path)
