"""mLSTM and sLSTM against NX-AI/xlstm and the block of xLSTM-7B: outputs, states, steps, gradients; initial values."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case, load_variant
from seqconv import create_mixer
from seqconv.interop import from_original
from seqconv.interop.linear_attention.mlstm import BLOCK, LAYER, build_layer
from seqconv.interop.recurrent.xlstm import ORIGINAL as SLSTM_LAYER
from seqconv.mixers.linear_attention.xlstm.mlstm_cell import mlstm, mlstm_step
from seqconv.types import LayerContext
from tolerances import assert_near

FOLDER = "scan/xlstm_blocks"
MLSTM_OPTIONS = {"embedding_dim": 16, "num_heads": 2, "round_proj_up_to_multiple_of": 16}
SLSTM_OPTIONS = {"embedding_dim": 16, "num_heads": 2, "backend": "vanilla"}


def cell_inputs(case):
    """Leaves by the original's names, and the arguments of the cell."""
    leaves = {k: v.double().requires_grad_() for k, v in case.group("in").items()}
    q, k, v = (leaves[name].transpose(1, 2) for name in ("queries", "keys", "values"))
    i, f = (leaves[name][..., 0].transpose(1, 2) for name in ("igate_preact", "fgate_preact"))
    return leaves, (q, k, v, i, f)


def check_leaves(case, leaves):
    for name, want in case.group("grad.in").items():
        assert_close(leaves[name].grad, want, 1e-9, 1e-10, f"gradient of {name}")


def test_golden_cell_over_a_sequence():
    case = load_variant(FOLDER, "mlstm_parallel")
    leaves, inputs = cell_inputs(case)
    batch, _, heads, width = inputs[0].shape
    memory = torch.zeros(batch, heads, width, width + 1, dtype=torch.float64)
    h, _, _ = mlstm(*inputs, memory, torch.full((batch, heads), -torch.inf, dtype=torch.float64))
    assert_close(h.transpose(1, 2), case.tensors["out.y"], 1e-9, 1e-10, "output")
    (h.transpose(1, 2) * case.tensors["cot.y"]).sum().backward()
    check_leaves(case, leaves)


@pytest.mark.parametrize("steps", [False, True])
def test_golden_cell_from_a_state(steps):
    case = load_variant(FOLDER, "mlstm_recurrent")
    leaves, inputs = cell_inputs(case)
    batch, length, heads, width = inputs[0].shape
    state = (
        torch.zeros(batch, heads, width, width + 1, dtype=torch.float64),
        torch.zeros(batch, heads, dtype=torch.float64),
    )
    if steps:
        outputs = []
        for t in range(length):
            h_t, *state = mlstm_step(*(x[:, t] for x in inputs), *state)
            outputs.append(h_t)
        h, (memory, m) = torch.stack(outputs, 1), state
    else:
        h, memory, m = mlstm(*inputs, *state)
    # The original scales keys where this scales queries.
    c, n = (memory * width**-0.5).split([width, 1], dim=-1)
    got = {"y": h.transpose(1, 2), "c": c, "n": n, "m": m[..., None, None]}
    for name, tensor in got.items():
        assert_close(tensor, case.tensors[f"out.{name}"], 1e-9, 1e-10, name)
    sum((tensor * case.tensors[f"cot.{name}"]).sum() for name, tensor in got.items()).backward()
    check_leaves(case, leaves)


@pytest.mark.parametrize(
    ("variant", "original", "options", "dtype"),
    [
        ("mlstm_layer", LAYER, MLSTM_OPTIONS, torch.float64),
        ("slstm_layer", SLSTM_LAYER, SLSTM_OPTIONS, torch.float32),
    ],
)
def test_golden_layers(variant, original, options, dtype):
    """The original computes sLSTM in float32 alone."""
    case = load_variant(FOLDER, variant)
    imported = Imported(original, case.group("param"), options, dtype)
    x = case.tensors["in.x"].to(dtype).requires_grad_()
    y = imported(x)
    exact = dtype == torch.float64
    rtol, grad_rtol = (1e-9, 1e-6) if exact else (1e-5, 1e-4)
    scale, largest = y.abs().max().item(), max(t.abs().max().item() for t in case.group("grad.param").values())
    assert_close(y, case.tensors["out.y"], rtol, 1e-10 if exact else rtol * scale, "output")
    (y * case.tensors["cot.y"]).sum().backward()
    want = case.tensors["grad.in.x"]
    assert_close(x.grad, want, grad_rtol, grad_rtol * want.abs().max().item(), "gradient of the input")
    check_gradients(imported, case.group("grad.param"), grad_rtol, grad_rtol * largest)


def test_both_layouts_of_the_slstm_cell_are_read():
    """The CUDA backend stores (heads, in, gates, out) and the biases head by head, by ``cell.py`` of the original."""
    params = load_variant(FOLDER, "slstm_layer").group("param")
    heads, gates, width = 2, 4, 8
    kernel, bias = params["slstm_cell._recurrent_kernel_"], params["slstm_cell._bias_"]
    cuda = params | {
        "slstm_cell._recurrent_kernel_": kernel.view(heads, gates, width, width).permute(0, 3, 1, 2).flatten(2),
        "slstm_cell._bias_": bias.view(gates, heads, width).transpose(0, 1).flatten(),
    }
    x = torch.randn(2, 9, 16)
    got, want = (from_original(SLSTM_LAYER, weights, **SLSTM_OPTIONS)(x) for weights in (cuda, params))
    assert torch.equal(got, want)


def block_case():
    case = load_case("xlstm7b_block")
    return case, Imported(BLOCK, case.group("param"), case.hyper)


def test_golden_block_of_xlstm_7b():
    case, imported = block_case()
    x = case.tensors["in.x"].requires_grad_()
    y = imported(x)
    assert_close(y, case.tensors["out.y"], 1e-8, 1e-9, "output")
    (y * case.tensors["cot.y"]).sum().backward()
    want = case.group("grad")
    assert_close(x.grad, want.pop("in.x"), 1e-8, 1e-9, "gradient of the input")
    check_gradients(imported, want, 1e-8, 1e-9)


def test_golden_states_and_steps_of_xlstm_7b():
    case, imported = block_case()
    block, x, prompt = imported.module, case.tensors["in.x"], case.hyper["prefill_length"]
    block.load_state_dict(imported.weights)

    def check_state(state, when):
        memory, m = state.mixer.memory, state.mixer.stabilizer
        real, m_want = m.exp()[..., None, None], case.tensors[f"out.m_{when}"][..., 0]
        assert_close(m, m_want, 1e-8, 1e-9, "m")
        for name, part in (("C", memory[..., :-1]), ("n", memory[..., -1:])):
            want = case.tensors[f"out.{name}_{when}"].reshape(part.shape)
            assert_close(part * real, want * m_want.exp()[..., None, None], 1e-8, 1e-9, name)

    with torch.no_grad():
        _, state = block.prefill(x[:, :prompt])
        check_state(state, "prefill")
        for t in range(prompt, x.shape[1]):
            y, state = block.step(x[:, t], state)
            assert_close(y, case.tensors["out.y_step"][:, t - prompt], 1e-8, 1e-9, f"step {t}")
    check_state(state, "final")


def test_fused_weights_of_xlstm_7b_are_the_same_rows():
    case = load_case("xlstm7b_block")
    params = case.group("param")
    layer, ffn = "mlstm_layer.", "ffn."
    fused = {k: v for k, v in params.items() if not any(n in k for n in (".q.", ".k.", ".v.", "preact", "proj_up"))}
    names = [f"{layer}{n}.weight" for n in ("q", "k", "v", "ogate_preact")]
    fused[f"{layer}qkv_opreact.weight"] = torch.cat([params[n] for n in names])
    for tensor in ("weight", "bias"):
        rows = [params[f"{layer}{gate}gate_preact.{tensor}"] for gate in "if"]
        fused[f"{layer}ifgate_preact.{tensor}"] = torch.cat(rows)
    fused[f"{ffn}proj_up_gate_z.weight"] = torch.cat(
        [params[f"{ffn}proj_up_gate.weight"], params[f"{ffn}proj_up.weight"]]
    )
    block = from_original(BLOCK, fused, **case.hyper | {"weight_mode": "fused"})
    assert_close(block(case.tensors["in.x"]), case.tensors["out.y"], 1e-8, 1e-9, "output")


@pytest.mark.parametrize("weight_mode", ["single", "fused"])
@pytest.mark.parametrize("use_bias", [False, True])
def test_biases_and_fused_weights_of_xlstm_7b_equal_transformers(weight_mode, use_bias):
    from transformers import xLSTMConfig
    from transformers.models.xlstm.modeling_xlstm import xLSTMBlock

    hyper = {"hidden_size": 16, "num_heads": 2, "qk_dim_factor": 1.0, "v_dim_factor": 2.0, "ffn_proj_factor": 1.3}
    hyper |= {"ffn_round_up_to_multiple_of": 8, "gate_soft_cap": 5.0, "weight_mode": weight_mode, "use_bias": use_bias}
    torch.manual_seed(0)
    original = xLSTMBlock(xLSTMConfig(**hyper, chunk_size=16)).eval()
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(2, 21, 16)
    with torch.no_grad():
        want, _ = original(x)
        assert_near(from_original(BLOCK, original.state_dict(), **hyper)(x), want)


@pytest.mark.parametrize("name", ["mlstm", "xlstm_large"])
def test_large_gates_stay_finite(name):
    torch.manual_seed(0)
    mixer = create_mixer(name, 16, num_heads=2).eval()
    with torch.no_grad():
        mixer.i_proj.bias.copy_(torch.tensor([80.0, -80.0]))
        mixer.f_proj.bias.copy_(torch.tensor([-80.0, 80.0]))
    if name == "xlstm_large":
        mixer.gate_soft_cap = None
    x = torch.randn(2, 70, 16)
    y, want = mixer(x), mixer.double()(x.double())
    assert y.isfinite().all()
    assert_near(y, want)


def test_initial_values_are_those_published():
    torch.manual_seed(0)
    large = create_mixer("xlstm_large", 256, layer=LayerContext(1, 4))
    assert torch.equal(large.f_proj.bias, torch.linspace(3, 6, 4))
    assert (large.i_proj.bias == -10).all()
    assert not large.i_proj.weight.any()
    assert large.q_proj.weight.std().item() == pytest.approx((2 / (5 * 256)) ** 0.5, rel=0.02)
    assert large.out_proj.weight.std().item() == pytest.approx(2 / (4 * 16), rel=0.02)
    small = create_mixer("mlstm", 128, layer=LayerContext(0, 2))
    assert small.q_proj.weight.std().item() == pytest.approx((2 / (5 * 128)) ** 0.5, rel=0.1)
    assert small.down_proj.weight.std().item() == pytest.approx(2 / (2 * 128**0.5), rel=0.05)
    assert torch.equal(small.f_proj.bias, torch.linspace(3, 6, 4))
    first, last = (create_mixer("slstm", 8, num_heads=2, layer=LayerContext(i, 3)) for i in (0, 2))
    j = torch.arange(4) / 3
    for mixer, power in ((first, 0.3), (last, 1.6)):
        assert not mixer.recurrent_weight.any()
        assert not mixer.recurrent_bias[[0, 2, 3]].any()
        torch.testing.assert_close(mixer.recurrent_bias[1], (5 - 12 * j**power).expand(2, 4))


def test_the_inner_width_is_rounded_as_in_the_original():
    assert build_layer(embedding_dim=48, round_proj_up_to_multiple_of=64).heads == (4, 32)
    assert build_layer(embedding_dim=48, proj_factor=1.3, round_proj_up_to_multiple_of=16).heads == (4, 16)


def test_options_that_were_not_checked_raise():
    for original, options, message in [
        (BLOCK, {"weight_mode": "split"}, r"weight_mode='split'.*Remedy"),
        (BLOCK, {"num_head": 2}, r"'num_head'.*did you mean 'num_heads'"),
        (LAYER, {"embedding_dim": 8, "bias": True}, r"bias=True.*Remedy"),
        (SLSTM_LAYER, {"embedding_dim": 8, "function": "lstm"}, r"function='lstm'.*Remedy"),
        (SLSTM_LAYER, {"embedding_dim": 8, "forward_clipval": 1.0}, r"forward_clipval=1.0.*Remedy"),
    ]:
        with pytest.raises(ValueError, match=message):
            from_original(original, {}, **options)
    for name, options in (("mlstm", {"num_heads": 3}), ("xlstm_large", {"num_heads": 3}), ("slstm", {"num_heads": 3})):
        with pytest.raises(ValueError, match=rf"{name} mixer: received .*3.*Remedy: change num_heads"):
            create_mixer(name, 8, **options)
