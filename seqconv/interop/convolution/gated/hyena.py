"""The Hyena operators of HazyResearch: safari, its standalone file, and hyena-dna.

Read in src/models/sequence/hyena.py and standalone_hyena.py of HazyResearch/safari (commit 02220c69) and in
src/models/sequence/hyena.py of HazyResearch/hyena-dna (commit d553021b). They differ in how the outputs of the filter
network are split over the orders (channel by channel in safari and hyena-dna, order by order in the standalone file
and here) and in the bidirectional form of hyena-dna. With ``normalized`` safari and hyena-dna divide the filter by
its l1 norm after the modulation; the standalone file takes the option and never reads it. ``num_heads`` and
``inner_factor`` above 1 fail in the originals' own forward.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ....layers.activations import ALIASES
from ....mixers.convolution.gated.hyena import Hyena
from ...importer import Weights, add_importer, options

SAFARI = "HazyResearch/safari:HyenaOperator"
STANDALONE = "HazyResearch/safari:standalone_hyena.HyenaOperator"
DNA = "HazyResearch/hyena-dna:HyenaOperator"

FILTER = {
    "emb_dim": 3,
    "w": 1,
    "bias": True,
    "num_inner_mlps": 2,
    "normalized": False,
    "modulate": True,
    "fast_decay_pct": 0.3,
    "slow_decay_pct": 1.5,
    "target": 1e-2,
    "shift": 0.0,
    "lr": 1e-3,
    "lr_pos_emb": 1e-5,
    "wd": 0,
    "modulation_lr": 0.0,
}
COMMON = {"d_model": ..., "l_max": ..., "order": 2, "filter_order": 64, "dropout": 0.0, **FILTER}
OPERATOR = {
    "num_heads": 1,
    "inner_factor": 1,
    "num_blocks": 1,
    "outer_mixing": False,
    "post_order_ffn": False,
    "short_filter_order": 3,
    "activation": "id",
    "filter_cls": "hyena-filter",
}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    SAFARI: COMMON | OPERATOR,
    STANDALONE: COMMON,
    DNA: COMMON | OPERATOR | {"linear_mixer": False, "bidirectional": False},
}
IGNORED = (
    "filter_dropout",
    "fused_bias_fc",
    "fused_fft_conv",
    "jit_filter",
    "return_state",
    "use_flashfftconv",
)


def build(original: str, **hyper: Any) -> Hyena:
    """The mixer with the options of the original."""
    o = options(original, hyper, DEFAULTS[original], IGNORED)
    given = vars(o)
    _check(original, given)
    activation = given.get("activation", "id")
    return Hyena(
        o.d_model,
        l_max=o.l_max,
        order=o.order,
        num_blocks=given.get("num_blocks", 1),
        outer_mixing=given.get("outer_mixing", False),
        post_order_ffn=given.get("post_order_ffn", False),
        d_conv=given.get("short_filter_order", 3),
        activation=ALIASES.get(activation, activation),
        skip=o.bias or original == STANDALONE,
        bidirectional=given.get("bidirectional", False),
        circular=True,
        dropout=float(o.dropout),
        filter_order=o.filter_order,
        emb_dim=o.emb_dim,
        num_inner_mlps=o.num_inner_mlps,
        w=float(o.w),
        linear_filter=given.get("linear_mixer", False),
        normalize=o.normalized and original != STANDALONE,
        modulate=o.modulate,
        fast_decay_pct=float(o.fast_decay_pct),
        slow_decay_pct=float(o.slow_decay_pct),
        target=float(o.target),
        shift=float(o.shift),
        lr=float(o.lr),
        wd=float(o.wd),
        lr_pos_emb=float(o.lr_pos_emb),
        modulation_lr=float(o.modulation_lr),
    )


def _check(original: str, given: Mapping[str, Any]) -> None:
    """Raise for options with which the original fails, or whose effect is not that of the mixer."""
    operation = f"from_original({original!r})"
    for name in ("num_heads", "inner_factor"):
        if given.get(name, 1) != 1:
            wanted = f"{name}=1 (the original fails in its forward otherwise)"
            raise argument_error(operation, f"{name}={given[name]}", wanted, f"drop {name}")
    if given.get("filter_cls", "hyena-filter") != "hyena-filter":
        got = f"filter_cls={given['filter_cls']!r}"
        raise argument_error(operation, got, "'hyena-filter'", "import the filter that the operator uses by itself")
    if given.get("outer_mixing") and given["dropout"] > 0:
        got = "outer_mixing with dropout, which the original applies to the outer product before it sums"
        remedy = "pass dropout=0.0, which gives the same outputs in evaluation"
        raise argument_error(operation, got, "one of the two", remedy)


def convert(weights: Weights, hyper: Mapping[str, Any], *, original: str) -> dict[str, Tensor]:
    """The state dict of the mixer from that of the original."""
    o = options(original, hyper, DEFAULTS[original], IGNORED)
    stages = o.order - 1

    def by_order(t: Tensor) -> Tensor:
        """The filter's channels, order by order."""
        return t if original == STANDALONE else t.unflatten(0, (-1, stages)).transpose(0, 1).flatten(0, 1)

    names = ("in_proj.weight", "in_proj.bias", "out_proj.weight", "out_proj.bias")
    converted = {name: weights.take(name) for name in names}
    converted["short_conv.weight"] = weights.take("short_filter.weight")[:, 0]
    converted["short_conv.bias"] = weights.take("short_filter.bias")
    skip = by_order(weights.take("filter_fn.bias")).unflatten(0, (stages, -1))
    if o.bias or original == STANDALONE:
        converted["D"] = skip
    if vars(o).get("post_order_ffn"):
        converted["head_mixing"] = weights.take("ord_proj_w")[:stages]
    sines = 0 if vars(o).get("linear_mixer") else o.num_inner_mlps + 1
    filter = implicit_filter(weights, "filter_fn", sines, by_order)
    return converted | {f"convolution.filter.{name}": tensor for name, tensor in filter.items()}


def implicit_filter(
    weights: Weights, prefix: str, sines: int, channels: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """The state dict of a :class:`HyenaFilter` from that of the original's ``HyenaFilter``.

    Args:
        prefix: name of the filter in the state dict.
        sines: number of its sine layers, all with the same frequencies.
        channels: reorders the first axis, that of the impulse responses.
    """
    converted = {
        "positions": weights.take(f"{prefix}.pos_emb.z")[0],
        "times": weights.take(f"{prefix}.pos_emb.t")[0, :, 0],
        "decays": channels(weights.take(f"{prefix}.modulation.deltas")[0, 0]),
    }
    for i in range(sines):
        for name in ("weight", "bias"):
            converted[f"network.layers.{i}.{name}"] = weights.take(f"{prefix}.implicit_filter.{2 * i}.{name}")
        weights.ignore(f"{prefix}.implicit_filter.{2 * i + 1}.freq")
    if sines:  # one tensor, of which some files keep one name
        names = [f"{prefix}.implicit_filter.{2 * i + 1}.freq" for i in range(sines)]
        converted["frequency"] = weights.take(next((name for name in names if name in weights), names[0]))[0]
    converted[f"network.layers.{sines}.weight"] = channels(weights.take(f"{prefix}.implicit_filter.{2 * sines}.weight"))
    return converted


for _original in DEFAULTS:
    add_importer(_original, build=partial(build, _original), convert=partial(convert, original=_original))
