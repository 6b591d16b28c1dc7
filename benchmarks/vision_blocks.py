"""Blocks of VMamba-T and Vim-S at 224 and 512 pixels against the originals' PyTorch code, one image, float32.

The originals are files of other projects below :data:`~benchmarks.training_steps.FOLDER`, if they are there::

    mkdir -p outputs/originals/MzeroMiko/VMamba outputs/originals/hustvl/Vim/mamba-1p1p1/mamba_ssm/{modules,ops}
    # then put vmamba.py into the first, mamba_simple.py and selective_scan_interface.py into the others

VMamba runs on its ``selective_scan_torch``: the mixer (SS2D), and whole blocks, whose MLP is half of their work. Vim's
mixer runs on ``selective_scan_ref``: what joins convolution, projections and scan exists in CUDA alone there, and is
written out here as its ``mamba_inner_ref`` has it. Nothing is timed unless outputs and gradients of the inputs agree.

The PyTorch scans take a step of Python per cell, and their backward passes as many copies of all states: the first
stage at 512 pixels, 16,384 cells, is timed forward alone.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqconv import from_original
from seqconv.vision.backbones.block import Block2d

from .measure import check_close, interleaved
from .training_steps import FOLDER, TOLERANCE

DIRECTIONS = ("forward", "forward + backward")
VMAMBA = "MzeroMiko/VMamba/vmamba.py"
VIM = "hustvl/Vim/mamba-1p1p1/mamba_ssm/modules/mamba_simple.py"
VIM_SCAN = "hustvl/Vim/mamba-1p1p1/mamba_ssm/ops/selective_scan_interface.py"

SS2D = {"d_state": 1, "ssm_ratio": 1.0, "conv_bias": False, "forward_type": "v05_noz"}
"""Of ``vmamba_tiny_s1l8``, the released VMamba-T."""
BIMAMBA = {"bimamba_type": "v2", "if_divide_out": True}
"""Of Vim-Ti, Vim-S and Vim-B."""

Pair = tuple[nn.Module, nn.Module]


@dataclass(frozen=True)
class Place:
    """A block of a published model at one size of images.

    Attributes:
        shape: in words.
        pair: from the width to seqconv's module and the original's with the same weights.
        width: channels.
        cells: the shape of the inputs between batch and channels.
        files: of the original.
        directions: what is timed.
    """

    shape: str
    pair: Callable[[int], Pair]
    width: int
    cells: tuple[int, ...]
    files: tuple[str, ...]
    directions: tuple[str, ...] = DIRECTIONS


def measure(seconds: float) -> list[dict[str, object]]:
    """Rows of all blocks whose originals are there."""
    return [row for place in PLACES if available(place) for row in rows(place, seconds)]


def available(place: Place) -> bool:
    """Whether the files of the original are there."""
    return all((FOLDER / file).exists() for file in place.files)


def rows(place: Place, seconds: float) -> Iterator[dict[str, object]]:
    """Check that both sides agree, then time them in turn: one row per direction."""
    torch.manual_seed(0)
    modules = dict(zip(("seqconv", "original"), place.pair(place.width), strict=True))
    x = torch.randn(1, *place.cells, place.width)
    for direction in place.directions:
        calls = {name: _call(module, x, direction == DIRECTIONS[1]) for name, module in modules.items()}
        results = [call() for call in calls.values()]
        for got, want in zip(*results, strict=True):
            check_close(place.shape, got, want, TOLERANCE)
        del results
        ms = interleaved(calls, seconds=seconds, rounds=1)
        yield {"shape": place.shape, "direction": direction, "ms": ms}


def _call(module: nn.Module, x: Tensor, backward: bool) -> Callable[[], tuple[Tensor, ...]]:
    """The output, or the output and the gradients of the input and the parameters; only the first two are compared."""
    leaf = x.clone().requires_grad_()
    parameters = list(module.parameters())
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))

    def forward() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (module(x),)

    def both() -> tuple[Tensor, ...]:
        y = module(leaf)
        return (y.detach(), torch.autograd.grad(y, [leaf, *parameters], weight)[0])

    return both if backward else forward


def vmamba_mixer(width: int) -> Pair:
    """The mixer of VMamba-T."""
    original = _vmamba().SS2D(width, **SS2D)
    mixer: nn.Module = from_original("MzeroMiko/VMamba:SS2D", original.state_dict(), d_model=width, **SS2D)
    return mixer.eval(), original.eval()


def vmamba_block(width: int) -> Pair:
    """A block of VMamba-T: mixer and MLP with their norms."""
    options = {f"ssm_{name}": value for name, value in SS2D.items() if name.startswith("d_")}
    original = _vmamba().VSSBlock(
        hidden_dim=width, ssm_ratio=SS2D["ssm_ratio"], ssm_conv_bias=SS2D["conv_bias"],
        forward_type=SS2D["forward_type"], **options,
    )  # fmt: skip
    state = original.state_dict()
    op = {name.removeprefix("op."): tensor for name, tensor in state.items() if name.startswith("op.")}
    block = Block2d(from_original("MzeroMiko/VMamba:SS2D", op, d_model=width, **SS2D))
    for part, name in {"mixer_norm": "norm", "mlp_norm": "norm2", "mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"}.items():
        tensors = {key: state[f"{name}.{key}"] for key in ("weight", "bias")}
        block.get_submodule(part).load_state_dict(tensors)
    return block.eval(), original.eval()


def vim_mixer(width: int) -> Pair:
    """The mixer of Vim-S."""
    module = _vim()
    original = module.Mamba(width, **BIMAMBA)
    mixer: nn.Module = from_original("hustvl/Vim:Mamba", original.state_dict(), d_model=width, **BIMAMBA)
    return mixer.eval(), original.eval()


def _vmamba() -> ModuleType:
    """vmamba.py, with stand-ins for what is not installed and not called."""
    identity: Any = lambda *args, **kwargs: args[0] if args else None  # noqa: E731
    layers = SimpleNamespace(DropPath=lambda rate: nn.Identity(), trunc_normal_=nn.init.trunc_normal_)
    names = ("FlopCountAnalysis", "flop_count_str", "flop_count", "parameter_count")
    return _load(
        VMAMBA,
        {
            "timm": SimpleNamespace(),
            "timm.models": SimpleNamespace(register_model=identity),
            "timm.models.layers": layers,
            "fvcore": SimpleNamespace(),
            "fvcore.nn": SimpleNamespace(**dict.fromkeys(names)),
        },
    )


def _vim() -> ModuleType:
    """mamba_simple.py on the readable scan of its own project."""
    scan = _load(VIM_SCAN, {"selective_scan_cuda": SimpleNamespace()}).selective_scan_ref
    fused = ("selective_scan_fn", "mamba_inner_fn", "bimamba_inner_fn", "mamba_inner_fn_no_out_proj")
    module = _load(
        VIM,
        {
            "causal_conv1d": SimpleNamespace(causal_conv1d_fn=None, causal_conv1d_update=None),
            "mamba_ssm": SimpleNamespace(),
            "mamba_ssm.ops": SimpleNamespace(),
            "mamba_ssm.ops.selective_scan_interface": SimpleNamespace(**dict.fromkeys(fused)),
        },
    )

    def inner(xz: Tensor, conv: Tensor, conv_bias: Tensor, x_proj: Tensor, dt_proj: Tensor, A: Tensor, *given: Any,
              delta_bias: Tensor, delta_softplus: bool) -> Tensor:  # fmt: skip
        *_, D = given
        u, z = xz.chunk(2, dim=1)
        u = F.silu(F.conv1d(u, conv, conv_bias, padding=conv.shape[-1] - 1, groups=len(conv))[..., : u.shape[-1]])
        low, B, C = F.linear(u.mT, x_proj).split([dt_proj.shape[1], A.shape[1], A.shape[1]], dim=-1)
        y: Tensor = scan(
            u, F.linear(low, dt_proj).mT, A, B.mT.contiguous(), C.mT.contiguous(), D,
            z=z, delta_bias=delta_bias, delta_softplus=delta_softplus,
        )  # fmt: skip
        return y

    vars(module)["mamba_inner_fn_no_out_proj"] = inner
    return module


def _load(file: str, stand_ins: Mapping[str, Any]) -> ModuleType:
    """The module of a file, imported while ``stand_ins`` are importable."""
    path = FOLDER / file
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    absent = {name: value for name, value in stand_ins.items() if name not in sys.modules}
    sys.modules.update(absent)
    try:
        spec.loader.exec_module(module)
    finally:
        for name in absent:
            del sys.modules[name]
    return module


PLACES = (
    Place("VMamba-T mixer, stage 1 at 224: 56 x 56 x 96", vmamba_mixer, 96, (56, 56), (VMAMBA,)),
    Place("VMamba-T mixer, stage 3 at 224: 14 x 14 x 384", vmamba_mixer, 384, (14, 14), (VMAMBA,)),
    Place("VMamba-T mixer, stage 1 at 512: 128 x 128 x 96", vmamba_mixer, 96, (128, 128), (VMAMBA,), DIRECTIONS[:1]),
    Place("VMamba-T mixer, stage 3 at 512: 32 x 32 x 384", vmamba_mixer, 384, (32, 32), (VMAMBA,)),
    Place("VMamba-T block, stage 1 at 224: 56 x 56 x 96", vmamba_block, 96, (56, 56), (VMAMBA,)),
    Place("VMamba-T block, stage 3 at 512: 32 x 32 x 384", vmamba_block, 384, (32, 32), (VMAMBA,)),
    Place("Vim-S mixer at 224: 197 x 384", vim_mixer, 384, (197,), (VIM, VIM_SCAN)),
    Place("Vim-S mixer at 512: 1,025 x 384", vim_mixer, 384, (1025,), (VIM, VIM_SCAN)),
)
