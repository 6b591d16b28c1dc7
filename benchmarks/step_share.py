"""What distilled convolutions cost of a token: a Hyena language model of 24 layers, width 768, writing one sequence.

Every long filter is the ModalFilter that distilling a filter of the model to order 16 gives (one for all layers: what
it holds does not change the work). The share is the time inside ``LongConvolution.step``, all layers together and
clocks included, over the time of the whole token, measured in the same tokens, so with the caches as they are in use.
The vocabulary is bytes: with a larger one a token would take longer and the share be smaller.
"""

import statistics
import time

import torch
from torch import Tensor, nn

from seqconv import SeqConvConfig, SeqConvForCausalLM
from seqconv.convolution.long_convolution import LongConvolution
from seqconv.convolution.replacement import long_convolutions, replace_filter
from seqconv.distill import distill_filter
from seqconv.state import State

LAYERS, WIDTH, ORDER, REACH = 24, 768, 16, 1024
HEADS = (1, 64)
"""Exact taps in front of the modes."""


class _Timed(nn.Module):
    """Decodes like the convolution inside and adds up the seconds."""

    def __init__(self, inner: LongConvolution) -> None:
        super().__init__()
        self.inner, self.seconds = inner, 0.0

    def init_states(self, batch_size: int, max_length: int | None = None) -> tuple[State, ...]:
        return self.inner.init_states(batch_size, max_length)

    def prefill(self, u: Tensor, state: State, *, skip: Tensor | None = None) -> tuple[Tensor, State]:
        return self.inner.prefill(u, state, skip=skip)

    def step(self, u_t: Tensor, state: State, *, skip: Tensor | None = None) -> tuple[Tensor, State]:
        start = time.perf_counter()
        result = self.inner.step(u_t, state, skip=skip)
        self.seconds += time.perf_counter() - start
        return result


def measure(seconds: float) -> list[dict[str, object]]:
    """One row per length of the exact head."""
    torch.manual_seed(0)
    model = _model()
    with torch.no_grad():
        taps = long_convolutions(model)["model.backbone.blocks.0.mixer.convolution"].filter(REACH)
    rows = []
    for head in HEADS:
        filter = distill_filter(taps, ORDER, fir_head=head).filter
        for name in long_convolutions(model):
            replace_filter(model, name, filter)
        inside, whole = _token(model, seconds)
        rows.append({
            "shape": f"{LAYERS} layers of width {WIDTH}, order {ORDER}, {head} exact taps",
            "direction": "one token",
            "ms": {"seqconv": 1e3 * inside, "whole token": 1e3 * whole},
            "share": inside / whole,
            "microseconds per layer": 1e6 * inside / LAYERS,
        })  # fmt: skip
    return rows


def _model() -> SeqConvForCausalLM:
    options = {"l_max": REACH, "emb_dim": 33, "w": 10.0}
    config = SeqConvConfig(
        vocab_size=258, hidden_size=WIDTH, num_hidden_layers=LAYERS, mixer="hyena", mixer_options=options, mlp="gelu",
        mlp_ratio=4.0, eos_token_id=256, pad_token_id=257,
    )  # fmt: skip
    return SeqConvForCausalLM(config).eval()


@torch.no_grad()
def _token(model: SeqConvForCausalLM, seconds: float, tokens: int = 16) -> tuple[float, float]:
    """Seconds inside the convolutions and of the whole token: medians over runs of ``tokens``."""
    parents = [m for m in model.modules() if isinstance(getattr(m, "convolution", None), LongConvolution)]
    timed = [_Timed(parent.convolution) for parent in parents]
    ids = torch.randint(0, 256, (1, 1), generator=torch.Generator().manual_seed(0))
    cache = model(input_ids=ids.expand(1, 32), use_cache=True).past_key_values
    for parent, clocked in zip(parents, timed, strict=True):
        parent.convolution = clocked
    inside, whole, end = [], [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(whole) < 4:
        for clocked in timed:
            clocked.seconds = 0.0
        start = time.perf_counter()
        for _ in range(tokens):
            cache = model(input_ids=ids, past_key_values=cache, use_cache=True).past_key_values
        whole.append((time.perf_counter() - start) / tokens)
        inside.append(sum(clocked.seconds for clocked in timed) / tokens)
    for parent, clocked in zip(parents, timed, strict=True):
        parent.convolution = clocked.inner
    return statistics.median(inside[1:]), statistics.median(whole[1:])
