"""Known wrong variants of a bidirectional S4D, which a protocol worth its name must tell from the right one.

``no mixing``: one tap of the past and none of the future, a network of single tokens. ``time step x 0.001``: taps that
are flat over any sequence in sight. ``circular``: the convolution of a Fourier transform without zero padding, as long
as the batch, so that the end of every sequence is heard before its beginning and the other way round.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from seqconv.filters.s4d import S4DFilter
from seqconv_kernels.errors import unknown_name

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "no mixing": {"bidirectional": False, "l_max": 1, "truncate": True},
    "time step x 0.001": {"dt_min": 1e-6, "dt_max": 1e-4},
    "circular": {},
}
"""Options of S4D that make the fault, as far as options can."""


@contextmanager
def fault(name: str | None) -> Iterator[None]:
    """Within it, models of this process have what options alone do not bring about: circular convolutions.

    Args:
        name: of :data:`OPTIONS`, or ``None`` for no fault.

    Raises:
        ValueError: unknown name; the nearest are named.
    """
    if name is not None and name not in OPTIONS:
        raise unknown_name("fault", "fault", name, OPTIONS)
    if name != "circular":
        yield
        return
    hook = register_module_forward_hook(_of_two_sided_filters)
    try:
        yield
    finally:
        hook.remove()


def wrap_around(taps: Float[Tensor, "channels length"]) -> Float[Tensor, "channels length"]:
    """Taps with which a zero-padded two-sided convolution of ``length`` tokens does what a circular one does.

    Args:
        taps: of the past from lag 0 on, then as many channels of the future from lag 1 on.
    """
    past, future = taps.chunk(2)
    circle = past + future.flip(1)
    return torch.cat([circle, circle.flip(1)])


def _of_two_sided_filters(module: nn.Module, _: Any, output: Any) -> Any:
    return wrap_around(output) if isinstance(module, S4DFilter) else None
