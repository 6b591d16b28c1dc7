"""``accelerate`` as a call: what it replaces, what it puts back, what it raises, where originals keep their place."""

import copy
import gc
import os
import pickle
import re
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from tiny_families import FAMILIES, build, chunks, tokens
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.models.mamba import modeling_mamba

import seqconv
from seqconv.integrations.transformers import active, functions, patching
from seqconv.integrations.transformers.families import FAMILIES as KNOWN
from seqconv.integrations.transformers.families import check_packing, family_of
from seqconv.integrations.transformers.functions import FUNCTIONS
from seqconv.integrations.transformers.linear import DecodingLinear
from seqconv_kernels._core import native
from seqconv_kernels.token_program import TokenProgram
from tolerances import assert_near

pytestmark = pytest.mark.filterwarnings("default")  # transformers warns of its own deprecations


def globals_of_mamba():
    kept = {name: getattr(modeling_mamba, name) for name in FUNCTIONS if hasattr(modeling_mamba, name)}
    return kept | {c: getattr(modeling_mamba, c).forward for c in ("MambaMixer", "MambaModel", "MambaForCausalLM")}


@pytest.fixture
def scans(monkeypatch):
    """How many scans ran on seqconv."""
    seen = []
    scan = FUNCTIONS["mamba_selective_scan"]
    counted = functions.Function(
        scan.kernel, scan.package, lambda *args, **kwargs: seen.append(1) or scan.run(*args, **kwargs)
    )
    monkeypatch.setitem(FUNCTIONS, "mamba_selective_scan", counted)
    return seen


def test_importing_changes_nothing_and_every_end_puts_everything_back():
    model, before = build("mamba"), globals_of_mamba()
    with seqconv.accelerate(model) as acceleration:
        assert all(getattr(modeling_mamba, n) is not f for n, f in before.items() if n in FUNCTIONS)
        acceleration.restore()
        assert globals_of_mamba() == before
    other = build("mamba")
    first, second = seqconv.accelerate(model), seqconv.accelerate(other)
    first.restore()
    assert globals_of_mamba() != before
    second.restore()
    assert globals_of_mamba() == before
    assert active() == ()
    assert not any(hasattr(m, "_seqconv_accelerated") for m in model.modules())


def test_only_the_given_model_and_its_copies_take_part(scans):
    model, other = build("mamba"), build("mamba")
    with seqconv.accelerate(model):
        other(tokens())
        assert len(scans) == 0
        model(tokens())
        assert len(scans) == 2
        copy.deepcopy(model)(tokens())
        assert len(scans) == 4


def test_copies_take_part_until_the_end_and_can_be_accelerated_again(scans):
    model = build("mamba")
    with seqconv.accelerate(model):
        copied, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
        pickled(tokens())
        assert len(scans) == 0
    for made in (copied, pickled):
        with seqconv.accelerate(made), seqconv.accelerate(model):
            scans.clear()
            made(tokens())
            assert len(scans) == 2


def test_linear_layers_decode_fast_until_the_end():
    model = build("mamba", hidden_size=256, intermediate_size=512)  # large enough to be worth a kernel
    plain = {name: m for name, m in model.named_modules() if type(m) is nn.Linear}
    x = torch.randn(1, 512)
    out_proj = model.backbone.layers[0].mixer.out_proj
    with torch.no_grad(), seqconv.accelerate(model):
        assert all(type(m) is DecodingLinear for m in plain.values())
        with torch.profiler.profile() as seen:
            y = out_proj(x)
        assert not any("addmm" in event.key or event.key == "aten::mm" for event in seen.key_averages())
        assert_near(y, torch.nn.functional.linear(x, out_proj.weight))
        assert type(pickle.loads(pickle.dumps(out_proj))) is nn.Linear
        assert type(copy.deepcopy(out_proj)) is nn.Linear
        assert torch.equal(copy.deepcopy(model).state_dict()["lm_head.weight"], model.lm_head.weight)
    assert all(type(m) is nn.Linear for m in plain.values())


def test_an_acceleration_keeps_no_model_in_memory(scans):
    before = globals_of_mamba()
    model = build("mamba")
    seqconv.accelerate(model)
    copied = copy.deepcopy(model)
    watched = weakref.ref(model)
    del model
    gc.collect()
    assert watched() is None
    copied(tokens())
    assert len(scans) == 2
    assert len(active()) == 1
    del copied
    gc.collect()
    assert active() == ()
    with seqconv.accelerate(build("mamba")):
        pass
    assert globals_of_mamba() == before


def test_all_models_also_those_built_later(scans):
    with seqconv.accelerate() as acceleration:
        build("mamba")(tokens())
        assert len(scans) == 2
        assert "MambaMixer" in repr(acceleration)
    build("mamba")(tokens())
    assert len(scans) == 2


def test_files_imported_later_are_patched_when_a_model_is_built():
    code = """
import sys, torch, seqconv
assert not any("modeling_mamba" in name for name in sys.modules)
handle = seqconv.accelerate()
assert not any("modeling_mamba" in name for name in sys.modules), "nothing is imported for it"
from transformers import Mamba2Config, Mamba2Model
sizes = {"hidden_size": 8, "num_heads": 2, "head_dim": 8, "n_groups": 1, "num_hidden_layers": 1, "state_size": 4}
model = Mamba2Model(Mamba2Config(vocab_size=9, **sizes))
assert "Mamba2Mixer" in repr(handle), repr(handle)
assert model(torch.ones(1, 5).long()).last_hidden_state.isfinite().all()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_report_says_what_was_replaced():
    with seqconv.accelerate(build("mamba")) as acceleration:
        (report,) = acceleration.report
    assert report.layers == {"MambaMixer": 2}
    assert report.functions["selective_scan_fn"] == "seqconv"
    assert any("chunks" in text for text in report.corrected)
    assert "MambaMixer × 2" in str(report)
    assert acceleration.report == ()
    assert repr(acceleration) == "nothing is accelerated"


def test_a_model_that_is_accelerated_already():
    model = build("mamba")
    want = model(tokens()).logits
    with seqconv.accelerate(model):
        with pytest.raises(ValueError, match=r"accelerated already.*call restore\(\)"):
            seqconv.accelerate(model)
        assert_near(model(tokens()).logits, want)
    with seqconv.accelerate(), pytest.raises(ValueError, match="second call for all models"):
        seqconv.accelerate()


def test_the_name_of_a_model_is_no_model(unannotated):
    with pytest.raises(ValueError, match=r"received 'gpt2'.*from_pretrained"):
        seqconv.accelerate("gpt2")


def test_a_family_without_layers_to_replace():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=1, n_positions=9)).eval()
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel.*none of its layers.*a model of bailing_hybrid, bamba"):
        seqconv.accelerate(model)
    with pytest.raises(ValueError, match="a Linear"):
        seqconv.accelerate(nn.Linear(2, 2))
    assert active() == ()
    assert model(torch.ones(1, 3).long()).logits.isfinite().all()


@pytest.mark.parametrize("version", ["5.16.3", "6.0.0"])
def test_a_transformers_outside_of_the_range(monkeypatch, version):
    import transformers

    model, before = build("mamba"), globals_of_mamba()
    monkeypatch.setattr(transformers, "__version__", version)
    with pytest.raises(ValueError, match=rf"transformers {version}; wanted at least 5.17 and less than 6.0"):
        seqconv.accelerate(model)
    assert globals_of_mamba() == before
    assert model(tokens()).logits.isfinite().all()


def test_shapes_that_no_op_serves_run_on_what_was_there(monkeypatch, caplog):
    """A time step per channel, which Mamba-2's layers of transformers never pass."""
    state, x, dt = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4), torch.rand(2, 3, 4)
    A, B = -torch.rand(3, 4, 5), torch.randn(2, 1, 5)
    from transformers.models.mamba2 import modeling_mamba2

    model = build("mamba2")
    want = modeling_mamba2.mamba2_selective_state_update(state.clone(), x, dt, A, B, B)
    monkeypatch.setattr(patching, "_warned", set())
    with seqconv.accelerate(model):
        mixer = model.backbone.layers[0].mixer
        monkeypatch.setattr(patching.CURRENT, "call", patching.begin(mixer, {}))
        got = modeling_mamba2.mamba2_selective_state_update(state.clone(), x, dt, A, B, B)
        monkeypatch.undo()
    assert torch.equal(got, want)
    assert "received dt that differs inside a head" in caplog.text


def test_an_original_package_keeps_its_place_where_it_runs(monkeypatch):
    """Without such a device: tensors on it are stood for by their device's name."""
    function = FUNCTIONS["mamba_selective_scan"]
    monkeypatch.setattr(functions, "find_spec", lambda package: object())
    assert function.installed()
    assert not patching.keeps_place(print, function, (torch.zeros(1),))
    monkeypatch.setattr(patching, "ACCELERATORS", ("cpu",))
    assert patching.keeps_place(print, function, (torch.zeros(1),))
    run = patching.dispatching("scan", lambda **given: "the original", function)
    with monkeypatch.context() as inside:
        inside.setattr(patching.CURRENT, "call", patching.begin(build("mamba").backbone.layers[0].mixer, {}))
        assert run(u=torch.zeros(1)) == "the original"
    model, ran = build("mamba"), []
    scan = modeling_mamba.mamba_selective_scan
    monkeypatch.setattr(modeling_mamba, "mamba_selective_scan", lambda *a, **k: ran.append(1) or scan(*a, **k))
    with seqconv.accelerate(model) as acceleration:
        model(tokens())
        assert len(ran) == 2
        assert acceleration.report[0].functions["selective_scan_fn"] == "seqconv, mamba_ssm on GPUs"
    with seqconv.accelerate(model, override=True) as acceleration:
        model(tokens())
        assert len(ran) == 2
        assert acceleration.report[0].functions["selective_scan_fn"] == "seqconv"


def test_code_from_elsewhere_is_no_checked_family():
    assert family_of("transformers.models.mamba.modeling_mamba") == "mamba"
    remote = family_of("transformers_modules.someone.modeling_mamba")
    assert remote not in KNOWN
    with pytest.raises(ValueError, match=r"packed documents in a model of family 'transformers_modules\.someone"):
        check_packing(remote)


def test_every_kernel_that_the_installed_transformers_calls_is_served():
    """A kernel under a new name is seen here."""
    import transformers

    hook = re.compile(r'use_kernel_func_from_hub_with_fallback\(\s*"(\w+)",\s*"(\w+)",?[^)]*\)\ndef (\w+)')
    found = set()
    for path in (Path(transformers.__file__).parent / "models").glob("*/modeling_*.py"):
        found |= set(hook.findall(path.read_text()))
    assert {(f.kernel, f.package, name) for name, f in FUNCTIONS.items()} == found


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"qwen4_exp"}))  # whose indexer loops over tokens
@pytest.mark.slow
def test_compiled_models_give_the_same(family):
    worker = Path(__file__).with_name("compiled_worker.py")
    paths = os.pathsep.join([str(worker.parent), *sys.path])
    run = subprocess.run(
        [sys.executable, worker, family], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 1e-4


ROLLED_BACK = {"lfm2", "lfm2_moe", "lfm3", "inkling", "inkling2"}
"""Families whose states transformers can roll back."""


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=[] if f in ("mamba", "lfm2") else pytest.mark.slow) for f in FAMILIES]
)
def test_assisted_generation(family):
    """Of the models whose states transformers can roll back; it raises for the others, and so it does here."""
    model, assistant, ids = build(family), build(family), tokens(1, 6)
    with torch.no_grad():
        assistant.get_output_embeddings().weight.add_(0.02 * torch.randn_like(assistant.get_output_embeddings().weight))
    want = model.generate(ids, max_new_tokens=10, do_sample=False)
    with seqconv.accelerate(model), seqconv.accelerate(assistant):
        if family in ROLLED_BACK:
            got = model.generate(ids, max_new_tokens=10, do_sample=False, assistant_model=assistant)
            assert torch.equal(got, want)
        else:
            with pytest.raises((ValueError, RuntimeError), match=r"stateful|requires a cache"):
                model.generate(ids, max_new_tokens=10, do_sample=False, assistant_model=assistant)


def steps_after_a_prompt(model, ids, runs):
    """Logits of single tokens, and how many lists of ops each took."""
    logits, counts = [], []
    cache = model(ids[:, :9], use_cache=True).cache_params
    for t in range(9, ids.shape[1]):
        before = len(runs)
        logits.append(model(ids[:, t : t + 1], cache_params=cache, use_cache=True).logits)
        counts.append(len(runs) - before)
    return torch.cat(logits, 1), counts


@pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_of_mamba_is_one_list_of_ops_where_nothing_else_takes_part(dtype, monkeypatch):
    runs, run = [], TokenProgram.run
    monkeypatch.setattr(TokenProgram, "run", lambda self: runs.append(1) or run(self))
    model, ids = build("mamba", dtype=dtype, use_bias=True), tokens()
    with torch.no_grad():
        want, none = steps_after_a_prompt(model, ids, runs)
        with seqconv.accelerate(model):
            got, every_layer = steps_after_a_prompt(model, ids, runs)
            projection = model.backbone.layers[0].mixer.dt_proj
            hook = projection.register_forward_hook(lambda module, args, y: y)
            hooked, other_layers = steps_after_a_prompt(model, ids, runs)
            hook.remove()
    assert set(none) == {0}
    assert set(every_layer) == {2}
    assert set(other_layers) == {1}
    for y in (got, hooked):
        assert_near(y, want, dtype=dtype)


def test_states_of_transformers_go_on_under_seqconv():
    """A cache filled before is read, in the dtype that it has."""
    model = build("mamba2", dtype=torch.bfloat16)
    ids, mask = tokens(), torch.ones(2, 21).long()
    with torch.no_grad():
        want = chunks(model, ids, mask, (20, 1))
        first = model(ids[:, :20], use_cache=True)
        with seqconv.accelerate(model):
            last = model(ids[:, 20:], cache_params=first.cache_params, use_cache=True).logits
    assert_near(last, want[:, 20:], dtype=torch.bfloat16)
