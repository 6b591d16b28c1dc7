"""S4: convolution with the impulse response of a structured state space (Gu et al., 2022, arXiv 2111.00396)."""

from functools import partial

from ..filters.s4 import S4Filter
from ..registry import register
from .s4_layer import S4Layer


@register(
    "s4",
    examples=(
        {"bidirectional": True, "d_state": 8, "l_max": 16},
        {"channels": 2, "init": "legt", "rank": 2, "d_state": 6, "l_max": 37, "n_ssm": 4},
        {"disc": "zoh", "init": "hippo", "d_state": 8, "l_max": None},
    ),
)
class S4(S4Layer):
    """S4: long convolution with a diagonal plus low-rank state space (HiPPO), constant state in decoding.

    Args:
        d_model: width.
        disc, rank, P_scale: see :class:`~seqconv.filters.s4.S4Filter`.
        d_state ... wd: see :class:`~seqconv.filters.state_space.StateSpaceFilter`.
        activation ... truncate: see :class:`~seqconv.mixers.s4_layer.S4Layer`; ``l_max`` also goes to the filter.

    Raises:
        ValueError: as those classes.
    """

    def __init__(
        self,
        d_model: int,
        *,
        disc: str = "bilinear",
        rank: int = 1,
        d_state: int = 64,
        init: str = "legs",
        n_ssm: int | None = None,
        deterministic: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_tie: bool = True,
        dt_transform: str = "exp",
        dt_fast: bool = False,
        real_transform: str = "exp",
        imag_transform: str = "none",
        bandlimit: float | None = None,
        rate: float = 1.0,
        real_random: bool = False,
        real_scale: float = 1.0,
        imag_random: bool = False,
        imag_scale: float = 1.0,
        B_init: str = "constant",
        B_scale: float = 1.0,
        P_scale: float = 1.0,
        normalize: bool = False,
        B_clip: float | None = 2.0,
        lr: float | dict[str, float] | None = 1e-3,
        wd: float | dict[str, float] | None = 0.0,
        activation: str | None = "gelu",
        final_act: str | None = "glu",
        bottleneck: int | None = None,
        gate: int | None = None,
        gate_act: str | None = None,
        mult_act: str | None = None,
        initializer: str | None = None,
        weight_norm: bool = False,
        dropout: float = 0.0,
        tie_dropout: bool = False,
        drop_kernel: float = 0.0,
        channels: int = 1,
        swap_channels: bool = False,
        bidirectional: bool = False,
        l_max: int | None = None,
        truncate: bool = False,
    ) -> None:
        make_filter = partial(
            S4Filter,
            disc=disc,
            rank=rank,
            l_max=l_max,
            d_state=d_state,
            init=init,
            n_ssm=n_ssm,
            deterministic=deterministic,
            dt_min=dt_min,
            dt_max=dt_max,
            dt_tie=dt_tie,
            dt_transform=dt_transform,
            dt_fast=dt_fast,
            real_transform=real_transform,
            imag_transform=imag_transform,
            bandlimit=bandlimit,
            rate=rate,
            real_random=real_random,
            real_scale=real_scale,
            imag_random=imag_random,
            imag_scale=imag_scale,
            B_init=B_init,
            B_scale=B_scale,
            P_scale=P_scale,
            normalize=normalize,
            B_clip=B_clip,
            lr=lr,
            wd=wd,
        )
        super().__init__(
            d_model,
            lambda features, heads: make_filter(features, heads=heads),
            activation=activation,
            final_act=final_act,
            bottleneck=bottleneck,
            gate=gate,
            gate_act=gate_act,
            mult_act=mult_act,
            initializer=initializer,
            weight_norm=weight_norm,
            dropout=dropout,
            tie_dropout=tie_dropout,
            drop_kernel=drop_kernel,
            channels=channels,
            swap_channels=swap_channels,
            bidirectional=bidirectional,
            l_max=l_max,
            truncate=truncate,
        )
