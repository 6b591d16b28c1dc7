"""Linear layers of one row, as decoding calls them, against torch's, and one token of a Mamba of 130M with either.

The weights of consecutive calls differ, as those of layers do: none is read from the cache. Random weights.
"""

import copy
from collections.abc import Callable
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor

from seqconv import SeqConvConfig, SeqConvForCausalLM
from seqconv.layers.linear import use_torch_linear
from seqconv_kernels import skinny_linear
from seqconv_kernels.skinny_linear.cases import SHAPES, example_inputs

from .measure import interleaved

BEYOND_CACHE = 1 << 28
"""Bytes of weights that are read before one is read again."""
CALLS = 24
"""Of a layer, one after the other, as in a token of that many blocks: a single one is measured cold."""
WEIGHTS = ("float32", "bfloat16", "int8")


def measure(seconds: float) -> list[dict[str, object]]:
    """One row per shape and dtype of the weights, and the token; int8 is compared with torch's float32."""
    names = [name for name in SHAPES if name != "tiny"]
    rows = [_layer(name, weights, seconds) for name in names for weights in WEIGHTS]
    return [*rows, _token(seconds)]


@torch.no_grad()
def _layer(name: str, weights: str, seconds: float) -> dict[str, object]:
    shape = SHAPES[name]
    dtype = torch.bfloat16 if weights == "bfloat16" else torch.float32
    inputs = example_inputs(shape, weights, dtype=dtype, bias=False)
    plain = inputs if weights != "int8" else example_inputs(shape, bias=False)
    run = {
        "seqconv": _over_copies(inputs["weight"], lambda w: skinny_linear(**(inputs | {"weight": w}))),
        "torch": _over_copies(plain["weight"], lambda w: F.linear(plain["x"], w)),
    }
    return {
        "shape": f"{CALLS} calls, {name}, {weights}",
        "direction": "forward",
        "ms": interleaved(run, seconds=seconds),
    }


def _over_copies(weight: Tensor, run: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    """``CALLS`` calls, with one copy of the weight after the other."""
    copies = cycle([weight.clone() for _ in range(max(1, BEYOND_CACHE // weight.nbytes))])

    def calls() -> None:
        for _ in range(CALLS):
            run(next(copies))

    return calls


def _token(seconds: float) -> dict[str, object]:
    """A decoding step of 24 layers of width 768 with 50,280 outputs, with layers of seqconv or of torch."""
    config = SeqConvConfig(vocab_size=50280, hidden_size=768, num_hidden_layers=24, mixer="mamba")
    model = SeqConvForCausalLM(config).eval()
    runs = {"seqconv": _stepper(model), "torch": _stepper(use_torch_linear(copy.deepcopy(model)))}
    return {"shape": "token of Mamba-130M, float32", "direction": "forward", "ms": interleaved(runs, seconds=seconds)}


def _stepper(model: torch.nn.Module) -> Callable[[], None]:
    token = torch.zeros(1, 1, dtype=torch.long)
    with torch.no_grad():
        cache = model(token.expand(1, 4), use_cache=True).past_key_values

    @torch.no_grad()
    def step() -> None:
        model(token, past_key_values=cache, use_cache=True)

    return step
