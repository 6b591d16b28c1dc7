"""PaTH attention: the original's numbers, the equation written out with every option, several chunks, errors."""

import pytest
import torch
import torch.nn.functional as F

from golden_cases import Imported, assert_close, check_gradients, load_case
from scan_modules import prefill_then_step
from seqconv import create_mixer
from seqconv.interop import from_original
from tolerances import assert_near

TOLERANCE = (1e-8, 1e-9)
ORIGINAL = "fla-org/flash-linear-attention:PaTHAttention"


def imported_case():
    case = load_case("path_attn")
    return case, Imported(case.meta["original"], case.group("param"), case.hyper)


def written_out(p, x, heads, groups, *, gate=False, norm=False, conv=True):
    """The original's layer, score by score, from its own names of its parameters."""
    d = x.shape[-1] // heads

    def project(name):
        for part in ("", ".0", ".1"):
            if f"{name}{part}.weight" in p:
                yield p[f"{name}{part}.weight"]

    def per_head(name):
        y = x
        for weight in project(name):
            y = y @ weight.T
        return y

    q, k, v, w = (per_head(f"{name}_proj") for name in "qkvw")
    if conv:
        taps, w_all = p["w_conv1d.weight"][:, 0], 0
        for j in range(taps.shape[1]):
            w_all = w_all + F.pad(w, (0, 0, j, 0))[:, : w.shape[1]] * taps[:, taps.shape[1] - 1 - j]
        w = F.silu(w_all + p.get("w_conv1d.bias", torch.zeros(1).double()))
    q, k, v, w = (t.unflatten(-1, (-1, d)) for t in (q, k, v, w))
    w = w / (w.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    if norm:
        q, k = (
            t * (t.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * p[f"maybe_{n}_norm.weight"]
            for t, n in ((q, "q"), (k, "k"))
        )
    beta = 2 * torch.sigmoid(x @ p["bt_proj.weight"].T + p["bt_proj.bias"])
    g = F.logsigmoid(x @ p["g_proj.weight"].T + p["g_proj.bias"]) if gate else torch.zeros_like(q[..., 0])
    rows = []
    for i in range(x.shape[1]):
        outputs = []
        for h in range(heads):
            of = h // (heads // groups)
            read, decay, scores = q[:, i, h], 0, []
            for j in range(i, -1, -1):
                scores.append((read * k[:, j, of]).sum(-1) + decay)
                read = read - (beta[:, j, of] * (read * w[:, j, of]).sum(-1))[:, None] * w[:, j, of]
                decay = decay + g[:, j, h]
            weights = torch.softmax(torch.stack(scores[::-1], -1) * d**-0.5, -1)
            outputs.append((weights[..., None] * v[:, : i + 1, of]).sum(1))
        rows.append(torch.cat(outputs, -1) @ p["o_proj.weight"].T)
    return torch.stack(rows, 1)


def test_golden_outputs_and_gradients():
    case, imported = imported_case()
    x = case.tensors["in.hidden_states"].clone().requires_grad_()
    y = imported(x)
    assert_close(y, case.tensors["out.y"], *TOLERANCE, "output")
    (y * case.tensors["cot.y"]).sum().backward()
    want = case.group("grad")
    assert_close(x.grad, want.pop("in.hidden_states"), *TOLERANCE, "gradient of the input")
    check_gradients(imported, want, *TOLERANCE)


@pytest.mark.parametrize("prompt", [1, 5, 12])
def test_golden_outputs_in_steps(prompt):
    case, imported = imported_case()
    y, _, state = prefill_then_step(imported, case.tensors["in.hidden_states"], prompt)
    assert_close(y, case.tensors["out.y"], *TOLERANCE, "outputs")
    assert state.key.shape[1] == 13


@pytest.mark.parametrize(
    "options",
    [
        {"use_forget_gate": True},
        {"use_forget_gate": True, "num_kv_heads": 2, "use_low_rank_w": False, "conv_size": 4, "conv_bias": True},
        {"use_qk_norm": True, "num_kv_heads": 1, "use_w_shortconv": False},
    ],
)
def test_options_of_the_original_are_those_of_the_equation(options):
    hidden, heads, groups = 16, 4, options.get("num_kv_heads", 4)
    generator, d = torch.Generator().manual_seed(3), hidden // heads

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.5

    p = {
        f"{n}_proj.weight": draw(m, hidden)
        for n, m in zip("qkvo", (hidden, groups * d, groups * d, hidden), strict=True)
    }
    if options.get("use_low_rank_w", True):
        p |= {"w_proj.0.weight": draw(32, hidden), "w_proj.1.weight": draw(groups * d, 32)}
    else:
        p["w_proj.weight"] = draw(groups * d, hidden)
    p |= {"bt_proj.weight": draw(groups, hidden), "bt_proj.bias": draw(groups)}
    if options.get("use_forget_gate"):
        p |= {"g_proj.weight": draw(heads, hidden), "g_proj.bias": draw(heads)}
    if options.get("use_w_shortconv", True):
        p["w_conv1d.weight"] = draw(groups * d, 1, options.get("conv_size", 3))
        p |= {"w_conv1d.bias": draw(groups * d)} if options.get("conv_bias") else {}
    if options.get("use_qk_norm"):
        p |= {f"maybe_{n}_norm.weight": 1 + draw(d) for n in "qk"}
    layer, x = from_original(ORIGINAL, p, hidden_size=hidden, num_heads=heads, **options), draw(2, 9, hidden)
    switches = {
        "gate": "use_forget_gate" in options,
        "norm": "use_qk_norm" in options,
        "conv": "use_w_shortconv" not in options,
    }
    layer.float32_scores = False
    assert_near(layer(x), written_out(p, x, heads, groups, **switches))


def test_several_chunks_equal_one(monkeypatch):
    torch.manual_seed(0)
    layer = create_mixer("path_attention", 8, num_heads=2, forget_gate=True).double()
    x = torch.randn(2, 40, 8, dtype=torch.float64)
    whole, (_, state) = layer(x), layer.prefill(x)
    monkeypatch.setattr("seqconv.attention.path.CHUNK", 7)
    assert_near(layer(x), whole)
    y, after = layer.prefill(x[:, 11:], layer.prefill(x[:, :11])[1])
    assert_near(y, whole[:, 11:])
    assert_near(after.key, state.key)


@pytest.mark.parametrize("options", [{"num_heads": 3}, {"num_heads": 4, "num_kv_heads": 3}, {"w_rank": 0}])
def test_sizes_out_of_range_raise(options):
    with pytest.raises(ValueError, match=r"path_attention mixer: received .*num_heads that divide d_model.*Remedy"):
        create_mixer("path_attention", 8, **options)
