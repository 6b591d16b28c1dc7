"""What the tests of the Triton implementations share: the device they run on, dtypes, layouts, rounding."""

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])


def device_and_layout(inputs, layout="contiguous", activations=()):
    """The inputs on the device of the tests, the activations named in another layout."""
    moved = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    return {k: _LAYOUTS[layout](v) if k in activations and v is not None else v for k, v in moved.items()}


def check_operator(operator, *arguments):
    """Its schema, its shapes for the compiler and its gradients are registered as torch.library wants them."""
    leaves = [a.requires_grad_() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments]
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(operator, tuple(leaves), test_utils=tests)


_LAYOUTS = {
    "contiguous": lambda x: x,
    "sliced": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],  # channels of a wider projection
    "transposed": lambda x: x.transpose(1, -1).contiguous().transpose(1, -1),
}
