"""MesaNet against fla's exact form: values, gradients, states, steps.

The original's exact form stores the matrices of every token in float32 before it solves with them, also where all
else is in float64. The imported layer does so too; without that it is compared with the equation written out.
"""

import pytest
import torch
import torch.nn.functional as F

from golden_cases import Imported, assert_close, check_gradients, load_case
from scan_modules import prefill_then_step
from seqconv import create_mixer
from tolerances import assert_near


def imported():
    case = load_case("mesa_net")
    return case, Imported(case.meta["original"], case.group("param"), case.hyper)


def written_out(w, x):
    """The layer with two heads of four channels, token by token, from our names of its weights."""
    qk = torch.cat([x @ w["q_proj.weight"].T, x @ w["k_proj.weight"].T], dim=-1)
    taps = w["conv1d.weight"].flip(1)
    padded = F.pad(qk, (0, 0, taps.shape[1] - 1, 0))
    qk = sum(padded[:, taps.shape[1] - 1 - j :][:, : x.shape[1]] * taps[:, j] for j in range(taps.shape[1]))
    q, k = F.silu(qk).unflatten(-1, (4, 4)).split(2, dim=2)
    q, k = (t / (t.square().sum(-1, keepdim=True) + 1e-6).sqrt() for t in (q, k))
    v = (x @ w["v_proj.weight"].T).unflatten(-1, (2, 4))
    beta = torch.sigmoid(x @ w["b_proj.weight"].T + w["b_proj.bias"])[..., None]
    alpha = torch.sigmoid(x @ w["a_proj.weight"].T + w["a_proj.bias"])[..., None, None]
    diagonal = torch.diag_embed(F.softplus(w["lambda_params"]).view(2, 4) + 0.25)
    H = G = x.new_zeros(x.shape[0], 2, 4, 4)
    outputs = []
    for t in range(x.shape[1]):
        H = alpha[:, t] * H + (beta * k)[:, t, :, :, None] * k[:, t, :, None]
        G = alpha[:, t] * G + (beta * k)[:, t, :, :, None] * v[:, t, :, None]
        read = torch.linalg.solve(H + diagonal, q[:, t, :, :, None])
        o = (G.mT @ read)[..., 0]
        o = o * (o.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * w["o_norm.weight"]
        outputs.append(o.flatten(1) @ w["o_proj.weight"].T)
    return torch.stack(outputs, dim=1)


def test_golden_outputs_and_gradients():
    case, layer = imported()
    x = case.tensors["in.hidden_states"].clone().requires_grad_()
    y = layer(x)
    assert_close(y, case.tensors["out.y"], 1e-8, 1e-9, "output")
    (y * case.tensors["cot.y"]).sum().backward()
    want = case.group("grad")
    assert_close(x.grad, want.pop("in.hidden_states"), 1e-8, 1e-9, "gradient of x")
    check_gradients(layer, want, 1e-8, 1e-9)


def test_outputs_and_gradients_are_those_of_the_equation():
    case, layer = imported()
    layer.module.float32_matrices = False
    found = []
    for run in (layer, lambda x: written_out(layer.weights, x)):
        leaves = [case.tensors["in.hidden_states"].clone().requires_grad_(), *layer.leaves.values()]
        y = run(leaves[0])
        found.append((y, *torch.autograd.grad((y * case.tensors["cot.y"]).sum(), leaves)))
    for got, want in zip(*found, strict=True):
        assert_close(got, want, 1e-8, 1e-9, "value or gradient")


def test_golden_states_and_steps():
    case, layer = imported()
    y, _, state = prefill_then_step(layer, case.tensors["in.hidden_states"], 5)
    assert_close(y, case.tensors["out.y"], 1e-8, 1e-9, "prefill and steps")
    assert_close(state.keys, case.tensors["out.final_state_kk"], 1e-8, 1e-9, "keys")
    assert_close(state.memory, case.tensors["out.final_state_kv"], 1e-8, 1e-9, "values")


def test_systems_of_several_chunks_equal_those_of_one(monkeypatch):
    layer = create_mixer("mesa_net", 8, num_heads=2).double()
    x = torch.randn(2, 40, 8, dtype=torch.float64)
    whole = layer(x)
    monkeypatch.setattr("seqconv.mixers.linear_attention.mesa_net.CHUNK", 7)
    assert_near(layer(x), whole)


def test_sizes_out_of_range_raise():
    for options in ({"num_heads": 0}, {"lambda_lower_bound": 1.0}):
        with pytest.raises(ValueError, match=r"mesa_net mixer: received .*sizes of at least 1 and a bound.*Remedy"):
            create_mixer("mesa_net", 8, **options)
