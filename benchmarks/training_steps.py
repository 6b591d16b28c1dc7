"""A training step of whole layers against the PyTorch code that they are equal to: batch 8, 2,048 tokens, width 256.

The originals are modules of transformers, in the paths that run without a GPU, and files of other projects below
:data:`FOLDER`, if they are there (``owner/repository/path``, as the importers name them)::

    mkdir -p outputs/originals/HazyResearch/safari outputs/originals/state-spaces/s4
    # then put standalone_hyena.py, and models/s4/s4d.py with src/models/nn, into them

Each original's weights are imported, and nothing is timed unless outputs and the gradients of the inputs agree. Then
both sides run in turn: forward, and backward to every parameter and the input.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from seqconv import from_original

from .measure import check_close, interleaved

FOLDER = Path(os.environ.get("SEQCONV_ORIGINALS", "outputs/originals"))
SIZES = (8, 2048, 256)
"""Batch, tokens, width."""
TOLERANCE = 1e-3
"""Between both sides in float32, as a part of the largest magnitude: recurrences of 2,048 steps add up rounding."""

STANDARD_DEVIATION = 0.1
"""Of the parameters of transformers' layers."""

Layer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Original:
    """One original layer.

    Attributes:
        name: of the importer.
        build: the layer for a width.
        hyper: what the importer takes, for a width.
        call: its forward pass on (batch, length, width).
        file: below :data:`FOLDER`; ``None``: a layer of transformers.
    """

    name: str
    build: Callable[[int], nn.Module]
    hyper: Callable[[int], Mapping[str, Any]]
    call: Callable[[nn.Module, Tensor], Tensor] = lambda module, x: _first(module(x))
    file: str | None = field(default=None)


def measure(seconds: float) -> list[dict[str, object]]:
    """One row per original that can be built."""
    return [row(original, SIZES, seconds) for original in available()]


def available() -> Iterator[Original]:
    """The originals of transformers, and those whose files are there."""
    yield from (original for original in ORIGINALS if original.file is None or (FOLDER / original.file).exists())


def row(original: Original, sizes: tuple[int, int, int], seconds: float) -> dict[str, object]:
    """Check that both sides agree, then time them in turn."""
    batch, length, width = sizes
    layer, seqconv, x = pair(original, sizes)
    calls = {"seqconv": training_step(seqconv, seqconv, x), "original": training_step(layer[0], layer[1], x)}
    check_agreement(original.name, calls)
    ms = interleaved(calls, seconds=seconds)
    shape = f"{original.name.rpartition(':')[2]}, {batch} x {length:,} x {width}"
    return {"shape": shape, "direction": "training step", "original": original.name, "ms": ms}


def pair(original: Original, sizes: tuple[int, int, int]) -> tuple[tuple[nn.Module, Layer], nn.Module, Tensor]:
    """The original and its forward pass, seqconv's module with its weights, and inputs; both in training mode."""
    torch.manual_seed(0)
    layer = original.build(sizes[2])
    hyper = original.hyper(sizes[2])
    seqconv = from_original(original.name, layer.state_dict(), **hyper).train()
    return (layer.train(), lambda x: original.call(layer, x)), seqconv, torch.randn(sizes)


def training_step(module: nn.Module, forward: Layer, x: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """Forward and backward: the output, and the gradients of the input and of every parameter that has one."""
    leaf = x.clone().requires_grad_()
    parameters = [p for p in module.parameters() if p.requires_grad]
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))

    def call() -> tuple[Tensor, ...]:
        y = forward(leaf)
        found = torch.autograd.grad(y, [leaf, *parameters], weight, allow_unused=True)
        return (y, *(g for g in found if g is not None))

    return call


def check_agreement(name: str, calls: Mapping[str, Callable[[], tuple[Tensor, ...]]]) -> None:
    """Outputs and gradients of the inputs; parameters differ in names and layouts, and the tests compare those.

    Raises:
        RuntimeError: they differ by more than :data:`TOLERANCE`.
    """
    own, other = (calls[side]()[:2] for side in ("seqconv", "original"))
    for got, want in zip(own, other, strict=True):
        check_close(name, got, want, TOLERANCE)


def _first(outputs: Any) -> Tensor:
    first: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
    return first


def _hf(model: str, layer: str, config: str, **options: Any) -> Callable[[int], nn.Module]:
    """Builds the first such layer of a model of transformers."""

    def build(width: int) -> nn.Module:
        configuration = getattr(import_module(f"transformers.models.{model}.configuration_{model}"), config)
        kind = getattr(import_module(f"transformers.models.{model}.modeling_{model}"), layer)
        built: nn.Module = kind(configuration(**{**options, **_width(config, width)}), 0)
        for parameter in built.parameters():  # some are left to the model's own initialisation
            nn.init.normal_(parameter, std=STANDARD_DEVIATION)
        return built

    return build


def _width(config: str, width: int) -> dict[str, int]:
    return {"hidden_size": width} | ({"lru_width": width} if config == "RecurrentGemmaConfig" else {})


def _sizes(**options: Any) -> Callable[[int], Mapping[str, Any]]:
    return lambda width: {"hidden_size": width, **options}


def _file(path: str) -> ModuleType:
    """A module from a file below :data:`FOLDER`, whose repository is importable while it loads."""
    repository = str(FOLDER.joinpath(*Path(path).parts[:2]).resolve())
    spec = spec_from_file_location(Path(path).stem, FOLDER / path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.path.insert(0, repository)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(repository)
    return module


def _positions(layer: nn.Module, x: Tensor) -> Tensor:
    positions = torch.arange(x.shape[1]).expand(x.shape[0], -1)
    return _first(layer(x, positions, None, use_cache=False))


def _lightning(layer: nn.Module, x: Tensor) -> Tensor:
    return _first(layer(x, position_embeddings=None, attention_mask=None))


DELTA = {
    "linear_num_key_heads": 4, "linear_num_value_heads": 4, "linear_key_head_dim": 64, "linear_value_head_dim": 64,
    "linear_conv_kernel_dim": 4,
}  # fmt: skip
KIMI = {"linear_num_heads": 4, "linear_head_dim": 64, "linear_conv_kernel_dim": 4}
MINIMAX = {"num_attention_heads": 4, "head_dim": 64, "num_hidden_layers": 4, "hidden_act": "silu", "block_size": 256}
HYENA, S4D = "HazyResearch/safari/standalone_hyena.py", "state-spaces/s4/models/s4/s4d.py"
HYENA_OPTIONS = {"l_max": SIZES[1], "order": 2, "filter_order": 64}
ORIGINALS = (
    Original(
        "huggingface/transformers:Qwen3NextGatedDeltaNet",
        _hf("qwen3_next", "Qwen3NextGatedDeltaNet", "Qwen3NextConfig", **DELTA),
        _sizes(**DELTA),
    ),
    Original(
        "huggingface/transformers:OlmoHybridGatedDeltaNet",
        _hf("olmo_hybrid", "OlmoHybridGatedDeltaNet", "OlmoHybridConfig", **DELTA),
        _sizes(**DELTA),
    ),
    Original(
        "huggingface/transformers:Lfm2ShortConv",
        _hf("lfm2", "Lfm2ShortConv", "Lfm2Config", conv_L_cache=3, conv_bias=False),
        _sizes(conv_L_cache=3, conv_bias=False),
    ),
    Original(
        "huggingface/transformers:RecurrentGemmaRecurrentBlock",
        _hf("recurrent_gemma", "RecurrentGemmaRecurrentBlock", "RecurrentGemmaConfig", num_attention_heads=4),
        lambda width: {"hidden_size": width, "lru_width": width, "num_attention_heads": 4},
        _positions,
    ),
    Original("huggingface/transformers:RwkvSelfAttention", _hf("rwkv", "RwkvSelfAttention", "RwkvConfig"), _sizes()),
    Original(
        "huggingface/transformers:KimiLinearDeltaAttention",
        _hf("kimi_linear", "KimiLinearDeltaAttention", "KimiLinearConfig", **KIMI),
        _sizes(**KIMI),
    ),
    Original(
        "huggingface/transformers:MiniMaxLightningAttention",
        _hf("minimax", "MiniMaxLightningAttention", "MiniMaxConfig", num_key_value_heads=4, **MINIMAX),
        _sizes(layer_idx=0, **MINIMAX),
        _lightning,
    ),
    Original(
        "HazyResearch/safari:standalone_hyena.HyenaOperator",
        lambda width: _file(HYENA).HyenaOperator(width, **HYENA_OPTIONS),
        lambda width: {"d_model": width, **HYENA_OPTIONS},
        file=HYENA,
    ),
    Original(
        "state-spaces/s4:S4D",
        lambda width: _file(S4D).S4D(width, d_state=64, transposed=False),
        lambda width: {"d_model": width, "d_state": 64, "transposed": False},
        file=S4D,
    ),
)
