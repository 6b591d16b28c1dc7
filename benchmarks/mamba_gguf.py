"""A Mamba of transformers as a GGUF file, as llama.cpp reads it: names, layouts and types of its own converter.

Needs the packages ``gguf`` and ``llama_cpp`` (llama-cpp-python), which are no dependencies of seqconv. Matrices get the
type of the file; the small ones (convolution, x and dt projections), vectors and A = -exp(A_log) stay float32, as
llama.cpp's quantiser leaves them.

Source: ``conversion/mamba.py`` and ``src/models/mamba.cpp`` of llama.cpp in llama-cpp-python 0.3.36.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import MambaForCausalLM

TYPES = {"float32": "F32", "bfloat16": "BF16", "int8": "Q8_0"}
"""Weights to types of GGUF."""
LAYER = {
    "norm.weight": "attn_norm.weight",
    "mixer.in_proj.weight": "ssm_in.weight",
    "mixer.conv1d.weight": "ssm_conv1d.weight",
    "mixer.conv1d.bias": "ssm_conv1d.bias",
    "mixer.x_proj.weight": "ssm_x.weight",
    "mixer.dt_proj.weight": "ssm_dt.weight",
    "mixer.dt_proj.bias": "ssm_dt.bias",
    "mixer.A_log": "ssm_a",
    "mixer.D": "ssm_d",
    "mixer.out_proj.weight": "ssm_out.weight",
}
TYPED = ("token_embd.weight", "output.weight", "ssm_in.weight", "ssm_out.weight")


def unavailable() -> str | None:
    """Which package is missing, or ``None``."""
    missing = [name for name in ("gguf", "llama_cpp") if find_spec(name) is None]
    return f"{' and '.join(missing)} cannot be imported" if missing else None


def write(model: MambaForCausalLM, path: Path, weights: str) -> None:
    """Write the weights of a model, whose embeddings are its output layer too."""
    import gguf

    config, writer = model.config, gguf.GGUFWriter(path, "mamba")
    writer.add_context_length(1 << 20)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_ssm_conv_kernel(config.conv_kernel)
    writer.add_ssm_inner_size(config.intermediate_size)
    writer.add_ssm_state_size(config.state_size)
    writer.add_ssm_time_step_rank(config.time_step_rank)
    writer.add_ssm_dt_b_c_rms(False)
    writer.add_layer_norm_rms_eps(config.layer_norm_epsilon)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config.vocab_size)
    kind = gguf.GGMLQuantizationType[TYPES[weights]]
    for name, tensor in _tensors(model):
        data = tensor.detach().float().contiguous().numpy()
        if kind != gguf.GGMLQuantizationType.F32 and name.endswith(TYPED):
            writer.add_tensor(name, gguf.quants.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(model: MambaForCausalLM) -> Iterator[tuple[str, Tensor]]:
    backbone: Any = model.backbone
    yield "token_embd.weight", backbone.embeddings.weight
    yield "output_norm.weight", backbone.norm_f.weight
    for index, layer in enumerate(backbone.layers):
        for name, tensor in layer.state_dict().items():
            value = -tensor.exp() if name == "mixer.A_log" else tensor.squeeze(1) if tensor.dim() == 3 else tensor
            yield f"blk.{index}.{LAYER[name]}", value


class LlamaCpp:
    """A model of llama.cpp that goes on token by token."""

    def __init__(self, path: Path, threads: int, context: int) -> None:
        from llama_cpp import Llama

        self._model = Llama(
            str(path), n_ctx=context, n_threads=threads, n_threads_batch=threads, n_gpu_layers=0, verbose=False
        )

    def __call__(self, tokens: list[int]) -> Tensor:
        """Logits after the tokens: (vocabulary)."""
        import numpy as np

        self._model.eval(tokens)
        pointer: Any = self._model._ctx.get_logits()
        return torch.from_numpy(np.ctypeslib.as_array(pointer, shape=(self._model.n_vocab(),)))

    def reset(self) -> None:
        """Forget all tokens."""
        self._model.reset()
        self._model._ctx.kv_cache_clear()
