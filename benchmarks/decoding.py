"""One token, and a prompt, of whole models: a Mamba of 130M parameters and one of GPT-2's size, against their peers.

The Mamba has one set of random weights in float32, bfloat16 and int8, in seqconv, in transformers (as it is, and on
seqconv by ``seqconv.accelerate``) and in llama.cpp; nothing is timed unless the logits agree. llama.cpp is left out,
and said to be, where the packages ``llama_cpp`` and ``gguf`` cannot be imported::

    pip install --target FOLDER llama-cpp-python gguf
    PYTHONPATH=FOLDER python -m benchmarks decoding --threads 2

The attention models have random weights of their own; both read a context of :data:`CONTEXT` tokens.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM, logging

import seqconv
from seqconv import SeqConvConfig, SeqConvForCausalLM
from seqconv.interop import load_checkpoint

from . import mamba_gguf
from .measure import interleaved

Run = Callable[[], object]


@dataclass(frozen=True)
class Sizes:
    """Of the Mamba and of the attention model.

    Attributes:
        vocabulary, width, layers: of both.
        prompt: tokens of the prefill.
    """

    vocabulary: int = 50280
    width: int = 768
    layers: int = 24
    prompt: int = 1024


CONTEXT = 64
ROUNDS = 4
"""Times the seconds of a row that the tokens of all Mamba models are measured for, since there are nine of them."""
OUTPUT_SCALE = 0.0003
"""Of the layers' outputs, so that they are about as large as the embeddings: initial weights amplify rounding."""
TOLERANCES = {"float32": 2e-3, "bfloat16": 5e-2, "int8": 5e-2}
"""Between logits, as a part of the largest magnitude, for random weights."""


def measure(seconds: float, sizes: Sizes | None = None) -> list[dict[str, Any]]:
    """Rows of the Mamba by the dtype of its weights, of its prefill, and of the attention model."""
    sizes = sizes or Sizes()
    logging.set_verbosity_error()
    torch.manual_seed(0)
    if (missing := mamba_gguf.unavailable()) is not None:
        print(f"llama.cpp is left out: {missing}", flush=True)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        rows = [*_mamba(Path(folder), sizes, seconds), _attention(sizes, seconds)]
    return rows


def _mamba(folder: Path, sizes: Sizes, seconds: float) -> Iterator[dict[str, Any]]:
    config = MambaConfig(vocab_size=sizes.vocabulary, hidden_size=sizes.width, num_hidden_layers=sizes.layers)
    stock = MambaForCausalLM(config).eval()
    for layer in stock.backbone.layers:
        layer.mixer.out_proj.weight.mul_(OUTPUT_SCALE)
    stock.save_pretrained(folder)
    own = load_checkpoint(folder)
    models = {
        "seqconv, float32": own,
        "seqconv, bfloat16": copy.deepcopy(own).bfloat16(),
        "seqconv, int8": seqconv.quantize(copy.deepcopy(own), bits=8),
        "transformers, float32": stock,
        "transformers on seqconv, float32": copy.deepcopy(stock),
        "transformers, bfloat16": copy.deepcopy(stock).bfloat16(),
    }
    seqconv.accelerate(models["transformers on seqconv, float32"])
    steps = {name: _Stepper(model) for name, model in models.items()}
    if mamba_gguf.unavailable() is None:
        for weights in mamba_gguf.TYPES:
            mamba_gguf.write(stock, folder / f"{weights}.gguf", weights)
            steps[f"llama.cpp, {weights}"] = _Llama(folder / f"{weights}.gguf", sizes.prompt + 4096)
    _check(steps, sizes)
    ms = interleaved(dict(steps), seconds=ROUNDS * seconds)
    for weights in TOLERANCES:
        kept = {name.removesuffix(f", {weights}"): time for name, time in ms.items() if name.endswith(weights)}
        if weights == "int8":
            kept["transformers, float32"] = ms["transformers, float32"]
        yield {"shape": f"Mamba-130M, {weights}", "direction": "token", "ms": kept}
    prompt = torch.randint(sizes.vocabulary, (sizes.prompt,)).tolist()
    wide = {name: step for name, step in steps.items() if name.endswith("float32")}
    runs = {name.removesuffix(", float32"): _prefill(step, prompt) for name, step in wide.items()}
    yield {"shape": "Mamba-130M, float32", "direction": "prefill", "ms": interleaved(runs, seconds=seconds)}


class _Stepper:
    """A model of transformers' protocol and its cache; a call reads one token."""

    def __init__(self, model: Any) -> None:
        self._model, self._cache = model, None
        self._name = "cache_params" if isinstance(model, MambaForCausalLM) else "past_key_values"

    def read(self, tokens: list[int]) -> Tensor:
        """Logits after the tokens, from the beginning of a text."""
        self._cache = None
        return self._run(torch.tensor([tokens]))

    def _run(self, ids: Tensor) -> Tensor:
        out = self._model(ids, **{self._name: self._cache}, use_cache=True, logits_to_keep=1)
        self._cache = getattr(out, self._name)
        logits: Tensor = out.logits[0, -1].float()
        return logits

    def __call__(self) -> None:
        with torch.no_grad():
            self._run(torch.zeros(1, 1, dtype=torch.long))


class _Llama:
    """The same of llama.cpp."""

    def __init__(self, path: Path, context: int) -> None:
        self._model = mamba_gguf.LlamaCpp(path, torch.get_num_threads(), context)

    def read(self, tokens: list[int]) -> Tensor:
        """Logits after the tokens, from the beginning of a text."""
        self._model.reset()
        return self._model(tokens).clone()

    def __call__(self) -> None:
        self._model([0])


def _prefill(step: Any, prompt: list[int]) -> Run:
    return lambda: step.read(prompt)


def _check(steps: dict[str, Any], sizes: Sizes) -> None:
    """Compare logits with those of transformers in float32, and leave every model after the same tokens.

    Raises:
        ValueError: logits that differ by more than the weights explain.
    """
    tokens = torch.randint(sizes.vocabulary, (8,)).tolist()
    want = steps["transformers, float32"].read(tokens)
    for name, step in steps.items():
        error = (step.read(tokens) - want).abs().max() / want.abs().max()
        if not error <= TOLERANCES[name.rpartition(", ")[2]]:
            raise ValueError(f"{name}: logits differ by {error:.1e} of the largest")


def _attention(sizes: Sizes, seconds: float) -> dict[str, Any]:
    """A model of GPT-2's size: half as many layers as the Mamba, with an MLP each."""
    layers, heads = sizes.layers // 2, max(sizes.width // 64, 1)
    config = SeqConvConfig(
        vocab_size=sizes.vocabulary, hidden_size=sizes.width, num_hidden_layers=layers, mixer="attention",
        mixer_options={"num_heads": heads}, mlp="gelu", position_embedding="learned", max_position_embeddings=1 << 14,
    )  # fmt: skip
    peer = GPT2Config(
        vocab_size=sizes.vocabulary, n_embd=sizes.width, n_layer=layers, n_head=heads, n_positions=1 << 14
    )
    runs = {
        "seqconv": _Stepper(SeqConvForCausalLM(config).eval()),
        "transformers": _Stepper(GPT2LMHeadModel(peer).eval()),
    }
    for run in runs.values():
        run.read([0] * CONTEXT)
    return {"shape": "GPT-2's size, float32", "direction": "token", "ms": interleaved(dict(runs), seconds=seconds)}
