"""Tiny StripedHyena, Evo and Evo 2 made and run with the originals' own code in float64: logits, tokens, files, errors.

``tests/golden/evo2_variant_checkpoint`` has the options of vortex that the published models do not use.
"""

import io
import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from golden_cases import GOLDEN, assert_close
from seqconv.convolution.replacement import long_convolutions
from seqconv.distill import distill
from seqconv.filters.state_space.modal import ModalFilter
from seqconv.interop import load_checkpoint
from seqconv.interop.checkpoint import convert_checkpoint
from seqconv.interop.conversion import convert
from seqconv.interop.importer import Weights
from tolerances import assert_near

EVO2, EVO = GOLDEN / "evo2_checkpoint", GOLDEN / "evo_checkpoint"
CASES = [EVO2, GOLDEN / "evo2_variant_checkpoint", EVO, GOLDEN / "stripedhyena_checkpoint"]
PROMPT = 3
"""Tokens before decoding, fewer than the taps of any filter: there vortex decodes with wrong taps."""


def contents(folder):
    """Configuration and tensors of a case."""
    if folder == EVO2:
        return yaml.safe_load((folder / "config.yml").read_text()), torch.load(folder / "weights.pt", weights_only=True)
    return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


def copied(tmp_path, folder=EVO2, **changes):
    """A copy with another configuration; ``...`` takes a name out."""
    shutil.copytree(folder, tmp_path / "copy")
    config = {**contents(folder)[0], **changes}
    config = {name: value for name, value in config.items() if value is not ...}
    name, write = ("config.json", json.dumps) if folder == EVO else ("config.yml", yaml.safe_dump)
    (tmp_path / "copy" / name).write_text(write(config))
    return tmp_path / "copy"


def equals_the_original(source, folder):
    want = load_file(folder / "expected.safetensors")
    model = load_checkpoint(source, dtype=torch.float64)
    assert_close(model(want["in.ids"]).logits, want["out.logits"], 1e-9, 1e-10, "logits")


@pytest.mark.parametrize("folder", CASES, ids=lambda f: f.name)
def test_logits_steps_and_greedy_tokens_of_the_original(folder, tmp_path):
    want = load_file(folder / "expected.safetensors")
    ids, greedy = want["in.ids"], want["out.greedy"]
    model = load_checkpoint(folder, dtype=torch.float64)
    with torch.no_grad():
        assert_close(model(ids).logits, want["out.logits"], 1e-9, 1e-10, "logits")
        out = model(ids[:, :PROMPT], use_cache=True)
        for t in range(PROMPT, min(ids.shape[1], 16)):
            out = model(ids[:, t : t + 1], past_key_values=out.past_key_values, use_cache=True)
            assert_near(out.logits[:, 0], want["out.logits"][:, t])
    tokens = model.generate(ids[:, :PROMPT], max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(tokens, greedy)
    model.save_pretrained(tmp_path)
    assert_near(AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits, want["out.logits"])


@pytest.mark.parametrize("folder", [EVO2, EVO], ids=["evo2", "evo"])
def test_every_tensor_of_the_original_gets_a_gradient(folder):
    config, tensors = contents(folder)
    leaves = {name: t.requires_grad_() for name, t in tensors.items() if "inv_freq" not in name}
    _, converted = convert_checkpoint(config, Weights("it", tensors))
    sum((t * torch.arange(1, t.numel() + 1).view_as(t)).sum() for t in converted.values()).backward()
    assert all(t.grad is not None and (t.grad != 0).all() for t in leaves.values())


def test_what_decodes_with_a_constant_state_or_a_window():
    kinds = [block.mixer.state_kind for block in load_checkpoint(EVO2).model.backbone.blocks]
    assert kinds == ["window", "window", "constant", "growing", "window"]
    kinds = [block.mixer.state_kind for block in load_checkpoint(EVO).model.backbone.blocks]
    assert kinds == ["constant", "growing", "constant"]


def test_filters_keep_float32_in_a_file_of_both_dtypes(tmp_path):
    """As vortex stores them: all in bfloat16 but for poles, residues and the taps of medium filters."""
    folder, wide = copied(tmp_path), ("log_poles", "residues", "blocks.1.filter.h")
    stored = {n: t if n.endswith(wide) else t.bfloat16() for n, t in contents(EVO2)[1].items()}
    torch.save(stored, folder / "weights.pt")
    model = load_checkpoint(folder)
    assert model.dtype == torch.bfloat16
    filters = {n: p for n, p in model.named_parameters() if "gated_conv.convolution.filter" in n}
    assert {p.dtype for n, p in model.named_parameters() if n not in filters} == {torch.bfloat16}
    assert {p.dtype for p in filters.values()} == {torch.float32}
    blocks = model.model.backbone.blocks
    assert torch.equal(blocks[1].mixer.gated_conv.convolution.filter.weight, stored["blocks.1.filter.h"][:, 0])
    assert torch.equal(blocks[2].mixer.gated_conv.convolution.filter.residues, stored["blocks.2.filter.residues"])


def test_a_file_next_to_its_configuration(tmp_path):
    shutil.copy(EVO2 / "weights.pt", tmp_path / "evo2_tiny.pt")
    with pytest.raises(ValueError, match=r"'.*evo2_tiny.pt' without config.json.*Remedy"):
        load_checkpoint(tmp_path / "evo2_tiny.pt")
    shutil.copy(EVO2 / "config.yml", tmp_path / "tiny.yml")
    equals_the_original(tmp_path / "evo2_tiny.pt", EVO2)
    shutil.copy(CASES[1] / "config.yml", tmp_path / "other.yml")
    with pytest.raises(ValueError, match=r"other.yml, tiny.yml in .*one configuration.*Remedy"):
        load_checkpoint(tmp_path / "evo2_tiny.pt")
    (tmp_path / "tiny.yml").rename(tmp_path / "evo2_tiny.yml")
    equals_the_original(tmp_path / "evo2_tiny.pt", EVO2)
    save_file(contents(EVO2)[1], tmp_path / "evo2_tiny.safetensors")
    equals_the_original(tmp_path / "evo2_tiny.safetensors", EVO2)
    (tmp_path / "evo2_tiny.yml").write_text("a: [")
    with pytest.raises(ValueError, match=r"a damaged file in .*evo2_tiny.yml.*Remedy"):
        load_checkpoint(tmp_path / "evo2_tiny.pt")


def test_shards_and_the_names_of_the_inference_code(tmp_path):
    config, tensors = contents(EVO)
    (tmp_path / "config.yml").write_text(yaml.safe_dump({k: v for k, v in config.items() if k != "model_type"}))
    tensors = {name.removeprefix("backbone."): t for name, t in tensors.items()}
    shards = {name: f"model-{i % 2 + 1}.safetensors" for i, name in enumerate(tensors)}
    for shard in set(shards.values()):
        save_file({name: t for name, t in tensors.items() if shards[name] == shard}, tmp_path / shard)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    equals_the_original(tmp_path, EVO)


def test_scales_of_fp8_are_left_out_and_other_bytes_are_not(tmp_path):
    folder, tensors = copied(tmp_path), contents(EVO2)[1]
    tensors |= {"blocks.0.projections._extra_state": io.BytesIO(b"scales"), "blocks.1.projections._extra_state": None}
    torch.save(tensors, folder / "weights.pt")
    equals_the_original(folder, EVO2)
    torch.save(tensors | {"blocks.0.mlp.l1._extra_state": io.BytesIO(b"scales")}, folder / "weights.pt")
    with pytest.raises(ValueError, match=r"unexpected tensors blocks\.0\.mlp\.l1\._extra_state"):
        load_checkpoint(folder)


def test_a_config_json_of_something_else_next_to_a_pickle(tmp_path):
    folder = copied(tmp_path)
    (folder / "config.json").write_text('{"model_name": "evo2"}')
    equals_the_original(folder, EVO2)
    (folder / "config.yml").unlink()
    with pytest.raises(ValueError, match=r"config\.json without model_type.*a YAML file"):
        load_checkpoint(folder)


def test_parts_are_to_be_joined(tmp_path):
    folder = copied(tmp_path)
    (folder / "weights.pt").rename(folder / "evo2_40b.pt.part0")
    with pytest.raises(ValueError, match=r"weights in parts.*Remedy: join them: cat evo2_40b.pt.part\* > evo2_40b.pt"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("folder", "change", "message"),
    [
        (EVO2, {"interleaved": True}, "'interleaved'.*did you mean 'interleave'"),
        (EVO2, {"final_norm": False}, "final_norm=False"),
        (EVO2, {"smeared_gqa": True}, "smeared_gqa=True"),
        (EVO2, {"mlp_activation": "relu"}, "mlp_activation='relu'"),
        (EVO2, {"long_fir_threshold": 9}, "long_fir_threshold=9"),
        (EVO2, {"proj_groups": 2}, "proj_groups=2.*splits by heads"),
        (EVO2, {"hcm_filter_groups": 1}, "groups=1"),
        (EVO2, {"hcs_layer_idxs": [0]}, "layer 4 in none of the lists"),
        (EVO2, {"rotary_emb_base": 500}, "inv_freq that is not that of rotary_emb_base=500"),
        (EVO2, {"inner_mlp_size": 33}, "inner_mlp_size=33.*12"),
        (EVO2, {"eps": ...}, "without eps"),
        (EVO2, {"qkv_proj_bias": True}, "without 'blocks.0.projections.bias'"),
        (EVO, {"hyena_filter_groups": 2}, "hyena_filter_groups=2"),
        (EVO, {"split_k1": True}, "'split_k1'.*did you mean 'split_k0'"),
        (EVO, {"short_filter_bias": False}, "short_filter_bias=False"),
    ],
)
def test_options_that_were_not_read_or_do_not_fit_raise(tmp_path, folder, change, message):
    with pytest.raises(ValueError, match=rf"(?s){message}"):
        load_checkpoint(copied(tmp_path, folder, **change))


@pytest.mark.parametrize("folder", [EVO2, EVO], ids=["evo2", "evo"])
def test_converted_with_the_tokenizer_of_bytes(tmp_path, folder):
    written = convert(folder, tmp_path / "out")
    assert written.kind == ("evo2" if folder == EVO2 else "stripedhyena")
    assert written.tokenizer
    model, tokenizer = (auto.from_pretrained(tmp_path / "out") for auto in (AutoModelForCausalLM, AutoTokenizer))
    equals_the_original(tmp_path / "out", folder)
    assert (model.config.eos_token_id, model.config.pad_token_id) == (0, 1)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1)
    text = "ACGT\0\1né Ā"
    assert tokenizer(text).input_ids == list(text.encode())
    assert tokenizer.decode(tokenizer(text).input_ids) == text


@pytest.mark.parametrize(("folder", "places"), [(EVO2, 1), (EVO, 2)], ids=["evo2", "evo"])
def test_modal_filters_are_distilled(folder, places):
    want = load_file(folder / "expected.safetensors")
    model = load_checkpoint(folder, dtype=torch.float64)
    done = distill(model, 3 if folder == EVO2 else 8, length=64, recurrent=True, method="kung-varpro")
    filters = [c.filter for c in long_convolutions(done.model).values()]
    assert len(filters) == len(done.certificates) == places
    assert all(isinstance(filter, ModalFilter) for filter in filters)
    difference = (done.model(want["in.ids"]).logits - want["out.logits"]).norm() / want["out.logits"].norm()
    assert difference < 1e-3, "the order of the filters: complex poles count twice"
