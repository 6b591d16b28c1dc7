"""A block: a mixer and a per-token network, each with its norm, dropout and residual connection.

With ``⊕`` the residual connection of :mod:`~seqconv.layers.residual` and ``f`` the mixer, then the MLP::

    pre:   x ← x ⊕ drop(f(norm(x)))
    post:  x ← norm(x ⊕ drop(f(x)))

Mixers that hold their norm and residual themselves (``Mixer.residual_inside``: MEGA, TCNCA) get neither. A block
without a mixer is a per-token network alone, and one without an MLP a mixer alone.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from .layers.mlp import MLP
from .layers.norms import create_norm
from .layers.residual import Dropout, DropPath, create_residual
from .mixer import Mixer
from .packing import zero_padding
from .state import State
from .types import StateKind

_NOTHING_AROUND: Mapping[str, Any] = {"norm": "none", "norm_options": {}, "residual": "none", "residual_options": {}}


class Sublayer(nn.Module):
    """What stands around a function of the residual stream: norm before or after, dropout, residual connection."""

    def __init__(
        self,
        d_model: int,
        *,
        norm: str,
        norm_options: Mapping[str, Any],
        residual: str,
        residual_options: Mapping[str, Any],
        placement: str = "pre",
        depth: int = 1,
        dropout: float = 0.0,
        tied_dropout: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if placement not in ("pre", "post"):
            raise unknown_name("Block", "norm_placement", placement, ["pre", "post"])
        self.placement = placement
        self.norm = create_norm(norm, d_model, **norm_options)
        self.residual = create_residual(residual, d_model, depth=depth, **residual_options)
        self.dropout, self.drop_path = Dropout(dropout, tied=tied_dropout), DropPath(drop_path)

    def enter(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The input of the function."""
        return cast(Tensor, self.norm(x, mask)) if self.placement == "pre" else x

    def leave(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        """The residual stream behind the function, from the stream before it and its output."""
        joined: Tensor = self.residual(x, self.drop_path(self.dropout(y)))
        return joined if self.placement == "pre" else cast(Tensor, self.norm(joined, mask))


class Block(nn.Module):
    """Mixer and MLP with norms and residuals: one layer of a :class:`~seqconv.backbone.Backbone`.

    Args:
        mixer: the sequence mixer; ``None`` leaves the per-token network alone.
        d_model: width, needed only without a mixer.
        norm, norm_options: as :func:`~seqconv.layers.norms.create_norm`.
        norm_placement: ``"pre"`` or ``"post"``.
        residual, residual_options: as :func:`~seqconv.layers.residual.create_residual`.
        mlp: kind of :class:`~seqconv.layers.mlp.MLP`, or ``"none"``.
        mlp_ratio: its hidden width over ``d_model``.
        mlp_hidden: its hidden width, instead of the ratio.
        mlp_bias: whether its maps have biases.
        mlp_dropout: dropout of its hidden activations.
        mlp_norm, mlp_norm_options: norm of the MLP where it differs from the mixer's.
        dropout: dropout of the outputs of the mixer and the MLP.
        tied_dropout: drop a channel of a row at all tokens together.
        drop_path: probability of leaving out the mixer, or the MLP, for a row (stochastic depth).
        depth: number of this layer, from 1; some residuals depend on it.

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
        mlp_bias: bool = True,
        mlp_dropout: float = 0.0,
        mlp_norm: str | None = None,
        mlp_norm_options: Mapping[str, Any] | None = None,
        dropout: float = 0.0,
        tied_dropout: bool = False,
        drop_path: float = 0.0,
        depth: int = 1,
    ) -> None:
        super().__init__()
        self.d_model = _width(mixer, d_model, mlp)
        self.mixer = mixer
        own: dict[str, Any] = {"norm": norm, "norm_options": norm_options or {}}
        around: dict[str, Any] = {
            "residual": residual,
            "residual_options": residual_options or {},
            "placement": norm_placement,
        }
        around |= {"depth": depth, "dropout": dropout, "tied_dropout": tied_dropout, "drop_path": drop_path}
        if mixer is not None:
            around_mixer = _NOTHING_AROUND if mixer.residual_inside else own | around
            self.around_mixer = Sublayer(self.d_model, **around_mixer)
        if mlp != "none":
            its_norm = own if mlp_norm is None else {"norm": mlp_norm, "norm_options": mlp_norm_options or {}}
            self.around_mlp = Sublayer(self.d_model, **its_norm, **around)
            hidden = round(mlp_ratio * self.d_model) if mlp_hidden is None else mlp_hidden
            hyper: dict[str, Any] = {"hidden": hidden, "dropout": mlp_dropout, "bias": mlp_bias}
            self.mlp = MLP(self.d_model, kind=mlp, tied_dropout=tied_dropout, **hyper)
        self.has_mlp = mlp != "none"

    @property
    def causal(self) -> bool:
        """Whether an output depends on no later input."""
        sublayers = [m for m in self.children() if isinstance(m, Sublayer)]
        return (self.mixer is None or self.mixer.causal) and all(s.norm.per_token for s in sublayers)

    @property
    def state_kind(self) -> StateKind:
        """How the state scales with the context, as for a mixer."""
        if not self.causal:
            return "none"
        return "constant" if self.mixer is None else self.mixer.state_kind

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        *,
        mask: Bool[Tensor, "batch length"] | None = None,
        cu_seqlens: Int[Tensor, " bounds"] | None = None,
    ) -> Float[Tensor, "batch length d_model"]:
        """All tokens in parallel; arguments and errors as ``Mixer.forward``."""
        if cu_seqlens is not None:
            self._check_packing()
        if self.mixer is not None:
            y = self.mixer(self.around_mixer.enter(x, mask), mask=mask, cu_seqlens=cu_seqlens)
            x = self.around_mixer.leave(x, y, mask)
        return self._feed(x, mask)

    def init_state(
        self,
        batch_size: int,
        *,
        max_length: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State | None:
        """The state before the first token: the mixer's; ``None`` without a mixer.

        Raises:
            ValueError: the mixer or a norm is not causal.
        """
        if not self.causal and (self.mixer is None or self.mixer.causal):
            remedy = "take norm='layer', 'rms', 'scale' or 'batch', or use forward on the whole sequence"
            raise argument_error(
                "Block.init_state", "a norm with statistics over the length", "norms of single tokens", remedy
            )
        if self.mixer is None:
            return None
        return self.mixer.init_state(batch_size, max_length=max_length, device=device, dtype=dtype)

    def prefill(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: State | None,
        *,
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], State | None]:
        """Any number of tokens from ``state``; arguments and errors as ``Mixer.prefill``."""
        if self.mixer is not None:
            state = self.init_state(x.shape[0], device=x.device, dtype=x.dtype) if state is None else state
            y, state = self.mixer.prefill(self.around_mixer.enter(x, mask), state, mask=mask)
            x = self.around_mixer.leave(x, y, mask)
        return self._feed(x, mask), state

    def step(
        self, x_t: Float[Tensor, "batch d_model"], state: State | None
    ) -> tuple[Float[Tensor, "batch d_model"], State | None]:
        """One token from ``state``; errors as ``Mixer.step``."""
        if self.mixer is not None:
            y_t, state = self.mixer.step(self.around_mixer.enter(x_t), cast(State, state))
            x_t = self.around_mixer.leave(x_t, y_t)
        return self._feed(x_t, None), state

    def _feed(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if not self.has_mlp:
            return zero_padding(x, mask)
        y = self.around_mlp.leave(x, self.mlp(self.around_mlp.enter(x, mask)), mask)
        return zero_padding(y, mask)

    def _check_packing(self) -> None:
        if any(isinstance(m, Sublayer) and not m.norm.per_token for m in self.children()):
            remedy = "take norm='layer', 'rms', 'scale' or 'batch', or pad with a mask"
            raise argument_error(
                "Block.forward", "cu_seqlens with a norm over the length", "norms of single tokens", remedy
            )


def _width(mixer: Mixer | None, d_model: int | None, mlp: str) -> int:
    if mixer is None and (d_model is None or mlp == "none"):
        got = f"no mixer, d_model={d_model} and mlp={mlp!r}"
        raise argument_error("Block", got, "a mixer, or a width and an MLP", "give mixer=, or d_model= and mlp=")
    if mixer is not None and d_model not in (None, mixer.d_model):
        raise argument_error(
            "Block", f"d_model={d_model} for a mixer of {mixer.d_model}", "equal widths", "leave d_model out"
        )
    return mixer.d_model if mixer is not None else cast(int, d_model)
