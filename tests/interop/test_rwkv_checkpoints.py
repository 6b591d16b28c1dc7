"""RWKV-6 and RWKV-7 as whole language models: the originals' names, against models written out by tokens.

No trained weights are at hand; the names, shapes and equations were read in the originals' sources.
"""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from seqconv.hf import SeqConvForCausalLM
from seqconv.interop import load_checkpoint
from tolerances import assert_near

WIDTH, HEAD, HIDDEN, VOCAB, DEPTH = 8, 4, 12, 20, 3


def layer_norm(x, w, name):
    return F.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"])


def heads_norm(o, w, eps):
    return F.group_norm(o.reshape(1, WIDTH), WIDTH // HEAD, w["ln_x.weight"], w["ln_x.bias"], eps)[0]


def per_head(x):
    return x.view(-1, HEAD)


class Seven:
    """RWKV-7, one token at a time, from BlinkDL/RWKV-LM's names; ``eps``: of the output norm."""

    def __init__(self, w, eps=64e-5):
        self.w, self.eps = w, eps

    def time_mix(self, x, before, S, w, v_first, layer):
        m = {n: x + (before - x) * w[f"x_{n}"].flatten() for n in "rwkvag"}
        r, k, v = m["r"] @ w["receptance.weight"].T, m["k"] @ w["key.weight"].T, m["v"] @ w["value.weight"].T
        log_decay = -torch.exp(-F.softplus(-(w["w0"].flatten() + torch.tanh(m["w"] @ w["w1"]) @ w["w2"])) - 0.5)
        v_first = v if layer == 0 else v_first
        if layer:
            v = v + (v_first - v) * torch.sigmoid(w["v0"].flatten() + m["v"] @ w["v1"] @ w["v2"])
        a = torch.sigmoid(w["a0"].flatten() + m["a"] @ w["a1"] @ w["a2"])
        g = torch.sigmoid(m["g"] @ w["g1"]) @ w["g2"]
        kk = F.normalize(per_head(k * w["k_k"].flatten()), dim=-1)
        k = k * (1 + (a - 1) * w["k_a"].flatten())
        r, k, v, a, alpha = (per_head(t) for t in (r, k, v, a, log_decay.exp()))
        read = torch.einsum("hvk,hk->hv", S, -kk)
        S = S * alpha[:, None] + read[:, :, None] * (kk * a)[:, None] + v[:, :, None] * k[:, None]
        o = heads_norm(torch.einsum("hvk,hk->hv", S, r), w, self.eps)
        bonus = ((r * k * w["r_k"]).sum(-1, keepdim=True) * v).flatten()
        return ((o + bonus) * g) @ w["output.weight"].T, S, v_first

    def channel_mix(self, x, before, w):
        k = torch.relu((x + (before - x) * w["x_k"].flatten()) @ w["key.weight"].T).square()
        return k @ w["value.weight"].T


class Six:
    """RWKV-6 in the same way."""

    def __init__(self, w, eps=64e-5):
        self.w, self.eps = w, eps

    def time_mix(self, x, before, S, w, v_first, layer):
        delta = before - x
        codes = torch.tanh((x + delta * w["time_maa_x"].flatten()) @ w["time_maa_w1"]).view(5, -1)
        m = {
            n: x + delta * (w[f"time_maa_{n}"].flatten() + code @ up)
            for n, code, up in zip("wkvrg", codes, w["time_maa_w2"], strict=True)
        }
        r, k, v = (m[n] @ w[f"{name}.weight"].T for n, name in (("r", "receptance"), ("k", "key"), ("v", "value")))
        g = F.silu(m["g"] @ w["gate.weight"].T)
        decay = w["time_decay"].flatten() + torch.tanh(m["w"] @ w["time_decay_w1"]) @ w["time_decay_w2"]
        r, k, v, alpha = (per_head(t) for t in (r, k, v, torch.exp(-torch.exp(decay))))
        new = v[:, :, None] * k[:, None]
        o = torch.einsum("hvk,hk->hv", S + new * w["time_faaaa"][:, None], r)
        return (heads_norm(o, w, self.eps) * g) @ w["output.weight"].T, S * alpha[:, None] + new, v_first

    def channel_mix(self, x, before, w):
        delta = before - x
        k = torch.relu((x + delta * w["time_maa_k"].flatten()) @ w["key.weight"].T).square()
        gate = torch.sigmoid((x + delta * w["time_maa_r"].flatten()) @ w["receptance.weight"].T)
        return gate * (k @ w["value.weight"].T)


def written_out(model, ids):
    """Logits (length, vocabulary) of one sequence."""
    zero = torch.zeros(WIDTH, dtype=torch.float64)
    last, S = [[zero, zero] for _ in range(DEPTH)], [zero.new_zeros(WIDTH // HEAD, HEAD, HEAD) for _ in range(DEPTH)]
    logits = []
    for token in ids:
        x, v_first = layer_norm(model.w["emb.weight"][token], model.w, "blocks.0.ln0"), None
        for i in range(DEPTH):
            part = {k.removeprefix(f"blocks.{i}."): t for k, t in model.w.items() if k.startswith(f"blocks.{i}.")}
            att = {k.removeprefix("att."): t for k, t in part.items() if k.startswith("att.")}
            ffn = {k.removeprefix("ffn."): t for k, t in part.items() if k.startswith("ffn.")}
            inputs = layer_norm(x, part, "ln1")
            y, S[i], v_first = model.time_mix(inputs, last[i][0], S[i], att, v_first, i)
            last[i][0], x = inputs, x + y
            inputs = layer_norm(x, part, "ln2")
            y = model.channel_mix(inputs, last[i][1], ffn)
            last[i][1], x = inputs, x + y
        logits.append(layer_norm(x, model.w, "ln_out") @ model.w["head.weight"].T)
    return torch.stack(logits)


def shapes(version):
    vector, matrix = (1, 1, WIDTH), (WIDTH, WIDTH)
    if version == 7:
        att = {f"x_{n}": vector for n in "rwkvag"} | dict.fromkeys(("w0", "a0", "v0", "k_k", "k_a"), vector)
        for n, rank in (("w", 3), ("a", 2), ("v", 2), ("g", 5)):
            att |= {f"{n}1": (WIDTH, rank), f"{n}2": (rank, WIDTH)}
        att |= {"r_k": (WIDTH // HEAD, HEAD)}
        ffn = {"x_k": vector}
    else:
        att = {f"time_maa_{n}": vector for n in "xwkvrg"} | {"time_maa_w1": (WIDTH, 10), "time_maa_w2": (5, 2, WIDTH)}
        att |= {"time_decay": vector, "time_decay_w1": (WIDTH, 3), "time_decay_w2": (3, WIDTH)}
        att |= {"time_faaaa": (WIDTH // HEAD, HEAD), "gate.weight": matrix}
        ffn = {"time_maa_k": vector, "time_maa_r": vector, "receptance.weight": matrix}
    att |= {f"{n}.weight": matrix for n in ("receptance", "key", "value", "output")}
    att |= {"ln_x.weight": (WIDTH,), "ln_x.bias": (WIDTH,)}
    ffn |= {"key.weight": (HIDDEN, WIDTH), "value.weight": (WIDTH, HIDDEN)}
    return att, ffn


def weights(version):
    rng = torch.Generator().manual_seed(version)
    att, ffn = shapes(version)
    sizes = {"emb.weight": (VOCAB, WIDTH), "head.weight": (VOCAB, WIDTH)}
    norms = ["ln_out", "blocks.0.ln0", *(f"blocks.{i}.ln{j}" for i in range(DEPTH) for j in (1, 2))]
    sizes |= {f"{norm}.{name}": (WIDTH,) for norm in norms for name in ("weight", "bias")}
    for i in range(DEPTH):
        sizes |= {f"blocks.{i}.att.{n}": s for n, s in att.items()} | {f"blocks.{i}.ffn.{n}": s for n, s in ffn.items()}
    return {n: 0.7 * torch.randn(s, generator=rng, dtype=torch.float64) for n, s in sizes.items()}


MODELS = {7: Seven, 6: Six}
each_version = pytest.mark.parametrize("version", MODELS)


@each_version
def test_a_pth_file_of_the_original_gives_its_logits_and_tokens(version, tmp_path):
    tensors = weights(version)
    torch.save(tensors, tmp_path / "model.pth")
    model = load_checkpoint(tmp_path / "model.pth")
    assert model.dtype == torch.float64
    ids = torch.arange(1, 10) * 7 % VOCAB
    want = written_out(MODELS[version](tensors), ids)
    with torch.no_grad():
        assert_near(model(ids[None]).logits[0], want, what="logits")
    tokens, reference = ids[:4], MODELS[version](tensors)
    for _ in range(8):
        tokens = torch.cat([tokens, written_out(reference, tokens)[-1].argmax()[None]])
    got = model.generate(ids[None, :4], max_new_tokens=8, do_sample=False, eos_token_id=None)
    assert torch.equal(got[0], tokens)


def fla_seven(w):
    """The same tensors under fla's names."""
    found = {}
    names = {"receptance": "r_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj", "ln_x": "g_norm"}
    for i in range(DEPTH):
        att, target = f"blocks.{i}.att", f"model.layers.{i}.attn"
        for a, b in names.items():
            found |= {f"{target}.{b}.{n}": w[f"{att}.{a}.{n}"] for n in ("weight", "bias") if f"{att}.{a}.{n}" in w}
        found |= {f"{target}.{n}": w[f"{att}.{n}"] for n in ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "r_k")}
        found |= {f"{target}.{n}": w[f"{att}.{n}"].flatten() for n in ("k_k", "k_a")}
        for n in "wag" if i == 0 else "wagv":
            found |= {f"{target}.{n}_lora.lora.{j}.weight": w[f"{att}.{n}{k}"].T for j, k in ((0, 1), (2, 2))}
            found |= {} if n == "g" else {f"{target}.{n}_lora.lora.2.bias": w[f"{att}.{n}0"].flatten()}
        found |= {f"model.layers.{i}.ffn.{n}.weight": w[f"blocks.{i}.ffn.{n}.weight"] for n in ("key", "value")}
        found[f"model.layers.{i}.ffn.x_k"] = w[f"blocks.{i}.ffn.x_k"].flatten()
    return found


def fla_six(w):
    found = {}
    for i in range(DEPTH):
        att, target = f"blocks.{i}.att", f"model.layers.{i}.attn"
        order = [3, 0, 1, 2, 4]  # r, w, k, v, g among w, k, v, r, g
        down = w[f"{att}.time_maa_w1"].T.unflatten(0, (5, -1))[order].flatten(0, 1)
        up = w[f"{att}.time_maa_w2"][order].permute(2, 0, 1).flatten(1)
        found |= {f"{target}.x_proj.0.linear.weight": down, f"{target}.x_proj.2.weight": up}
        found[f"{target}.x_proj.0.mu"] = w[f"{att}.time_maa_x"].flatten()
        found[f"{target}.x_bias"] = torch.stack([w[f"{att}.time_maa_{n}"].flatten() for n in "rwkvg"])
        found[f"{target}.w_proj.linear.lora.0.weight"] = w[f"{att}.time_decay_w1"].T
        found[f"{target}.w_proj.linear.lora.2.weight"] = w[f"{att}.time_decay_w2"].T
        found[f"{target}.w_proj.linear.lora.2.bias"] = w[f"{att}.time_decay"].flatten()
        for n, name in zip("rkvg", ("receptance", "key", "value", "gate"), strict=True):
            found[f"{target}.{n}_proj.linear.weight"] = w[f"{att}.{name}.weight"]
        found |= {f"{target}.bonus": w[f"{att}.time_faaaa"], f"{target}.o_proj.weight": w[f"{att}.output.weight"]}
        found |= {f"{target}.g_norm.{n}": w[f"{att}.ln_x.{n}"] for n in ("weight", "bias")}
        ffn, target = f"blocks.{i}.ffn", f"model.layers.{i}.ffn"
        found[f"{target}.value.weight"] = w[f"{ffn}.value.weight"]
        for name, letter in (("key", "k"), ("receptance", "r")):
            found[f"{target}.{name}.linear.weight"] = w[f"{ffn}.{name}.weight"]
            found[f"{target}.{name}.mu"] = w[f"{ffn}.time_maa_{letter}"].flatten()
    return found


FLA = {
    7: (fla_seven, {"head_dim": HEAD, "fuse_norm": False}, HEAD * 1e-5),
    6: (fla_six, {"num_heads": WIDTH // HEAD, "expand_k": 1.0}, 1e-5),
}


def fla_folder(folder, version, **changes):
    rename, options, eps = FLA[version]
    w = weights(version)
    tensors = rename(w)
    norms = {"ln_out": "model.norm", "blocks.0.ln0": "model.layers.0.pre_norm"}
    for i in range(DEPTH):
        norms |= {f"blocks.{i}.ln{j}": f"model.layers.{i}.{n}_norm" for j, n in ((1, "attn"), (2, "ffn"))}
    tensors |= {f"{b}.{n}": w[f"{a}.{n}"] for a, b in norms.items() for n in ("weight", "bias")}
    tensors |= {"model.embeddings.weight": w["emb.weight"], "lm_head.weight": w["head.weight"]}
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors")
    config = {"model_type": f"rwkv{version}", "hidden_size": WIDTH, "num_hidden_layers": DEPTH, "vocab_size": VOCAB}
    (folder / "config.json").write_text(json.dumps(config | options | changes))
    return MODELS[version](w, eps)


@each_version
def test_a_folder_of_fla_gives_the_same_function(version, tmp_path):
    reference = fla_folder(tmp_path, version)
    model = load_checkpoint(tmp_path)
    ids = torch.arange(9) * 3 % VOCAB
    with torch.no_grad():
        assert_near(model(ids[None]).logits[0], written_out(reference, ids), what="logits")


def test_the_keys_of_fused_norms_have_an_epsilon_of_their_own(tmp_path):
    fla_folder(tmp_path, 7, fuse_norm=True)
    assert load_checkpoint(tmp_path).config.mixer_options["key_norm_eps"] == 1e-6


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "gelu"},
        {"norm_bias": False},
        {"value_dim": 2 * WIDTH},
        {"attn": {"layers": [1]}},
        {"norm_eps": 1e-3},
    ],
)
def test_options_that_were_not_checked_raise(change, tmp_path):
    fla_folder(tmp_path, 7, **change)
    with pytest.raises(ValueError, match=f"load_checkpoint: received {next(iter(change))}=.*Remedy"):
        load_checkpoint(tmp_path)


def test_a_pth_file_of_something_else_raises(tmp_path):
    torch.save({"blocks.0.att.time_first": torch.zeros(3)}, tmp_path / "old.pth")
    with pytest.raises(ValueError, match=r"a \.pth file of another model; wanted one of RWKV-6 or RWKV-7.*Remedy"):
        load_checkpoint(tmp_path / "old.pth")


@each_version
def test_a_converted_model_is_saved_and_loaded_as_one_of_seqconv(version, tmp_path):
    torch.save(weights(version), tmp_path / "model.pth")
    model = load_checkpoint(tmp_path / "model.pth")
    model.save_pretrained(tmp_path / "saved")
    again = SeqConvForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float64).eval()
    ids = torch.arange(7)[None]
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
