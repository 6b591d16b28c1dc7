"""A block over videos: a sequence mixer along time, attention over the places of each frame, an MLP.

Tokens are ordered as (class token, place by place, and for each place its times). With c the class token, repeated for
every time, g a learned gate or 1::

    t = x + tanh(g) mixer(norm_3 x)                       along the times of every place ("joint": along all tokens)
    [c', s] = attention(norm_1 [c, t])                    over the places of every time; c' averaged over the times
    x ← [c, x] + [c', s]      ("divided": [c, t] + [c', s]),        x ← x + mlp(norm_2 x)

Source: Chen et al. 2024, "Video Mamba Suite" (arXiv 2403.09626), and
``egocentric-understanding/avion/models/timemamba.py`` of OpenGVLab/video-mamba-suite at ec9108b7. Without flash
attention that code hands (frame, token) to a module that reads (token, frame): every place then attends to itself in
all frames of the whole batch; ``attention_across_batch`` does so too.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...layers.mlp import MLP
from ...layers.norms import LayerNorm
from ...layers.residual import DropPath
from ...registry import create_mixer

STYLES = ("frozen", "joint", "divided")


class SpaceTimeBlock(nn.Module):
    """Time by a mixer, space by attention.

    Args:
        d_model: width of inputs and outputs.
        places: of a frame.
        num_heads: of the attention.
        mixer, mixer_options: the sequence mixer along time.
        style: ``"frozen"`` (the space part is added to the inputs), ``"joint"`` (the same, the mixer along all tokens)
            or ``"divided"`` (it is added to the time part).
        time_gate: a learned gate of the time part, closed at first.
        mlp_ratio: hidden width of the MLP over the width.
        attention_across_batch: see above.
        dropout: of the attention weights.
        drop_path: probability of leaving out the MLP for a video.

    Raises:
        ValueError: an unknown style, fewer than one place, or as the mixer and the attention.
    """

    def __init__(
        self,
        d_model: int,
        *,
        places: int,
        num_heads: int,
        mixer: str = "vim",
        mixer_options: Mapping[str, Any] | None = None,
        style: str = "frozen",
        time_gate: bool = False,
        mlp_ratio: float = 4.0,
        attention_across_batch: bool = False,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if style not in STYLES:
            raise unknown_name("SpaceTimeBlock", "style", style, STYLES)
        if places < 1:
            raise argument_error("SpaceTimeBlock", f"places={places}", "at least 1", "correct the sizes")
        self.places, self.style, self.attention_across_batch = places, style, attention_across_batch
        self.time_norm, self.space_norm, self.mlp_norm = (LayerNorm(d_model) for _ in range(3))
        self.time = create_mixer(mixer, d_model, **dict(mixer_options or {}))
        self.time_gate = nn.Parameter(torch.empty(())) if time_gate else None
        attention: dict[str, Any] = {"rotary": False, "qkv_bias": True, "o_bias": True, "bidirectional": True}
        self.space = create_mixer("attention", d_model, num_heads=num_heads, dropout=dropout, **attention)
        self.mlp, self.drop_path = MLP(d_model, kind="gelu", hidden=int(d_model * mlp_ratio)), DropPath(drop_path)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Close the gate; the attention as in ``nn.MultiheadAttention``."""
        if isinstance(self.space.qkv_proj, nn.Linear):
            nn.init.xavier_uniform_(self.space.qkv_proj.weight)
        for projection in (self.space.qkv_proj, self.space.o_proj):
            if isinstance(projection, nn.Linear):
                nn.init.zeros_(projection.bias)
        if self.time_gate is not None:
            nn.init.zeros_(self.time_gate)

    def forward(self, x: Float[Tensor, "batch tokens d_model"]) -> Float[Tensor, "batch tokens d_model"]:
        """Mix over time, over space and over channels.

        Raises:
            ValueError: tokens that are not one more than a multiple of the places.
        """
        if x.shape[1] < 1 + self.places or (x.shape[1] - 1) % self.places:
            got, wanted = f"{x.shape[1]} tokens", f"a class token and the {self.places} places of every time"
            raise argument_error("SpaceTimeBlock", got, wanted, "cut the video to whole frames")
        token, cells = x[:, :1], x[:, 1:]
        timed = cells + self._over_time(cells)
        mixed = self._over_space(token, timed)
        x = (torch.cat([token, timed], dim=1) if self.style == "divided" else x) + mixed
        y: Tensor = x + self.drop_path(self.mlp(self.mlp_norm(x)))
        return y

    def _over_time(self, cells: Tensor) -> Tensor:
        normed = self.time_norm(cells)
        if self.style == "joint":
            mixed = self.time(normed)
        else:
            rows = normed.unflatten(1, (self.places, -1))
            mixed = self.time(rows.flatten(0, 1)).view(cells.shape)
        gated: Tensor = mixed if self.time_gate is None else self.time_gate.tanh() * mixed
        return gated

    def _over_space(self, token: Tensor, cells: Tensor) -> Tensor:
        """(batch, tokens, d_model), the class token first."""
        frames = cells.unflatten(1, (self.places, -1)).transpose(1, 2)  # (batch, times, places, d_model)
        batch, times = frames.shape[:2]
        frames = torch.cat([token[:, None].expand(-1, times, -1, -1), frames], dim=2).flatten(0, 1)
        frames = self.space_norm(frames)
        if self.attention_across_batch:
            mixed = self.space(frames.transpose(0, 1)).transpose(0, 1)
        else:
            mixed = self.space(frames)
        mixed = mixed.unflatten(0, (batch, times))
        places = mixed[:, :, 1:].transpose(1, 2).flatten(1, 2)
        return torch.cat([mixed[:, :, 0].mean(1, keepdim=True), places], dim=1)
