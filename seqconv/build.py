"""Backbones and blocks from names: a pattern of layers, repeated until there are enough."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import signature
from itertools import cycle, islice
from typing import Any

from seqconv_kernels._core.errors import argument_error, unknown_name

from .backbone import Backbone
from .blocks import Block
from .registry import create_mixer
from .types import LayerContext

LayerSpec = str | Sequence[Any] | Mapping[str, Any]
"""A layer of a pattern: ``"mamba"``; ``("attention", {"window": 64})``; or a mapping with ``"mixer"``,
``"options"`` and arguments of :class:`~seqconv.blocks.Block` that differ in this layer. The mixer ``"none"`` leaves
the per-token network alone."""


def build_backbone(
    d_model: int,
    n_layers: int,
    pattern: Sequence[LayerSpec],
    *,
    mixer_defaults: Mapping[str, Any] | None = None,
    final_norm: bool | None = None,
    final_norm_options: Mapping[str, Any] | None = None,
    input_dropout: float = 0.0,
    drop_path: float = 0.0,
    drop_path_schedule: str = "linear",
    **block_options: Any,
) -> Backbone:
    """A backbone from names: ``pattern`` is repeated until there are ``n_layers`` layers.

    Args:
        mixer_defaults: options of every mixer that its layer does not set itself, such as ``bidirectional``.
        final_norm: a norm after the last block; by default where norms come first (``norm_placement="pre"``).
        final_norm_options: its options where they differ from ``norm_options``.
        drop_path: stochastic depth of the last layer; ``drop_path_schedule`` ``"linear"`` lets it grow from 0 at the
            first, ``"constant"`` takes it everywhere.
        **block_options: arguments of :class:`~seqconv.blocks.Block` for all layers.

    Raises:
        ValueError: unknown mixer, option or schedule (the nearest are named), no layers.
    """
    if n_layers < 1 or not pattern:
        got = f"n_layers={n_layers} and a pattern of {len(pattern)}"
        raise argument_error("build_backbone", got, "at least one layer", "give n_layers >= 1 and a pattern")
    rates = drop_path_rates(drop_path, drop_path_schedule, n_layers)
    blocks = []
    for i, spec in enumerate(islice(cycle(pattern), n_layers)):
        here = {**block_options, "drop_path": rates[i], "layer": LayerContext(i, n_layers)}
        blocks.append(build_block(d_model, spec, mixer_defaults=mixer_defaults, **here))
    ends = ends_of_stack(final_norm, final_norm_options, block_options)
    return Backbone(blocks, input_dropout=input_dropout, **ends)


def drop_path_rates(rate: float, schedule: str, n_layers: int) -> list[float]:
    """Stochastic depth of every layer.

    Raises:
        ValueError: an unknown schedule; the nearest is named.
    """
    if schedule not in ("linear", "constant"):
        raise unknown_name("build_backbone", "drop_path_schedule", schedule, ["linear", "constant"])
    return [rate * (1.0 if schedule == "constant" else i / max(1, n_layers - 1)) for i in range(n_layers)]


def ends_of_stack(
    final_norm: bool | None, final_norm_options: Mapping[str, Any] | None, block_options: Mapping[str, Any]
) -> dict[str, Any]:
    """The norm after the last block and the kind of the dropout before the first, as options of a backbone."""
    ends: dict[str, Any] = {"tie_dropout": block_options.get("tie_dropout", False), "norm": "none"}
    placement = block_options.get("norm_placement", "pre")
    if final_norm if final_norm is not None else placement == "pre":
        own = block_options.get("norm_options") if final_norm_options is None else final_norm_options
        ends |= {"norm": block_options.get("norm", "layer"), "norm_options": own}
    return ends


def build_block(
    d_model: int,
    spec: LayerSpec,
    *,
    layer: LayerContext | None = None,
    mixer_defaults: Mapping[str, Any] | None = None,
    **block_options: Any,
) -> Block:
    """A block from a layer of a pattern at a place in the stack; other arguments as :func:`build_backbone`.

    Raises:
        ValueError: unknown mixer or option; the nearest are named.
    """
    name, options, own = parse_layer(spec)
    known = set(signature(Block).parameters) - {"mixer", "d_model", "layer"}
    for option in (*block_options, *own):
        if option not in known:
            raise unknown_name("build_block", "option", option, known)
    block_options = {**block_options, **own}
    if layer is not None:
        layer = replace(layer, residuals=1 if block_options.get("mlp", "none") == "none" else 2)
    mixer = (
        None if name == "none" else create_mixer(name, d_model, layer=layer, **{**(mixer_defaults or {}), **options})
    )
    return Block(mixer, d_model=d_model, layer=layer, **block_options)


def parse_layer(spec: LayerSpec) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Mixer name, mixer options and block options of a layer.

    Raises:
        ValueError: not one of the three forms of :data:`LayerSpec`.
    """
    if isinstance(spec, str):
        return spec, {}, {}
    if isinstance(spec, Mapping) and isinstance(spec.get("mixer"), str):
        own = {key: value for key, value in spec.items() if key not in ("mixer", "options")}
        return spec["mixer"], dict(spec.get("options") or {}), own
    if isinstance(spec, Sequence) and len(spec) == 2 and isinstance(spec[0], str) and isinstance(spec[1], Mapping):
        return spec[0], dict(spec[1]), {}
    wanted = "a mixer name, (name, options), or a mapping with 'mixer', 'options' and options of the block"
    raise argument_error("layer pattern", repr(spec), wanted, "write the layer in one of these forms")
