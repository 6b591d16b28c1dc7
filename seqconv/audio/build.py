"""SaShiMi from names of mixers."""

from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any

from seqconv_kernels._core.errors import argument_error

from ..blocks import Block
from ..build import LayerSpec, build_block, drop_path_rates, ends_of_stack, parse_layer
from ..types import LayerContext
from .sashimi import Sashimi


def build_sashimi(
    d_model: int,
    n_layers: int,
    pattern: Sequence[LayerSpec],
    *,
    pool: Sequence[int],
    expand: int = 2,
    unet: bool = False,
    mixer_defaults: Mapping[str, Any] | None = None,
    final_norm: bool | None = None,
    final_norm_options: Mapping[str, Any] | None = None,
    input_dropout: float = 0.0,
    drop_path: float = 0.0,
    drop_path_schedule: str = "linear",
    **block_options: Any,
) -> Sashimi:
    """A backbone from names; ``n_layers`` layers at each level (with ``unet`` also before the pooling).

    The mixer and the MLP of a layer are blocks of their own, as in the original: with ``unet`` each has a skip
    connection.

    Args:
        pattern, mixer_defaults, final_norm, final_norm_options: as :func:`~seqconv.build.build_backbone`.
        input_dropout, drop_path, drop_path_schedule, block_options: as there; layers are counted on the way down,
            inside, and on the way up.
        pool, expand, unet: as :class:`~seqconv.audio.sashimi.Sashimi`.

    Raises:
        ValueError: unknown mixer or option (the nearest are named), no layers or levels.
    """
    if n_layers < 1 or not pattern or not pool:
        got = f"n_layers={n_layers}, a pattern of {len(pattern)} and {len(pool)} pools"
        raise argument_error("build_sashimi", got, "at least one of each", "give n_layers >= 1, a pattern and pool")
    depth, index = n_layers * ((2 if unet else 1) * len(pool) + 1), 0
    rates = drop_path_rates(drop_path, drop_path_schedule, depth)

    def level(number: int) -> list[Block]:
        nonlocal index
        blocks: list[Block] = []
        for spec in islice(cycle(pattern), n_layers):
            at, width = LayerContext(index, depth), d_model * expand**number
            for part in _parts(spec, block_options.get("mlp", "none")):
                options = {**block_options, "drop_path": rates[index], "layer": at}
                blocks.append(build_block(width, part, mixer_defaults=mixer_defaults, **options))
            index += 1
        return blocks

    down = [level(i) for i in range(len(pool))] if unet else []
    center, up = level(len(pool)), [level(i) for i in reversed(range(len(pool)))][::-1]
    ends = ends_of_stack(final_norm, final_norm_options, block_options)
    return Sashimi(down, center, up, pool=pool, expand=expand, unet=unet, input_dropout=input_dropout, **ends)


def _parts(spec: LayerSpec, mlp: str) -> list[LayerSpec]:
    """The mixer of a layer, and its MLP if there is one, as layers."""
    mixer, options, own = parse_layer(spec)
    parts: list[LayerSpec] = []
    if mixer != "none":
        parts.append({"mixer": mixer, "options": options, **own, "mlp": "none"})
    if own.get("mlp", mlp) != "none":
        parts.append({"mixer": "none", **own})
    return parts
