"""Mixers side by side: ``y = Σ_i f_i(x)``, each over the same inputs, such as Mamba-2 and attention (hybrid heads).

Source: Zuo et al. 2025 (arXiv 2507.22448), Falcon-H1; Dong et al. 2024 (arXiv 2411.13676), Hymba.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...mixer import Mixer
from ...registry import create_mixer, register
from ...state import State, state_class
from ...types import LayerContext, StateKind, most_growing

DEFAULT: Sequence[Any] = (("mamba2", {}), ("attention", {}))


@state_class
class ParallelState(State):
    """The states of all mixers."""

    mixers: tuple[State, ...]


@register("parallel", examples=({"mixers": [["mamba", {"d_state": 3}], ["attention", {"num_heads": 2, "window": 5}]]},))
class Parallel(Mixer):
    """The sum of several mixers over the same inputs.

    Args:
        d_model: width of inputs and outputs.
        mixers: pairs of a mixer's name and its options.
        layer: place in a stack, which mixers get that depend on it.

    Raises:
        ValueError: no mixers, something else than pairs, a mixer that shares values between layers, unknown names.
    """

    def __init__(self, d_model: int, *, mixers: Sequence[Any] = DEFAULT, layer: LayerContext | None = None) -> None:
        pairs = [_pair(spec) for spec in mixers]
        if not pairs:
            raise argument_error("parallel mixer", "no mixers", "at least one", "give [[name, options], …]")
        parts = [create_mixer(name, d_model, layer=layer, **options) for name, options in pairs]
        for (name, _), part in zip(pairs, parts, strict=True):
            if part.shares_values:
                got, wanted = (
                    f"{name!r}, which shares values between layers",
                    "mixers that need nothing of other layers",
                )
                raise argument_error("parallel mixer", got, wanted, "make it a layer of its own")
        super().__init__(d_model, causal=all(part.causal for part in parts))
        self.mixers = nn.ModuleList(parts)

    @property
    def state_kind(self) -> StateKind:
        """That of the mixer whose state grows most with the context."""
        return most_growing(mixer.state_kind for mixer in self._parts) if self.causal else "none"

    @property
    def _parts(self) -> list[Mixer]:
        return [cast(Mixer, mixer) for mixer in self.mixers]

    def _change_rate(self, rate: float) -> None:
        for mixer in self._parts:
            mixer._change_rate(rate)
            mixer.forget_state_sizes()

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return torch.stack([mixer(x, mask=mask) for mixer in self.mixers]).sum(0)

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        sizes: dict[str, Any] = {"max_length": max_length, "device": device, "dtype": dtype}
        return ParallelState(tuple(mixer.init_state(batch_size, **sizes) for mixer in self._parts))

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, ParallelState)
        outputs = [m(x, s, mask=mask) for m, s in zip(self.mixers, state.mixers, strict=True)]
        return torch.stack([y for y, _ in outputs]).sum(0), ParallelState(tuple(after for _, after in outputs))

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        return self._prefill(x_t, state, None)


def _pair(spec: Any) -> tuple[str, dict[str, Any]]:
    """The name and the options of one mixer."""
    if isinstance(spec, Sequence) and len(spec) == 2 and isinstance(spec[0], str) and isinstance(spec[1], dict):
        return spec[0], spec[1]
    raise argument_error("parallel mixer", repr(spec), "a pair of a name and options", "write ['mamba2', {}]")
