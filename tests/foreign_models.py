"""Small models of transformers for the tests of whole checkpoints, and their results in float64 throughout."""

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

SIZES = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 4}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}


def small_model(kind: type[PreTrainedModel], folder, **options) -> PreTrainedModel:
    """A model whose parameters are all of one size, saved to the folder."""
    torch.manual_seed(0)
    model = kind(kind.config_class(**{**SIZES, **HEADS, **TOKENS, **options})).eval()
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith("bias") or tensor.requires_grad:
                tensor.add_(0.15 * torch.randn_like(tensor))
    model.save_pretrained(folder)
    return model


def in_float64(monkeypatch, model: PreTrainedModel):
    """The model as a function in float64: its casts to float32 are lifted while it runs."""
    model = model.double()
    model.set_experts_implementation("eager")

    def call(*args, **kwargs):
        with monkeypatch.context() as lifted:
            for name in ("float32", "float"):
                lifted.setattr(torch, name, torch.float64)
            lifted.setattr(torch.Tensor, "float", torch.Tensor.double)
            return model(*args, use_cache=False, **kwargs).logits

    return call


def saved_gradients(model: PreTrainedModel, folder) -> dict[str, torch.Tensor]:
    """Gradients of the parameters under the names that a saved model has."""
    for parameter in model.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")
