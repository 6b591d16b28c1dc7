"""Numbers of the original implementations: reading a case, and holding an importer to its values and gradients."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from seqconv.interop.importer import Weights, get_importer

STATISTICS = ("running_mean", "running_var")
"""Names of the buffers of batch norms, which have no gradient."""

GOLDEN = Path(__file__).parent / "golden"


@dataclass
class Case:
    """One case; the tensors are grouped by the prefix of their names in the file."""

    name: str
    meta: dict[str, Any]
    tensors: dict[str, Tensor] = field(repr=False)

    @property
    def hyper(self) -> dict[str, Any]:
        return dict(self.meta["hyper"])

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Tensors named ``prefix.*``, without the prefix."""
        return {k[len(prefix) + 1 :]: v.clone() for k, v in self.tensors.items() if k.startswith(prefix + ".")}

    def complex(self, name: str) -> Tensor:
        """A tensor stored as (..., 2)."""
        return torch.view_as_complex(self.tensors[name].clone())


def load_case(name: str) -> Case:
    """A case of ``tests/golden/<name>`` (case.json and case.safetensors)."""
    folder = GOLDEN / name
    return Case(name, json.loads((folder / "case.json").read_text()), load_file(folder / "case.safetensors"))


def load_variant(folder: str, variant: str) -> Case:
    """A variant of ``tests/golden/<folder>``, whose case.json lists several files."""
    meta = json.loads((GOLDEN / folder / "case.json").read_text())["variants"][variant]
    return Case(f"{folder}/{variant}", meta, load_file(GOLDEN / folder / meta["file"]))


class Imported:
    """An original's parameters as leaves, our module, and our weights as differentiable functions of the leaves."""

    def __init__(self, original: str, params: dict[str, Tensor], hyper: dict[str, Any], dtype=torch.float64) -> None:
        importer = get_importer(original)
        wide = {k: v.to(dtype) if v.is_floating_point() else v for k, v in params.items()}
        self.leaves = {
            k: v.requires_grad_(v.is_floating_point() and not k.endswith(STATISTICS)) for k, v in wide.items()
        }
        weights = Weights(original, self.leaves)
        hyper = importer.infer(weights) | hyper
        self.module: nn.Module = importer.build(**hyper).to(dtype).eval()
        self.weights = importer.convert(weights, hyper)
        assert weights.left_over() == []
        expected = self.module.state_dict()
        assert set(self.weights) == set(expected), set(self.weights) ^ set(expected)
        assert {k: v.shape for k, v in self.weights.items()} == {k: v.shape for k, v in expected.items()}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return torch.func.functional_call(self.module, self.weights, args, kwargs)

    def gradients(self) -> dict[str, Tensor]:
        """Gradients by the original's names, of the leaves that the loss reached."""
        return {k: v.grad for k, v in self.leaves.items() if v.grad is not None}


def assert_close(got: Tensor, want: Tensor, rtol: float, atol: float, what: str = "") -> None:
    """``torch.testing.assert_close`` with a name in front of its message."""
    torch.testing.assert_close(got.to(want.dtype), want, rtol=rtol, atol=atol, msg=lambda m: f"{what}: {m}")


def check_gradients(
    imported: Imported, want: dict[str, Tensor], rtol: float, atol: float, *, rename: Callable[[str], str] = lambda k: k
) -> None:
    """Every gradient stored in the case equals seqconv's."""
    got = imported.gradients()
    assert want, "a case without gradients"
    for name, tensor in want.items():
        assert rename(name) in got, f"no gradient reached {name}"
        assert_close(got[rename(name)], tensor, rtol, atol, f"gradient of {name}")
