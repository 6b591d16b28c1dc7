"""Kernels of other projects: stand-ins with their documented interfaces, and what is not supported."""

import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import seqconv_kernels as K
from seqconv_kernels._core import external
from seqconv_kernels.causal_conv1d import cases as conv_shapes
from seqconv_kernels.causal_conv1d.spec import CONV
from seqconv_kernels.selective_scan import cases as scan_shapes
from seqconv_kernels.selective_scan.spec import SCAN
from seqconv_kernels.ssd import cases as ssd_shapes
from seqconv_kernels.ssd.spec import SCAN as SSD


def inputs_of(op, **arguments):
    """The inputs of an op from those of its arguments that are given."""
    return op.inputs(**dict.fromkeys(op.inputs._fields) | arguments)


def stand_in(monkeypatch, path, **functions):
    """A module that can be imported by that path and holds these functions."""
    parts = path.split(".")
    for i in range(len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[: i + 1]), ModuleType(".".join(parts[: i + 1])))
    for name, function in functions.items():
        monkeypatch.setattr(sys.modules[path], name, function, raising=False)


def selective_scan_fn(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):
    """As documented: (batch, dim, length), B and C (batch, [groups,] d_state, length), a loop over time."""
    groups = 1 if B.dim() == 3 else B.shape[1]
    B, C = (t.view(t.shape[0], groups, -1, t.shape[-1]).repeat_interleave(u.shape[1] // groups, 1) for t in (B, C))
    dt = delta + delta_bias[:, None] if delta_bias is not None else delta
    dt = F.softplus(dt) if delta_softplus else dt
    h, ys = u.new_zeros(*u.shape[:2], A.shape[1]), []
    for t in range(u.shape[2]):
        h = torch.exp(dt[..., t, None] * A) * h + dt[..., t, None] * B[..., t] * u[..., t, None]
        ys.append((h * C[..., t]).sum(-1))
    y = torch.stack(ys, -1) + (0 if D is None else D[:, None] * u)
    y = y if z is None else y * F.silu(z)
    return (y, h) if return_last_state else y


def causal_conv1d_fn(
    x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False, final_states_out=None,
    activation=None,
):  # fmt: skip
    """As documented: x (batch, dim, length), initial_states (batch, dim, width - 1), both with dense channels."""
    assert x.stride(1) == 1
    if initial_states is not None:
        assert initial_states.stride(1) == 1
        x = torch.cat([initial_states, x], -1)
    else:
        x = F.pad(x, (weight.shape[1] - 1, 0))
    y = F.conv1d(x, weight[:, None], bias, groups=x.shape[1])
    return F.silu(y) if activation == "silu" else y


def mamba_chunk_scan_combined(
    x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, initial_states=None, seq_idx=None, cu_seqlens=None,
    dt_softplus=False, dt_limit=(0.0, float("inf")), return_final_states=False,
):  # fmt: skip
    """As documented, token by token."""
    B, C = (t.repeat_interleave(x.shape[2] // t.shape[2], 2) for t in (B, C))
    state = initial_states if initial_states is not None else x.new_zeros(*x.shape[::2], x.shape[3], B.shape[3])
    ys = []
    for t in range(x.shape[1]):
        state = state * (dt[:, t] * A).exp()[..., None, None]
        state = state + torch.einsum("bh,bhp,bhn->bhpn", dt[:, t], x[:, t], B[:, t])
        ys.append(torch.einsum("bhpn,bhn->bhp", state, C[:, t]))
    return torch.stack(ys, 1), state


def results(run, inputs, *leaves):
    tensors = [inputs[name].requires_grad_() for name in leaves]
    outputs = run()
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    total = sum((y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum() for y in outputs)
    return *outputs, *torch.autograd.grad(total, tensors)


@pytest.mark.parametrize("groups", [0, 2])
@pytest.mark.parametrize("gate", [True, False])
def test_selective_scan_of_mamba_ssm(monkeypatch, groups, gate):
    stand_in(monkeypatch, "mamba_ssm.ops.selective_scan_interface", selective_scan_fn=selective_scan_fn)
    from seqconv_kernels.selective_scan.mamba_ssm import selective_scan

    inputs = scan_shapes.example_inputs(scan_shapes.Shape(2, 9, 6, 3, groups), gate=gate)
    leaves = [name for name in inputs if name != "delta_softplus"]
    got = results(lambda: selective_scan(inputs_of(SCAN, **inputs)), inputs, *leaves)
    want = results(lambda: K.selective_scan(**inputs, return_final_state=True), inputs, *leaves)
    for a, b in zip(got, want, strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("state", [True, False])
def test_causal_conv1d_of_causal_conv1d(monkeypatch, state):
    stand_in(monkeypatch, "causal_conv1d", causal_conv1d_fn=causal_conv1d_fn)
    from seqconv_kernels.causal_conv1d.causal_conv1d_cuda import causal_conv1d

    inputs = conv_shapes.example_inputs(conv_shapes.Shape(2, 9, 6, 4), initial_state=state)
    leaves = [name for name in inputs if name != "activation"]
    got = results(lambda: causal_conv1d(inputs_of(CONV, **inputs)), inputs, *leaves)
    want = results(lambda: K.causal_conv1d(**inputs), inputs, *leaves)
    for a, b in zip(got, want, strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("state", [True, False])
def test_ssd_of_mamba_ssm(monkeypatch, state):
    path = "mamba_ssm.ops.triton.ssd_combined"
    stand_in(monkeypatch, path, mamba_chunk_scan_combined=mamba_chunk_scan_combined)
    from seqconv_kernels.ssd.mamba_ssm import ssd

    inputs = ssd_shapes.example_inputs(ssd_shapes.Shape(2, 9, 4, 3, 2, 5), initial_state=state)
    kept = {name: inputs[name] for name in ("x", "dt", "A", "B", "C")} | {"initial_state": inputs.get("initial_state")}
    kept["dt"] = F.softplus(kept["dt"])
    leaves = [name for name, t in kept.items() if t is not None]
    kept = {name: t if t is None else t.detach() for name, t in kept.items()}
    got = results(lambda: ssd(inputs_of(SSD, **kept)), kept, *leaves)
    want = results(lambda: K.ssd(**kept, return_final_state=True), kept, *leaves)
    for a, b in zip(got, want, strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("op", "name"), [(SCAN, "mamba-ssm"), (CONV, "causal-conv1d"), (SSD, "mamba-ssm")])
def test_on_cpu_they_say_where_they_run(op, name):
    inputs = inputs_of(op, **dict.fromkeys(op.inputs._fields[:2], torch.zeros(3, 4)))
    external_one = next(i for i in op.implementations if i.name == name)
    assert external_one.unsupported_reason(inputs) == f"{name} runs on NVIDIA GPUs, the tensors are on cpu"


def test_asked_for_by_name_they_do_not_fall_back():
    inputs = scan_shapes.example_inputs(scan_shapes.SHAPES["tiny"])
    with pytest.raises(ValueError, match=r"selective_scan: received implementation='mamba-ssm'.*NVIDIA GPUs"):
        K.selective_scan(**inputs, implementation="mamba-ssm")


def test_widths_they_do_not_take_are_named():
    inputs = inputs_of(CONV, x=torch.zeros(1, 2, 3), weight=torch.zeros(3, 5))
    assert CONV.report(inputs)["causal-conv1d"] == "a filter of width 5, causal-conv1d takes 2, 3 and 4"


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(external, "device_type", lambda inputs: "cuda")
    monkeypatch.setattr(external, "_found", lambda module: False)
    assert _reason(u=torch.zeros(1, 2, 3)) == "mamba-ssm is not installed; install seqconv[cuda]"


@pytest.mark.parametrize("name", ["initial_state", "cu_seqlens"])
def test_what_their_functions_lack_is_named(monkeypatch, name):
    monkeypatch.setattr(external, "device_type", lambda inputs: "cuda")
    monkeypatch.setattr(external, "_found", lambda module: True)
    assert _reason(u=torch.zeros(1, 2, 3), **{name: torch.zeros(2)}) == f"mamba-ssm takes no {name}"


def _reason(**tensors):
    mamba = next(i for i in SCAN.implementations if i.name == "mamba-ssm")
    return mamba.unsupported_reason(inputs_of(SCAN, **tensors))
