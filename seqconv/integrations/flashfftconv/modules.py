"""``FlashFFTConv`` and ``FlashDepthWiseConv1d`` on seqconv's ops: channels before the length.

Sources: ``flashfftconv/{conv,depthwise_1d}.py`` of HazyResearch/flash-fft-conv at b8771028.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqconv_kernels import causal_conv1d, fft_conv
from seqconv_kernels._core.errors import argument_error


class FlashFFTConv(nn.Module):
    """Circular convolution of period ``seqlen``: a causal one of inputs and filters up to half of it.

    Args:
        seqlen: period, of any size.
        dtype: of the original's factors; sums are float32 at least here, whatever the dtype.
        use_32_butterfly: of the original.
    """

    def __init__(self, seqlen: int, dtype: torch.dtype = torch.float16, use_32_butterfly: bool = True) -> None:
        super().__init__()
        if seqlen < 1:
            raise argument_error("FlashFFTConv", f"seqlen={seqlen}", "at least 1", "give the period")
        self.seqlen, self.dtype, self.use_32_butterfly = seqlen, dtype, use_32_butterfly

    def forward(self, u: Tensor, k: Tensor, pregate: Tensor | None = None, postgate: Tensor | None = None) -> Tensor:
        """Convolve every channel with its own filter; differentiable.

        Args:
            u: (batch, channels, length), not longer than the period.
            k: (channels, taps); what exceeds the period is cut off.
            pregate, postgate: like ``u``; they multiply the input and the output.

        Returns:
            Like ``u``.

        Raises:
            ValueError: an input longer than the period.
        """
        length, taps = u.shape[-1], k[..., : self.seqlen]
        if length > self.seqlen:
            got, wanted = f"u of length {length}", f"at most seqlen = {self.seqlen}"
            raise argument_error("FlashFFTConv", got, wanted, "build the module with a longer seqlen")
        gates = {"pre_gate": pregate, "post_gate": postgate}
        rows: Any = {name: None if gate is None else gate.mT for name, gate in gates.items()}
        if length + taps.shape[-1] - 1 <= self.seqlen:  # nothing comes around
            return fft_conv(u.mT, taps, **rows).mT
        once = F.pad(u if pregate is None else u * pregate, (0, self.seqlen - length))
        before = once[..., self.seqlen - taps.shape[-1] + 1 :]  # the end of the period before this one
        y = fft_conv(once.mT, taps, history=before.mT).mT[..., :length]
        return y if postgate is None else y * postgate


class FlashDepthWiseConv1d(nn.Module):
    """Depthwise convolution with padding on both sides, as ``torch.nn.Conv1d``.

    Args:
        channels: of input and output.
        kernel_size: taps.
        padding: zeros on each side.
        weights: (channels, 1, taps) or (channels, taps).
        bias: (channels).
        is_bhl: whether inputs are (batch, channels, length); otherwise (batch, length, channels).
        device, dtype: of the original, whose parameters keep those of ``weights`` too.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        padding: int,
        weights: Tensor,
        bias: Tensor,
        is_bhl: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.d, self.k, self.padding, self.is_bhl = channels, kernel_size, padding, is_bhl
        taps = weights.detach().reshape(channels, kernel_size).clone()
        self.weights = nn.Parameter(taps if is_bhl else taps.mT.contiguous())
        self.bias = nn.Parameter(bias.detach().clone())

    def forward(self, input: Tensor) -> Tensor:
        """``y[t] = sum_j weights[j] input[t - padding + j] + bias``, typed like the input."""
        x = input.mT if self.is_bhl else input
        taps = self.weights if self.is_bhl else self.weights.mT
        # The causal output at t + taps - 1 - padding has the taps from t - padding on.
        causal: Any = causal_conv1d(F.pad(x, (0, 0, self.padding, self.padding)), taps, self.bias)
        y: Tensor = causal[:, self.k - 1 :]
        return y.mT if self.is_bhl else y
