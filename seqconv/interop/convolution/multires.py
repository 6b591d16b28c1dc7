"""thjashin/multires-conv: the layer ``MultiresLayer`` and the classifier ``MultiresNet``, at commit 828089f2.

Read in layers/multireslayer.py and classification.py. ``wavelet_init`` (``hinit`` in the classifier) gives initial
values alone. Taps are stored oldest first there, lag 0 first here.
"""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...backbone import Backbone
from ...blocks import Block
from ...mixers.convolution.multires import MultiresConv
from ..importer import Weights, add_importer, options

LAYER = "thjashin/multires-conv:MultiresLayer"
NET = "thjashin/multires-conv:MultiresNet"
COMMON: Mapping[str, Any] = {"kernel_size": None, "depth": None, "tree_select": "fading", "indep_res_init": False}
LAYER_DEFAULTS: Mapping[str, Any] = {
    **COMMON,
    "d_model": ...,
    "wavelet_init": None,
    "seq_len": None,
    "dropout": 0.0,
    "memory_size": None,
}
NET_DEFAULTS: Mapping[str, Any] = {
    **COMMON,
    "d_input": ...,
    "kernel_size": 2,
    "d_output": 10,
    "d_model": 256,
    "n_layers": 4,
    "dropout": 0.2,
    "batchnorm": False,
    "encoder": "linear",
    "n_tokens": None,
    "layer_type": "multires",
    "max_length": None,
    "hinit": None,
    "d_mem": None,
}
IGNORED = ("depth_used", "m")


class MultiresClassifier(nn.Module):
    """Classifier of ``MultiresNet``: encoder, blocks with the norm after the residual, mean over the tokens, logits.

    Args:
        encoder: of inputs (batch, length, d_input), or of token indices (batch, length).
        backbone: the blocks.
        classes: number of logits.
    """

    def __init__(self, encoder: nn.Linear | nn.Embedding, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.encoder, self.backbone = encoder, backbone
        self.decoder = nn.Linear(backbone.d_model, classes)

    def forward(self, x: Tensor, *, mask: Bool[Tensor, "batch length"] | None = None) -> Float[Tensor, "batch classes"]:
        """Logits; with a mask the mean is over the real tokens."""
        y = self.backbone(self.encoder(x), mask=mask)
        pooled = y.mean(1) if mask is None else y.sum(1) / mask.sum(1, keepdim=True)
        logits: Tensor = self.decoder(pooled)
        return logits


def _mixer(operation: str, o: Any, *, length: int | None, memory_size: int | None, project: bool) -> MultiresConv:
    if o.kernel_size is None:
        remedy = "pass kernel_size, the number of taps of the wavelet"
        raise argument_error(operation, "kernel_size=None", "the taps of h0", remedy)
    if length is None and o.depth is None:
        raise argument_error(operation, "neither a depth nor a length", "one of them", "pass depth")
    return MultiresConv(
        o.d_model,
        kernel_size=o.kernel_size,
        levels=o.depth,
        l_max=1024 if length is None else length,
        tree=o.tree_select,
        memory_size=memory_size if o.tree_select == "uniform" else None,
        independent_skip=o.indep_res_init,
        dropout=float(o.dropout),
        project=project,
    )


def build_layer(**hyper: Any) -> MultiresConv:
    """The layer, without a projection."""
    o = options(LAYER, hyper, LAYER_DEFAULTS, IGNORED)
    return _mixer(f"from_original({LAYER!r})", o, length=o.seq_len, memory_size=o.memory_size, project=False)


def convert_layer(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the mixer from that of the original."""
    return {
        "convolution.filter.h0": weights.take("h0")[:, 0].flip(-1),
        "convolution.filter.h1": weights.take("h1")[:, 0].flip(-1),
        "convolution.filter.w": weights.take("w"),
    }


def build_net(**hyper: Any) -> MultiresClassifier:
    """The classifier."""
    o = options(NET, hyper, NET_DEFAULTS, IGNORED)
    operation = f"from_original({NET!r})"
    for name, known in (("encoder", ("linear", "embedding")), ("layer_type", ("multires",))):
        if getattr(o, name) not in known:
            raise unknown_name(operation, name, str(getattr(o, name)), known)
    encoder = nn.Linear(o.d_input, o.d_model) if o.encoder == "linear" else nn.Embedding(o.n_tokens, o.d_model)
    norm: dict[str, Any] = {"norm": "batch", "norm_options": {"masked": False}} if o.batchnorm else {"norm": "layer"}
    blocks = [
        Block(
            _mixer(operation, o, length=o.max_length, memory_size=o.d_mem, project=True), norm_placement="post", **norm
        )
        for _ in range(o.n_layers)
    ]
    return MultiresClassifier(encoder, Backbone(blocks), o.d_output)


def convert_net(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier from that of the original."""
    o = options(NET, hyper, NET_DEFAULTS, IGNORED)
    encoder = weights.take("encoder.weight")
    converted = {"encoder.weight": encoder[..., 0] if o.encoder == "linear" else encoder}
    if o.encoder == "linear":
        converted["encoder.bias"] = weights.take("encoder.bias")
    for i in range(o.n_layers):
        block, mixing = f"backbone.blocks.{i}", weights.part(f"mixing_layers.{i}.0.")
        layer = convert_layer(weights.part(f"seq_layers.{i}."), hyper)
        converted |= {f"{block}.mixer.{name}": tensor for name, tensor in layer.items()}
        converted[f"{block}.mixer.out_proj.weight"] = mixing.take("weight")[..., 0]
        converted[f"{block}.mixer.out_proj.bias"] = mixing.take("bias")
        converted |= _norm(weights.part(f"norms.{i}."), f"{block}.mixer_norm", o.batchnorm)
    return converted | {f"decoder.{part}": weights.take(f"output_mapping.{part}") for part in ("weight", "bias")}


def _norm(weights: Weights, name: str, batch: bool) -> dict[str, Tensor]:
    inside = f"{name}.tokens" if batch else name
    converted = {f"{inside}.{part}": weights.take(part) for part in ("weight", "bias")}
    statistics = ("running_mean", "running_var", "num_batches_tracked") if batch else ()
    return converted | {f"{inside}.{part}": weights.take(part).detach() for part in statistics}


add_importer(LAYER, build=build_layer, convert=convert_layer)
add_importer(NET, build=build_net, convert=convert_net)
