"""Checks of the inputs of a mixer: shape, device and dtype."""

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from .parameters import KeepFloat32
from .rows import RowGroups
from .state import State, StateSizes


def check_shape(operation: str, x: Tensor, rank: int, d_model: int) -> None:
    """Raise a ``ValueError`` unless x is (batch, length, d_model), not empty (rank 3), or (batch, d_model) (rank 2)."""
    axes = "(batch, length, d_model)" if rank == 3 else "(batch, d_model)"
    if x.dim() != rank or x.shape[-1] != d_model:
        wanted = f"{axes} with d_model={d_model}"
        raise argument_error(operation, f"x of shape {tuple(x.shape)}", wanted, "reshape or project the input")
    if rank == 3 and x.shape[1] == 0:
        raise argument_error(operation, "a sequence of length 0", "at least one token", "leave empty inputs out")


def check_placement(operation: str, x: Tensor, module: KeepFloat32) -> None:
    """Raise a ``ValueError`` unless x is on the device of the module and in a dtype that its parameters take."""
    found = None if torch.compiler.is_compiling() else module.activation_parameter()
    if found is None:
        return
    parameter, kept = found
    if x.dtype == parameter.dtype and x.device == parameter.device:
        return
    device, dtype = parameter.device, parameter.dtype
    if x.device != device and device.type != "meta":  # offloaded parameters arrive when their module is called
        raise argument_error(operation, f"x on {x.device}", f"the mixer on {device}", "move one with .to()")
    # Parameters that are all kept wide do not show what the mixer was converted to.
    narrower = kept and (x.dtype.itemsize <= dtype.itemsize == torch.float32.itemsize or x.dtype == module.converted_to)
    if x.dtype == dtype or (x.is_floating_point() and (narrower or torch.is_autocast_enabled(x.device.type))):
        return
    remedy = "convert one with .to(dtype), or run under torch.autocast"
    raise argument_error(operation, f"x of dtype {x.dtype}", f"{dtype}", remedy)


def check_state(operation: str, state: State, wanted: StateSizes, batch_size: int) -> None:
    """Raise a ``ValueError`` unless the state has the kind and sizes of its mixer's and ``batch_size`` rows."""
    if isinstance(state, RowGroups):
        for rows, part in zip(state.rows, state.states, strict=True):
            check_state(operation, part, wanted, len(rows))
    else:
        kind, sizes = wanted
        if type(state) is not kind or state.sizes() != sizes:
            got = f"{type(state).__name__} with sizes {state.sizes() if isinstance(state, State) else None}"
            remedy = "pass what this mixer's init_state, prefill or step returned"
            raise argument_error(operation, got, f"{kind.__name__} with sizes {sizes}", remedy)
    if state.batch_size != batch_size:
        got = f"a state of {state.batch_size} rows for {batch_size} inputs"
        raise argument_error(operation, got, "equal batch sizes", "select the state's rows with state.select(index)")
