"""Sequence mixers along the rows of an image, then along its columns.

Equation, with 1-D mixers f along every row and g along every column::

    h[i, :] = f(x[i, :])                 bidirectional: f(x[i, :]) + reverse(f'(reverse(x[i, :])))
    y[:, j] = g(h[:, j])                 the same

Every cell depends on the cells above and to the left of it, or on all of them. The cost is that of two scans of the
image in short sequences; with a decay by distance along each axis it decomposes one by the Manhattan distance, as RMT
does with attention (``"manhattan"``).

Source: Fan et al. 2023, "RMT" (arXiv 2309.11523) for the decomposition; ``cascade2d`` among the scans of ``vmamba.py``
of MzeroMiko/VMamba at 2ed52ead, rows before columns in both directions.
"""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ...registry import create_mixer
from ..mixer_2d import Mixer2d, by_size
from ..registry import register_2d


@register_2d(
    "axial",
    examples=(
        {"mixer": "gla", "mixer_options": {"num_heads": 2}, "column_mixer": "s4d"},
        {"mixer": "attention", "bidirectional": False},
    ),
)
class Axial2d(Mixer2d):
    """Any sequence mixers along rows, then along columns.

    Args:
        d_model: width of inputs and outputs.
        mixer, mixer_options: name of the sequence mixer along rows, one of :func:`~seqconv.registry.list_mixers`, and
            its options.
        column_mixer, column_mixer_options: those along columns; as along rows if not given.
        bidirectional: along both directions of each axis, by mixers of their own whose results are summed.

    Raises:
        ValueError: unknown mixers or options (the nearest are named).
    """

    def __init__(
        self,
        d_model: int,
        *,
        mixer: str = "mamba",
        mixer_options: Mapping[str, Any] | None = None,
        column_mixer: str | None = None,
        column_mixer_options: Mapping[str, Any] | None = None,
        bidirectional: bool = True,
    ) -> None:
        super().__init__(d_model)
        along_columns = mixer_options if column_mixer is None else column_mixer_options
        kinds = ((mixer, mixer_options), (column_mixer or mixer, along_columns))
        self.rows, self.columns = (
            nn.ModuleList([create_mixer(name, d_model, **(options or {})) for _ in range(1 + bidirectional)])
            for name, options in kinds
        )

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return by_size(self._mix, x, mask)

    def _mix(self, x: Float[Tensor, "batch height width d_model"]) -> Float[Tensor, "batch height width d_model"]:
        hidden = _along_last(self.rows, x)
        return _along_last(self.columns, hidden.transpose(1, 2)).transpose(1, 2)


def _along_last(
    mixers: nn.ModuleList, x: Float[Tensor, "batch lines length d_model"]
) -> Float[Tensor, "batch lines length d_model"]:
    """Every line as a sequence; by a second mixer from its end."""
    lines = x.flatten(0, 1)
    y: Tensor = mixers[0](lines)
    if len(mixers) > 1:
        y = y + mixers[1](lines.flip(1)).flip(1)
    mixed: Tensor = y.unflatten(0, x.shape[:2])
    return mixed
