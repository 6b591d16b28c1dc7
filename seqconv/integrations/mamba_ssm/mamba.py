"""The layer ``Mamba`` of the original: its constructor, parameter names and inference caches.

Every projection is called as a module, so that adapters and quantised layers act. For new models use the mixer
``mamba`` of seqconv, which takes masks, packed sequences and states as all mixers do.

Source: ``mamba_ssm/modules/mamba_simple.py`` of state-spaces/mamba at e9594ce1.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...layers.time_step import reset_rates, reset_time_step_bias, time_step_rank
from ..causal_conv1d import causal_conv1d_update
from .layer import Cached, depthwise
from .selective_scan import selective_scan_fn
from .state_update import selective_state_update


class Mamba(Cached):
    """Mamba-1.

    Args:
        d_model: width of inputs and outputs.
        d_state, d_conv, expand, dt_rank: sizes; ``"auto"`` is ⌈d_model / 16⌉.
        dt_min, dt_max, dt_init, dt_scale, dt_init_floor: initial time steps.
        conv_bias, bias: whether the convolution and the projections have biases.
        use_fast_path: of the original; one path serves here.
        layer_idx: place in the caches of ``inference_params``.
        device, dtype: of the parameters; A and D are float32.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int | float = 2,
        dt_rank: int | Literal["auto"] = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        use_fast_path: bool = True,
        layer_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if dt_init not in ("random", "constant"):
            raise argument_error("Mamba", f"dt_init={dt_init!r}", "'random' or 'constant'", "take one of them")
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner = int(expand * d_model)
        self.dt_rank = time_step_rank(d_model, dt_rank)
        self.use_fast_path, self.layer_idx = use_fast_path, layer_idx
        self._initial = dt_init, dt_scale * self.dt_rank**-0.5, (dt_min, dt_max, dt_init_floor)
        options: Any = {"device": device, "dtype": dtype}
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias, **options)
        self.conv1d = depthwise(self.d_inner, d_conv, conv_bias, options)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False, **options)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner, **options)
        self.A_log = nn.Parameter(torch.empty(self.d_inner, d_state, device=device, dtype=torch.float32))
        self.D = nn.Parameter(torch.empty(self.d_inner, device=device, dtype=torch.float32))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **options)
        self.A_log._no_weight_decay = self.D._no_weight_decay = True  # type: ignore[attr-defined]
        # Models of the original set all other biases of projections to zero.
        self.dt_proj.bias._no_reinit = True  # type: ignore[attr-defined]
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A = -(1 .. d_state), D = 1, time steps log-uniform in their range; projections as torch's."""
        kind, bound, steps = self._initial
        if kind == "constant":
            self.dt_proj.weight.fill_(bound)
        else:
            self.dt_proj.weight.uniform_(-bound, bound)
        reset_time_step_bias(self.dt_proj.bias, *steps)
        reset_rates(self.A_log)
        self.D.fill_(1.0)

    def forward(self, hidden_states: Tensor, inference_params: Any = None) -> Tensor:
        """(batch, length, d_model) in and out; with ``inference_params`` a prompt, later single tokens."""
        states = None if inference_params is None else self.states(inference_params, hidden_states.shape[0])
        if states is not None and inference_params.seqlen_offset > 0:
            return self.step(hidden_states, *states)[0]
        x, z = self.in_proj(hidden_states).mT.chunk(2, dim=1)
        if states is not None:
            self.keep_inputs(states[0], x)
        x = self.convolved(x)
        dt, B, C = self._selection(x.mT)
        y: Any = selective_scan_fn(x, dt.mT, self._A(), B.mT, C.mT, self.D, z, None, True, return_last_state=True)
        if states is not None:
            states[1].copy_(y[1])
        out: Tensor = self.out_proj(y[0].mT)
        return out

    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One token, (batch, 1, d_model) in and out; both states are moved on in place."""
        x, z = self.in_proj(self.one_token(hidden_states)).chunk(2, dim=-1)
        x = causal_conv1d_update(x, conv_state, self.conv1d.weight[:, 0], self.conv1d.bias, "silu")
        dt, B, C = self._selection(x)
        y = selective_state_update(ssm_state, x, dt, self._A(), B, C, self.D, z, dt_softplus=True)
        return self.out_proj(y)[:, None], conv_state, ssm_state

    def _selection(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Time step before the softplus, B and C of every token."""
        low, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        return self.dt_proj(low), B, C

    def _A(self) -> Tensor:
        return -self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)).exp()

    def state_shape(self) -> tuple[int, ...]:
        """Of the state of the scan, for one row."""
        return self.d_inner, self.d_state
