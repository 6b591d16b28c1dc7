"""Negative controls: incorrect variants of S4D, which a useful protocol must distinguish from the correct one.

``no mixing``: one tap of the past and none of the future, a network of single tokens. ``time step x 0.001``: taps that
are flat over any sequence of the protocol. ``circular``: a convolution by Fourier transform without zero padding, so
that the first outputs of a row depend on its last inputs; a causal model then depends on the future.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks_with_kwargs, register_module_forward_hook

from seqconv.convolution.long_convolution import LongConvolution, convolve
from seqconv_kernels._core.errors import unknown_name

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "no mixing": {"bidirectional": False, "truncation": 1},
    "time step x 0.001": {"dt_min": 1e-6, "dt_max": 1e-4},
    "circular": {},
}
"""Options of S4D that make the variant, as far as options can."""


@contextmanager
def negative_control(name: str | None) -> Iterator[None]:
    """Within it, models of this process have what options alone cannot give: circular convolutions.

    Args:
        name: of :data:`OPTIONS`, or ``None`` for the correct model.

    Raises:
        ValueError: unknown name; the nearest are named.
    """
    if name is not None and name not in OPTIONS:
        raise unknown_name("negative_control", "control", name, OPTIONS)
    if name != "circular":
        yield
        return
    hook = register_module_forward_hook(cast(Callable[..., None], _replace), with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
        # torch keeps this entry after the removal and then treats every module of the process as hooked.
        _global_forward_hooks_with_kwargs.pop(hook.id, None)


def _replace(module: nn.Module, inputs: tuple[Any, ...], options: Mapping[str, Any], _: Any) -> Tensor | None:
    return circular(module, *inputs, **options) if isinstance(module, LongConvolution) else None


def circular(
    convolution: LongConvolution,
    u: Float[Tensor, "batch length channels"],
    *,
    skip: Float[Tensor, " channels"] | None = None,
) -> Float[Tensor, "batch length channels"]:
    """A convolution with one stage and one head over periodic rows, each without its padding.

    With the padded length as the period, zeros would separate the end of a row from its beginning, and only the longest
    rows of a batch would wrap around.
    """
    length, lengths = u.shape[1], true_lengths(u)[:, None]
    place = torch.arange(-length, 2 * length, device=u.device) % lengths
    repeated = u.gather(1, place[..., None].expand(-1, -1, u.shape[2]))
    (kernel,) = convolution.kernels(length)
    y = convolve(repeated, kernel)[:, length : 2 * length]
    y = y * (torch.arange(length, device=u.device) < lengths)[..., None]
    return y if skip is None else y + skip * u


def true_lengths(u: Float[Tensor, "batch length channels"]) -> Integer[Tensor, " batch"]:
    """Tokens of each row up to its last that is not zero, as inputs at padding are; 1 at least."""
    position = torch.arange(1, u.shape[1] + 1, device=u.device)
    return (position * u.ne(0).any(2)).amax(1).clamp(min=1)
