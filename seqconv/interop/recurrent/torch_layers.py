"""Reading torch's own recurrent layers: ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN`` of one layer and one direction.

Compared in numbers with torch 2.13. The two biases of a gate are one where they only ever occur as a sum, which is
everywhere but in the GRU. Layers are stacked by a backbone here; two directions whose outputs are concatenated, and
projected hidden states, are not supported.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...mixers.recurrent.elman import Elman
from ...mixers.recurrent.gru import GRU
from ...mixers.recurrent.lstm import LSTM
from ...mixers.recurrent.recurrent_layer import RecurrentLayer
from ..importer import Weights, add_importer, options

DEFAULTS = {
    "input_size": ..., "hidden_size": ..., "num_layers": 1, "bias": True, "dropout": 0.0, "bidirectional": False,
    "proj_size": 0, "nonlinearity": "tanh",
}  # fmt: skip
IGNORED = ("batch_first", "device", "dtype")
SUPPORTED = {"num_layers": 1, "bidirectional": False, "proj_size": 0, "nonlinearity": "tanh"}


def _read(original: str, hyper: Mapping[str, Any]) -> Any:
    o = options(original, hyper, DEFAULTS, IGNORED)
    for name, wanted in (SUPPORTED | {"input_size": o.hidden_size}).items():
        if getattr(o, name) != wanted:
            got, remedy = f"{name}={getattr(o, name)!r}", "import the layers one by one, each as wide as its input"
            raise argument_error(f"from_original({original!r})", got, f"{wanted!r}", remedy)
    return o


def _build(original: str, kind: type[RecurrentLayer], **hyper: Any) -> RecurrentLayer:
    o = _read(original, hyper)
    return kind(o.hidden_size, num_heads=1, bias=o.bias)


def _convert(original: str, kind: type[RecurrentLayer], w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    o = _read(original, hyper)

    def per_gate(name: str) -> Tensor:
        tensor: Tensor = w.take(name).unflatten(0, (-1, 1, o.hidden_size))
        return tensor

    found = {"in_proj.weight": w.take("weight_ih_l0"), "recurrent_weight": per_gate("weight_hh_l0")}
    if not o.bias:
        return found
    if kind.recurrent_bias_apart:
        return found | {"in_proj.bias": w.take("bias_ih_l0"), "recurrent_bias": per_gate("bias_hh_l0")}
    return found | {"in_proj.bias": w.take("bias_ih_l0") + w.take("bias_hh_l0")}


_LAYERS: tuple[tuple[str, type[RecurrentLayer]], ...] = (("LSTM", LSTM), ("GRU", GRU), ("RNN", Elman))
for _name, _kind in _LAYERS:
    _original = f"pytorch/pytorch:{_name}"
    _make: Callable[..., RecurrentLayer] = partial(_build, _original, _kind)
    add_importer(
        _original, f"pytorch/pytorch:torch.nn.{_name}", build=_make, convert=partial(_convert, _original, _kind)
    )
