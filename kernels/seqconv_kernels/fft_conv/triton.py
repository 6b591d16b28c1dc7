"""The long convolution in Triton: transforms as matrix products (see :mod:`.plan`), forward and backward.

Forward, per channel, with the history before the first position and the skip as the filter's lag 0::

    v = pre_gate u,      z[t] = sum_l h[l] v[t - l],      y = post_gate z

Backward, with ``dz = post_gate dy`` and capitals for spectra::

    dpost_gate = z dy                                  z is convolved again: cheaper than to keep it
    dv[t] = sum_l h[l] dz[t + l] = transform of conj(H) dZ          the same kernel with conjugate spectra
    du = pre_gate dv,    dpre_gate = u dv              two outputs of one kernel
    dh[l] = sum_t v[t] dz[t + l] = transform of sum_batch conj(V) dZ,     dskip = dh[0]

The sum over the batch is taken in the spectrum, in a fixed order, so the inverse transform runs once per channel.
"""

import torch
from torch import Tensor

from .._core.operator.double_backward import differentiate_by
from .._core.operator.operators import operator
from .._core.triton.support import accumulator_dtype, on_device
from . import reference
from .spec import Inputs
from .triton_passes import Convolution, Output, Signal


def _filter(h: Tensor, skip: Tensor | None, length: int, dtype: torch.dtype) -> Tensor:
    """The taps that reach any of ``length`` inputs, the skip added to lag 0."""
    taps = h[:, :length].to(dtype)
    return taps if skip is None else torch.cat([taps[:, :1] + skip.to(dtype)[:, None], taps[:, 1:]], dim=1)


def _signal(u: Tensor, pre_gate: Tensor | None, history: Tensor | None) -> Signal:
    """The input of the filter: the history, then the gated signal."""
    if history is None:
        return Signal(u, pre_gate)
    v = u if pre_gate is None else u * pre_gate
    return Signal(torch.cat([history.to(u.dtype), v.to(u.dtype)], dim=1))


def _plan(u: Tensor, h: Tensor, history: Tensor | None, frequency_limit: float | None) -> tuple[Convolution, int]:
    past = 0 if history is None else history.shape[1]
    length = past + u.shape[1]
    return Convolution(u, length, min(length, h.shape[1]), frequency_limit), past


def fft_conv(inputs: Inputs) -> Tensor:
    """The output."""
    y: Tensor = _forward(inputs)
    return y


@operator("fft_conv_triton", lambda inputs: torch.empty_like(inputs.u))
def _forward(inputs: Inputs) -> Tensor:
    """The output."""
    u, h, skip, pre_gate, post_gate, history, frequency_limit = inputs
    y = torch.empty_like(u)
    if y.numel() == 0:
        return y
    convolution, past = _plan(u, h, history, frequency_limit)
    with on_device(u):
        # One transform per channel for the filter, whatever the batch; the signal's run inside the convolution.
        spectrum = convolution.spectrum(_filter(h, skip, convolution.length, accumulator_dtype(u)))
        convolution.run(spectrum, _signal(u, pre_gate, history), Output(y, post_gate, past))
    return y


@operator("fft_conv_triton_backward", lambda inputs, _: _empty_gradients(inputs))
def _backward(inputs: Inputs, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients in the order of the inputs; empty for those that were not given."""
    u, h, skip, pre_gate, post_gate, history, frequency_limit = inputs
    gradients = _empty_gradients(inputs)
    du, dh, dskip, dpre, dpost, dhistory = gradients
    if u.numel() == 0:
        for gradient in gradients:
            gradient.zero_()
        return gradients
    convolution, past = _plan(u, h, history, frequency_limit)
    v = _signal(u, pre_gate, history)
    dz = Signal(dy, post_gate, past)
    with on_device(u):
        spectrum = convolution.spectrum(_filter(h, skip, convolution.length, accumulator_dtype(u)))
        # dpost = dy z: the same convolution as in the forward pass, with dy as its output gate.
        if post_gate is not None:
            convolution.run(spectrum, v, Output(dpost, dy, past))
        if history is None:
            # One convolution gives dv; it leaves the kernel times pre_gate as du and times u as dpre_gate.
            outputs = (du,) if pre_gate is None else (du, pre_gate, 0, dpre, u)
            convolution.run(spectrum, dz, Output(*outputs), adjoint=True)
        else:
            dv = torch.empty_like(v.x)
            convolution.run(spectrum, dz, Output(dv), adjoint=True)
            dhistory.copy_(dv[:, :past])
            du.copy_(dv[:, past:] if pre_gate is None else dv[:, past:] * pre_gate)
            if pre_gate is not None:
                dpre.copy_(dv[:, past:] * u)
        taps = convolution.filter_gradient(v, dz, min(h.shape[1], convolution.length))
    # Taps beyond the inputs reach none of them.
    dh[:, taps.shape[1] :].zero_()
    dh[:, : taps.shape[1]].copy_(taps)
    if skip is not None:
        dskip.copy_(taps[:, 0])
    return gradients


def _empty_gradients(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    u, h, skip, pre_gate, post_gate, history, _ = inputs
    dtype = accumulator_dtype(u)
    return (
        torch.empty_like(u),
        h.new_empty(h.shape, dtype=dtype),
        u.new_empty(0 if skip is None else skip.shape, dtype=dtype),
        u.new_empty(0) if pre_gate is None else torch.empty_like(u),
        u.new_empty(0) if post_gate is None else torch.empty_like(u),
        u.new_empty(0 if history is None else history.shape, dtype=dtype),
    )


differentiate_by(_forward, _backward, Inputs, reference.fft_conv)
