"""FSDP2 and parameters that stay in float32.

``torch.distributed.fsdp.fully_shard(module, mp_policy=...)`` puts all parameters of a module into one group, casts them
to ``param_dtype`` when it gathers them, and wants one dtype for all. Parameters of a
:class:`~seqconv.parameters.KeepFloat32` module therefore get a group of their own, in the same FSDP unit, which is
gathered and reduced in float32. ``fully_shard`` has no argument for that, but it makes its groups by a function of
its own module, which :func:`keep_float32_groups` wraps; a ``KeepFloat32`` module asks for it when ``fully_shard``
visits it, so that nothing has to be called before. Batch norms are gathered with them: FSDP casts parameters and
leaves buffers as they are, and PyTorch's batch norm takes scale, shift and running statistics of one dtype only.
"""

import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .parameters import kept_parameters

GROUPING = "_init_param_group"
CALLERS = ("torch.distributed.fsdp._fully_shard._fully_shard", "torch.distributed._composable.replicate_with_fsdp")
"""Modules of torch that make groups of parameters by the function ``GROUPING`` in their namespace."""


def keep_float32_groups() -> None:
    """Let ``fully_shard`` gather parameters that stay in float32 apart from the others; again does nothing more."""
    for name in CALLERS:
        caller = sys.modules.get(name)
        grouping = getattr(caller, GROUPING, None)
        if grouping is None and _is_calling(name):
            got = f"torch {torch.__version__} has no {name}.{GROUPING}"
            warnings.warn(
                f"fully_shard: {got}: with mixed precision, parameters that must stay in float32 (time steps, decays, "
                "filters) are rounded too. Remedy: shard without param_dtype, or take torch 2.13",
                RuntimeWarning,
                stacklevel=2,
            )
        elif grouping is not None and not hasattr(grouping, "__wrapped__"):
            setattr(caller, GROUPING, _apart(grouping))


def _is_calling(module: str) -> bool:
    """Whether a function of that module is on the stack: ``children`` is called by others than ``fully_shard`` too."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__") != module:
        frame = frame.f_back
    return frame.f_globals.get("__name__") == module


def _apart(grouping: Callable[..., None]) -> Callable[..., None]:
    @wraps(grouping)
    def init_param_groups(
        state: Any,
        params: list[nn.Parameter],
        modules: Iterable[nn.Module],
        mesh_info: Any,
        post_forward_mesh_info: Any,
        device: torch.device,
        shard_placement_fn: Any,
        mp_policy: Any,
        *rest: Any,
        **options: Any,
    ) -> None:
        def group(chosen: list[nn.Parameter], policy: Any) -> None:
            where = (mesh_info, post_forward_mesh_info, device, shard_placement_fn)
            grouping(state, chosen, modules, *where, policy, *rest, **options)

        modules = tuple(modules)
        kept = kept_parameters(modules) | _batch_norm_parameters(modules)
        if mp_policy.param_dtype is None and len({p.dtype for p in params}) < 2:
            kept = set()
        group([p for p in params if id(p) not in kept], mp_policy)
        group([p for p in params if id(p) in kept], replace(mp_policy, param_dtype=None, reduce_dtype=None))

    return init_param_groups


def _batch_norm_parameters(modules: Iterable[nn.Module]) -> set[int]:
    norms = (norm for module in modules for norm in module.modules() if isinstance(norm, _BatchNorm))
    return {id(p) for norm in norms for p in norm.parameters()}
