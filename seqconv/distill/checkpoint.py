"""Writing a distilled model: a checkpoint that the Auto classes load, with its certificates.

Next to the weights it writes ``certificates.safetensors`` (every tensor of every certificate, ``<name>/<field>``),
``distillation.json`` (tolerance, notes, divergences) and ``distillation.txt`` (the table).
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ..hf.saving.atomic_save import written_whole
from .certificates.certificate import Certificate
from .model import DistilledModel

CERTIFICATES = "certificates.safetensors"
SUMMARY = "distillation.json"
TABLE = "distillation.txt"


def save_distilled(distilled: DistilledModel, folder: str | os.PathLike[str], *, tokenizer: Any = None) -> None:
    """Write model, certificates and tables into ``folder``: all of it, or nothing.

    Raises:
        ValueError: the distilled module is no transformers model.
    """
    model: Any = distilled.model
    if not hasattr(model, "save_pretrained"):
        remedy = "save its state_dict and the sizes of seqconv.convolution.replacement.modal_sizes"
        raise argument_error("save_distilled", type(model).__name__, "a SeqConv model", remedy)
    with written_whole(folder) as partial:
        model.save_pretrained(partial)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
        tensors = {
            f"{name}/{field}": tensor.to(torch.int64) if tensor.dtype == torch.bool else tensor
            for name, certificate in distilled.certificates.items()
            for field, tensor in certificate.tensors().items()
        }
        save_file(tensors, partial / CERTIFICATES)
        (partial / SUMMARY).write_text(json.dumps(_summary(distilled), indent=2) + "\n")
        (partial / TABLE).write_text(f"{distilled}\n")


def load_certificates(folder: str | os.PathLike[str]) -> dict[str, Certificate]:
    """The certificates of a distilled checkpoint, by the name of their convolution.

    Raises:
        ValueError: the folder holds none.
    """
    path = Path(folder)
    if not (path / CERTIFICATES).is_file() or not (path / SUMMARY).is_file():
        remedy = "pass a folder written by `seqconv distill` or save_distilled"
        raise argument_error(
            "load_certificates", f"{str(path)!r} without {CERTIFICATES}", "a distilled checkpoint", remedy
        )
    grouped: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(path / CERTIFICATES).items():
        name, field = key.rsplit("/", 1)
        grouped.setdefault(name, {})[field] = tensor.bool() if field == "met" else tensor
    words = json.loads((path / SUMMARY).read_text())["certificates"]
    return {
        name: Certificate(**tensors, tolerance=words[name]["tolerance"], notes=tuple(words[name]["notes"]))
        for name, tensors in grouped.items()
    }


def _summary(distilled: DistilledModel) -> dict[str, Any]:
    words = {n: {"tolerance": c.tolerance, "notes": list(c.notes)} for n, c in distilled.certificates.items()}
    return {
        "certificates": words,
        "kept": list(distilled.kept),
        "predicted_kl": distilled.predicted_kl,
        "measured_kl": distilled.measured_kl,
        "states": distilled.states,
        "convolutions": list(distilled.convolutions),
        "channels": list(distilled.channels),
    }
