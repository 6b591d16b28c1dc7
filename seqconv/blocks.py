"""A block: a mixer and a per-token network, each with its norm, dropout and residual connection.

With ``⊕`` the residual connection of :mod:`~seqconv.layers.residual` and ``f`` the mixer, then the MLP::

    pre:   x ← x ⊕ drop(f(norm(x)))
    post:  x ← norm(x ⊕ drop(f(x)))

Mixers that hold their norm and residual themselves (``Mixer.residual_inside``: MEGA, TCNCA) get neither. A block
without a mixer is a per-token network alone, and one without an MLP a mixer alone.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from .decoding.stateful import Stateful
from .layers.channel_mix import create_channel_mix
from .layers.experts import MixtureOfExperts
from .layers.mlp import MLP
from .layers.norms import Norm, create_norm
from .layers.residual import Dropout, DropPath, Residual, create_residual
from .mixer import Mixer, SharedValues
from .packing import zero_padding
from .state import InitialState, State, call_with_state, carries_state, state_class
from .types import LayerContext, StateKind, most_growing


@state_class
class BlockState(State):
    """The states of a block's mixer and of its channel mix, ``None`` where there is none."""

    mixer: State | None = None
    mlp: State | None = None

    of_modules: ClassVar[bool] = True


class Block(Stateful[BlockState]):
    """Mixer and MLP with norms and residuals: one layer of a :class:`~seqconv.backbone.Backbone`.

    Args:
        mixer: the sequence mixer; ``None`` leaves the per-token network alone.
        d_model: width, needed only without a mixer.
        norm, norm_options: as :func:`~seqconv.layers.norms.create_norm`.
        norm_placement: ``"pre"`` or ``"post"``.
        residual, residual_options: as :func:`~seqconv.layers.residual.create_residual`.
        mlp: the channel mix: a kind of :func:`~seqconv.layers.channel_mix.create_channel_mix`, or ``"none"``.
        mlp_ratio: its hidden width over ``d_model``.
        mlp_hidden: its hidden width, instead of the ratio.
        mlp_bias: whether its projections have biases; ``None``: as in the original (all kinds of MLP have them).
        mlp_dropout: dropout of its hidden activations.
        mlp_options: further options of its kind (``"moe"``).
        mlp_residual_options: options of its residual connection where they differ from the mixer's.
        mlp_norm, mlp_norm_options: norm of the MLP where it differs from the mixer's.
        dropout: dropout of the outputs of the mixer and the MLP.
        tie_dropout: drop a channel of a row at all tokens together.
        drop_path: probability of leaving out the mixer, or the MLP, for a row (stochastic depth).
        mask_mixer_inputs: use the mask of a call only to zero what enters the mixer at padding; norms, residual and the
            mixer itself take padding for tokens (as S4 does where it knows the lengths).
        layer: place in the stack, on which some residuals and initial values depend; the first of one by default.

    Attributes:
        shares_values: whether a mixer reads or writes values shared between layers.

    Raises:
        ValueError: unknown names or options (the nearest are named), probabilities outside [0, 1).
    """

    def __init__(
        self,
        mixer: Mixer | None,
        *,
        d_model: int | None = None,
        norm: str = "layer",
        norm_options: Mapping[str, Any] | None = None,
        norm_placement: str = "pre",
        residual: str = "sum",
        residual_options: Mapping[str, Any] | None = None,
        mlp: str = "none",
        mlp_ratio: float = 4.0,
        mlp_hidden: int | None = None,
        mlp_bias: bool | None = None,
        mlp_dropout: float = 0.0,
        mlp_options: Mapping[str, Any] | None = None,
        mlp_residual_options: Mapping[str, Any] | None = None,
        mlp_norm: str | None = None,
        mlp_norm_options: Mapping[str, Any] | None = None,
        dropout: float = 0.0,
        tie_dropout: bool = False,
        drop_path: float = 0.0,
        mask_mixer_inputs: bool = False,
        layer: LayerContext | None = None,
    ) -> None:
        super().__init__()
        if norm_placement not in ("pre", "post"):
            raise unknown_name("Block", "norm_placement", norm_placement, ["pre", "post"])
        self.d_model, self.norm_placement = _width(mixer, d_model, mlp), norm_placement
        self.mixer, self.mask_mixer_inputs = mixer, mask_mixer_inputs
        depth = 1 if layer is None else layer.index + 1
        join = partial(create_residual, residual, self.d_model, depth=depth)
        if mixer is not None and not mixer.residual_inside:
            self.mixer_norm = create_norm(norm, self.d_model, **(norm_options or {}))
            self.mixer_residual = join(**(residual_options or {}))
        self.mlp: MLP | MixtureOfExperts | Mixer | None = None
        if mlp != "none":
            other, options = (norm, norm_options) if mlp_norm is None else (mlp_norm, mlp_norm_options)
            self.mlp_norm = create_norm(other, self.d_model, **(options or {}))
            hidden = round(mlp_ratio * self.d_model) if mlp_hidden is None else mlp_hidden
            hyper: dict[str, Any] = {"hidden": hidden, "dropout": mlp_dropout, "bias": mlp_bias}
            hyper |= mlp_options or {}
            self.mlp = create_channel_mix(mlp, self.d_model, tie_dropout=tie_dropout, layer=layer, **hyper)
            self.mlp_residual = join(
                **(residual_options if mlp_residual_options is None else mlp_residual_options) or {}
            )
        self.dropout, self.drop_path = Dropout(dropout, tied=tie_dropout), DropPath(drop_path)
        self.shares_values = any(mixer.shares_values for mixer in self._mixers)

    @property
    def causal(self) -> bool:
        """Whether an output depends on no later input."""
        return self._per_token_norms and all(mixer.causal for mixer in self._mixers)

    @property
    def state_kind(self) -> StateKind:
        """The kind of the mixer or channel mix whose state grows most with the context."""
        return most_growing(mixer.state_kind for mixer in self._mixers) if self.causal else "none"

    @carries_state
    def forward(
        self,
        x: Float[Tensor, "batch *length d_model"],
        state: State | None = None,
        *,
        mask: Bool[Tensor, "batch length"] | None = None,
        cu_seqlens: Int[Tensor, " bounds"] | None = None,
        shared: SharedValues | None = None,
    ) -> Any:
        """As ``Mixer.forward``: arguments, returned values and errors; the state is a :class:`BlockState`.

        Of the shared values those are returned that this block set: a sharded module may not return its inputs.
        """
        given = shared
        if cu_seqlens is not None:
            self._check_packing()
        before = BlockState() if state is None else self._own_state(state)
        inputs_mask, mask = (mask, None) if self.mask_mixer_inputs else (None, mask)
        mixed = fed = None
        mixer, mlp = self.mixer, self.mlp
        if mixer is not None:
            y = x if mixer.residual_inside else self._enter(x, mask, self.mixer_norm)
            y = zero_padding(y, inputs_mask)
            y, mixed, shared = _call(mixer, y, before.mixer, mask, cu_seqlens, shared)
            x = y if mixer.residual_inside else self._join(x, y, mask, self.mixer_residual, self.mixer_norm)
        if mlp is not None:
            y = self._enter(x, mask, self.mlp_norm)
            if isinstance(mlp, Mixer):
                y, fed, shared = _call(mlp, y, before.mlp, mask, cu_seqlens, shared)
            else:
                y = mlp(y)
            x = self._join(x, y, mask, self.mlp_residual, self.mlp_norm)
        after = [] if state is None else [BlockState(mixed, fed)]
        outputs = (zero_padding(x, mask), *after, *([] if shared is None else [_changed(shared, given)]))
        return outputs if len(outputs) > 1 else outputs[0]

    def init_state(
        self,
        batch_size: int,
        *,
        max_length: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> BlockState:
        """The state before the first token; arguments as ``Mixer.init_state``.

        Raises:
            ValueError: the mixer or a norm is not causal.
        """
        self._check_causal()
        sizes: dict[str, Any] = {"max_length": max_length, "device": device, "dtype": dtype}
        own = (m.init_state(batch_size, **sizes) if isinstance(m, Mixer) else None for m in (self.mixer, self.mlp))
        return BlockState(*own)

    def _enter(self, x: Tensor, mask: Tensor | None, norm: Norm) -> Tensor:
        """The input of the mixer or the MLP."""
        return cast(Tensor, norm(x, mask)) if self.norm_placement == "pre" else x

    def _join(self, x: Tensor, y: Tensor, mask: Tensor | None, residual: Residual, norm: Norm) -> Tensor:
        """The residual stream after the mixer or the MLP, from the stream before it and its output."""
        joined: Tensor = residual(x, self.drop_path(self.dropout(y)))
        return joined if self.norm_placement == "pre" else cast(Tensor, norm(joined, mask))

    def _own_state(self, state: State) -> BlockState:
        self._check_causal()
        if isinstance(state, InitialState):
            return BlockState(*(state if isinstance(m, Mixer) else None for m in (self.mixer, self.mlp)))
        if not isinstance(state, BlockState):
            remedy = "pass what this block's init_state, prefill or step returned"
            raise argument_error("Block", f"a {type(state).__name__}", "a BlockState", remedy)
        return state

    def _check_causal(self) -> None:
        if self._per_token_norms:
            return
        remedy = "take norm='layer', 'rms', 'scale' or 'batch', or use forward on the whole sequence"
        wanted = "norms of single tokens"
        raise argument_error("Block.init_state", "a norm with statistics over the length", wanted, remedy)

    def _check_packing(self) -> None:
        if self._per_token_norms:
            return
        remedy = "take norm='layer', 'rms', 'scale' or 'batch', or pad with a mask"
        wanted = "norms of single tokens"
        raise argument_error("Block.forward", "cu_seqlens with a norm over the length", wanted, remedy)

    @property
    def _mixers(self) -> list[Mixer]:
        """The mixer and a channel mix with a state."""
        return [m for m in (self.mixer, self.mlp) if isinstance(m, Mixer)]

    @property
    def _per_token_norms(self) -> bool:
        # Asked for at every token: without a generator, and without instance checks of abstract classes.
        for child in self._modules.values():  # noqa: SIM110
            if not getattr(type(child), "per_token", True):
                return False
        return True


def _changed(values: SharedValues, given: SharedValues | None) -> SharedValues:
    return {name: value for name, value in values.items() if given is None or value is not given.get(name)}


def _call(
    mixer: Mixer,
    x: Tensor,
    state: State | None,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    shared: SharedValues | None,
) -> tuple[Tensor, State | None, SharedValues | None]:
    """Outputs of a mixer, its new state and the shared values after it, where there are any."""
    options = {"mask": mask, "cu_seqlens": cu_seqlens, "shared": shared if mixer.shares_values else None}
    outputs = mixer(x, **options) if state is None else call_with_state(mixer, x, state, **options)
    y, *rest = outputs if isinstance(outputs, tuple) else (outputs,)
    return y, None if state is None else rest[0], rest[-1] if mixer.shares_values and shared is not None else shared


def _width(mixer: Mixer | None, d_model: int | None, mlp: str) -> int:
    if mixer is None and (d_model is None or mlp == "none"):
        got = f"no mixer, d_model={d_model} and mlp={mlp!r}"
        raise argument_error("Block", got, "a mixer, or a width and an MLP", "give mixer=, or d_model= and mlp=")
    if mixer is not None and d_model not in (None, mixer.d_model):
        raise argument_error(
            "Block", f"d_model={d_model} for a mixer of {mixer.d_model}", "equal widths", "leave d_model out"
        )
    return mixer.d_model if mixer is not None else cast(int, d_model)
