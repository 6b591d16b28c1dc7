"""The layer ``Mamba2`` of the original: its constructor, parameter names and inference caches.

Every projection is called as a module, so that adapters and quantised layers act. For new models use the mixer
``mamba2`` of seqconv, which takes masks, packed sequences and states as all mixers do.

Source: ``mamba_ssm/modules/mamba2.py`` of state-spaces/mamba at e9594ce1.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...layers.time_step import reset_time_step_bias
from ..arguments import unserved
from ..causal_conv1d import causal_conv1d_update, causal_conv1d_varlen_states
from .layer import Cached, depthwise
from .norms import GatedRMSNorm
from .ssd import NO_LIMIT, mamba_chunk_scan_combined
from .state_update import selective_state_update


class Mamba2(Cached):
    """Mamba-2.

    Args:
        d_model: width of inputs and outputs.
        d_state, d_conv, expand, headdim, ngroups: sizes.
        conv_init: bound of the initial taps, if given.
        d_ssm: channels of the scan; a gated MLP takes the others.
        A_init_range: of -A.
        D_has_hdim: a D per channel.
        rmsnorm, norm_before_gate: the gated norm after the scan.
        dt_min, dt_max, dt_init_floor: initial time steps.
        dt_limit: least and largest time step, of sequences; in single steps too, unlike the original.
        bias, conv_bias: whether the projections and the convolution have biases.
        chunk_size, use_mem_eff_path, sequence_parallel: of the original.
        layer_idx: place in the caches of ``inference_params``.
        process_group: not served.
        device, dtype: of the parameters; D is float32.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        d_conv: int = 4,
        conv_init: float | None = None,
        expand: int = 2,
        headdim: int = 64,
        d_ssm: int | None = None,
        ngroups: int = 1,
        A_init_range: Sequence[float] = (1, 16),
        D_has_hdim: bool = False,
        rmsnorm: bool = True,
        norm_before_gate: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        dt_limit: Sequence[float] = NO_LIMIT,
        bias: bool = False,
        conv_bias: bool = True,
        chunk_size: int = 256,
        use_mem_eff_path: bool = True,
        layer_idx: int | None = None,
        process_group: Any = None,
        sequence_parallel: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        unserved("Mamba2", process_group=process_group)
        self.d_model, self.d_state, self.d_conv, self.expand, self.headdim = d_model, d_state, d_conv, expand, headdim
        self.d_inner = expand * d_model
        self.d_ssm = self.d_inner if d_ssm is None else d_ssm
        if self.d_ssm % headdim:
            got = f"d_ssm={self.d_ssm} and headdim={headdim}"
            raise argument_error("Mamba2", got, "a multiple of headdim", "change either")
        self.ngroups, self.nheads, self.D_has_hdim = ngroups, self.d_ssm // headdim, D_has_hdim
        self.rmsnorm, self.norm_before_gate, self.dt_limit = rmsnorm, norm_before_gate, tuple(dt_limit)
        self.chunk_size, self.use_mem_eff_path, self.layer_idx = chunk_size, use_mem_eff_path, layer_idx
        self._initial = conv_init, tuple(A_init_range), (dt_min, dt_max, dt_init_floor)
        options: Any = {"device": device, "dtype": dtype}
        channels = self.d_ssm + 2 * ngroups * d_state
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner + 2 * ngroups * d_state + self.nheads, bias=bias, **options)
        self.conv1d = depthwise(channels, d_conv, conv_bias, options)
        self.dt_bias, self.A_log = (nn.Parameter(torch.empty(self.nheads, **options)) for _ in range(2))
        skips = self.d_ssm if D_has_hdim else self.nheads
        self.D = nn.Parameter(torch.empty(skips, device=device, dtype=torch.float32))
        group = self.d_ssm // ngroups
        self.norm = GatedRMSNorm(self.d_ssm, 1e-5, group, norm_before_gate, **options) if rmsnorm else None
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **options)
        for parameter in (self.dt_bias, self.A_log, self.D):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """-A uniform in its range, D = 1, time steps log-uniform in their range; projections as torch's."""
        bound, rates, steps = self._initial
        if bound is not None:
            self.conv1d.weight.uniform_(-bound, bound)
        reset_time_step_bias(self.dt_bias, *steps)
        self.A_log.copy_(torch.empty_like(self.A_log, dtype=torch.float32).uniform_(*rates).log())
        self.D.fill_(1.0)

    def forward(
        self,
        u: Tensor,
        seqlen: int | None = None,
        seq_idx: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        inference_params: Any = None,
    ) -> Tensor:
        """Whole sequences, or with ``inference_params`` a prompt and later single tokens.

        Args:
            u: (batch, length, d_model), or (batch * length, d_model) with ``seqlen``.
            seqlen: the length.
            seq_idx: (batch, length), the sequence of each token.
            cu_seqlens: bounds of packed prompts, for the states in ``inference_params``.
            inference_params: of the original.
        """
        flat, u = u, u if seqlen is None else u.unflatten(0, (-1, seqlen))
        sequences = u.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
        states = None if inference_params is None else self.states(inference_params, sequences)
        if states is not None and inference_params.seqlen_offset > 0:
            return self.step(u, *states)[0]
        mlp, z, xBC, dt = self._projected(u)
        packed = states is not None and cu_seqlens is not None
        if states is not None:
            if cu_seqlens is None:
                self.keep_inputs(states[0], xBC.mT)
            else:
                states[0].copy_(causal_conv1d_varlen_states(xBC[0], cu_seqlens, self.d_conv))
        x, B, C = self._split(self.convolved(xBC.mT, seq_idx).mT)
        out: Any = mamba_chunk_scan_combined(
            x, dt, self._A(), B, C, self.chunk_size, self._D(), None if self.rmsnorm else z.unflatten(-1, x.shape[2:]),
            self.dt_bias, None, seq_idx, cu_seqlens if packed else None, True, self.dt_limit, True, packed,
        )  # fmt: skip
        if states is not None:
            states[1].copy_(out[-1])
        return self._output(mlp, z, out[0].flatten(-2)).view(flat.shape)

    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One token, (batch, 1, d_model) in and out; both states are moved on in place."""
        mlp, z, xBC, dt = self._projected(self.one_token(hidden_states))
        xBC = causal_conv1d_update(xBC, conv_state, self.conv1d.weight[:, 0], self.conv1d.bias, "silu")
        x, B, C = self._split(xBC)
        steps = F.softplus(dt.to(torch.promote_types(dt.dtype, torch.float32)) + self.dt_bias).clamp(*self.dt_limit)
        D = self._D()
        y = selective_state_update(
            ssm_state,
            x,
            steps[..., None].expand(x.shape),
            self._A()[:, None, None].expand(-1, self.headdim, self.d_state),
            B,
            C,
            D if D.dim() == 2 else D[:, None].expand(-1, self.headdim),
            None if self.rmsnorm else z.unflatten(-1, x.shape[1:]),
        )
        return self._output(mlp, z, y.flatten(-2))[:, None], conv_state, ssm_state

    def _projected(self, u: Tensor) -> list[Tensor]:
        """Both halves of the MLP, z, the inputs of the convolution and dt."""
        sizes = (2 * (self.d_inner - self.d_ssm), self.d_ssm, self.conv1d.in_channels, self.nheads)
        return list(self.in_proj(u).split(sizes, dim=-1))

    def _split(self, xBC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        state = self.ngroups * self.d_state
        x, B, C = xBC.split([self.d_ssm, state, state], dim=-1)
        groups = (self.ngroups, self.d_state)
        return x.unflatten(-1, (self.nheads, self.headdim)), B.unflatten(-1, groups), C.unflatten(-1, groups)

    def _output(self, mlp: Tensor, z: Tensor, y: Tensor) -> Tensor:
        y = y if self.norm is None else self.norm(y, z)
        gate, value = mlp.chunk(2, dim=-1)
        out: Tensor = self.out_proj(torch.cat([F.silu(gate) * value, y], dim=-1))
        return out

    def _A(self) -> Tensor:
        return -self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)).exp()

    def _D(self) -> Tensor:
        return self.D.view(self.nheads, self.headdim) if self.D_has_hdim else self.D

    def state_shape(self) -> tuple[int, ...]:
        """Of the state of the scan, for one row."""
        return self.nheads, self.headdim, self.d_state
