"""Shapes of the long convolution in published models, and example inputs of any shape."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """Sizes of one call."""

    batch: int
    length: int
    channels: int
    taps: int


SHAPES = {
    "tiny": Shape(2, 33, 6, 33),
    "1k, 256 channels": Shape(4, 1024, 256, 1024),
    "4k, 256 channels": Shape(4, 4096, 256, 4096),
    "16k, 256 channels": Shape(4, 16384, 256, 16384),
    "64k, 64 channels": Shape(4, 65536, 64, 65536),
    "2k, 768 channels, batch 1": Shape(1, 2048, 768, 2048),
}


def example_inputs(
    shape: Shape, *, seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu", gates: bool = False
) -> dict[str, Tensor]:
    """Keyword arguments of :func:`seqconv_kernels.fft_conv`: responses that decay over the taps, and a skip."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng, dtype=torch.float64)

    decay = torch.exp(-4 * torch.arange(shape.taps, dtype=torch.float64) / shape.taps)
    response = normal(shape.channels, shape.taps) * decay / decay.norm()
    tensors = {"u": normal(shape.batch, shape.length, shape.channels), "h": response, "skip": normal(shape.channels)}
    if gates:
        tensors |= {name: normal(*tensors["u"].shape) for name in ("pre_gate", "post_gate")}
    return {name: tensor.to(device, dtype) for name, tensor in tensors.items()}
