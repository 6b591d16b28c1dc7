"""Export to ONNX, whose operators know no complex numbers: the graph is written with real and imaginary parts.

``torch.export`` records the model with every kernel replaced by its form in PyTorch's own operations. An interpreter
of that graph computes complex values as pairs of real ones (:mod:`.pairs`), and ``torch.onnx.export`` records what it
does.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.operator.sizes import portable_operations

from .pairs import PairInterpreter


def export_onnx(model: nn.Module, inputs: Mapping[str, Tensor], **options: Any) -> torch.onnx.ONNXProgram:
    """The model for inputs of these shapes, as ``torch.onnx.export`` gives it; needs onnx and onnxscript.

    Unlike ``torch.onnx.export(model)``, it takes models with complex filters and states as well.

    Args:
        model: a model of transformers' kind; it is exported as it is, in training or evaluation, without a cache.
        inputs: examples, by the names of the arguments of ``forward``; they become the names of the graph's inputs.
        options: of ``torch.onnx.export``.

    Returns:
        A program with the model's outputs by their names (``logits``, …); ``program.save(path)`` writes it.

    Raises:
        ValueError: no inputs; an operation on complex numbers that is not known here.
    """
    if not inputs or not all(isinstance(value, Tensor) for value in inputs.values()):
        got = f"inputs={ {name: type(value).__name__ for name, value in inputs.items()} }"
        raise argument_error("export_onnx", got, "tensors by the names of forward's arguments", "pass input_ids")
    values, recorded = tuple(inputs.values()), _Positional(model, tuple(inputs))
    with torch.no_grad(), portable_operations():
        program = torch.export.export(recorded, values, strict=False).run_decompositions()
    names = {"input_names": list(inputs), "output_names": recorded.outputs.found}
    exported = torch.onnx.export(_RealParts(program), values, dynamo=True, **{"verbose": False, **names, **options})
    assert exported is not None
    return exported


class _Positional(nn.Module):
    """A model with arguments by position that returns the tensors among its outputs, whose names it notes."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names
        self.outputs = _Names()

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        arguments: dict[str, Any] = dict(zip(self.names, values, strict=True))
        if hasattr(getattr(self.model, "config", None), "use_cache"):  # models of images and sound have no cache
            arguments["use_cache"] = False
        outputs = self.model(**arguments, return_dict=True)
        found = {name: value for name, value in outputs.items() if isinstance(value, Tensor)}
        self.outputs.found = list(found)
        return tuple(found.values())


class _Names:
    """Names that are noted while a model is traced, which takes back what is assigned to the model itself."""

    found: list[str]


class _RealParts(nn.Module):
    """An exported program, computed without complex numbers."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.program = program.module(check_guards=False)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = PairInterpreter(self.program).run(*values)
        return outputs
