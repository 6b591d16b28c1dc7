"""The one table of tolerances, by dtype: errors relative to the largest magnitude of what was wanted."""

import torch
from torch import Tensor

RELATIVE = {torch.float64: 1e-8, torch.float32: 2e-4, torch.bfloat16: 6e-2, torch.float16: 1e-2}


def assert_near(got: Tensor, want: Tensor, *, dtype: torch.dtype | None = None, what: str = "value") -> None:
    """Largest error at most ``RELATIVE[dtype]`` of the largest magnitude wanted (dtype: that of ``got`` by default)."""
    assert got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, wanted {tuple(want.shape)}"
    if want.numel() == 0:
        return
    bound = RELATIVE[dtype or got.real.dtype]
    wide = torch.complex128 if want.is_complex() else torch.float64
    error = (got.to(wide) - want.to(wide)).abs().max().item()
    scale = max(want.to(wide).abs().max().item(), 1e-3)
    assert error <= bound * scale, f"{what}: error {error:.3g} on a scale of {scale:.3g}, allowed {bound:.0e} of it"
