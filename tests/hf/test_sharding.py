"""FSDP2: sharded models compute what one process computes, and parameters that stay in float32 do."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tiny import causal_mixers, each_causal, language_model, prompts
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import trainer_pt_utils

from seqconv import SeqConvVisionConfig, SeqConvVisionForImageClassification, fsdp
from seqconv.mixer import Mixer
from seqconv.parameters import kept_parameters
from tolerances import assert_near

HALF = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    store = dist.FileStore(str(tmp_path_factory.mktemp("store") / "file"), 1)
    dist.init_process_group("gloo", rank=0, world_size=1, store=store)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def shard(model, mesh, **options):
    for block in model.model.backbone.blocks:
        fully_shard(block, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def gradients(model, ids):
    model.train()(ids, labels=ids).loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: g.full_tensor() if isinstance(g, DTensor) else g for name, g in found.items()}


def kept_names(model):
    kept = kept_parameters([model])
    return {name for name, p in model.named_parameters() if id(p) in kept}


@each_causal
def test_sharded_gradients_and_generation_equal_those_of_one_process(mixer, mesh):
    ids = prompts()
    want = gradients(language_model(mixer, mlp="swiglu"), ids)
    got = gradients(shard(language_model(mixer, mlp="swiglu"), mesh), ids)
    assert set(got) == set(want)
    for name, gradient in got.items():
        assert_near(gradient, want[name], what=name)
    model = shard(language_model(mixer, mlp="swiglu"), mesh)
    plain = language_model(mixer, mlp="swiglu")
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    ones = torch.ones_like(ids)
    assert torch.equal(
        model.generate(ids, attention_mask=ones, **options), plain.generate(ids, attention_mask=ones, **options)
    )


@each_causal
def test_mixed_precision_gathers_what_stays_in_float32_unrounded(mixer, mesh):
    """The sharded float32 model computes what the same model converted to bfloat16 computes."""
    ids, half = prompts(), language_model(mixer, dtype=torch.float32).to(torch.bfloat16)
    kept, seen = kept_names(half), {}
    want = gradients(half, ids)
    model = language_model(mixer, dtype=torch.float32)
    exact = {name: p.detach().clone() for name, p in model.named_parameters()}
    shard(model, mesh, mp_policy=HALF)

    def record(prefix):
        def hook(module, args, output):
            seen.update({f"{prefix}.{name}": p.detach().clone() for name, p in module.named_parameters()})

        return hook

    for name, module in model.named_modules():
        if isinstance(module, Mixer):
            module.register_forward_hook(record(name))
    got = gradients(model, ids)
    assert seen
    for name, value in seen.items():
        assert value.dtype == (torch.float32 if name in kept else torch.bfloat16), name
        if name in kept:
            assert torch.equal(value, exact[name]), name
    for name in kept & set(want):
        assert got[name].dtype == torch.float32
        assert_near(got[name], want[name].float(), dtype=torch.bfloat16, what=name)


@each_causal
def test_a_model_in_half_precision_is_sharded_with_its_float32_parameters(mixer, mesh):
    ids = prompts()
    want = gradients(language_model(mixer, dtype=torch.bfloat16), ids)
    model = shard(language_model(mixer, dtype=torch.bfloat16), mesh)
    got = gradients(model, ids)
    for name, gradient in got.items():
        assert gradient.dtype == want[name].dtype
        assert_near(gradient.float(), want[name].float(), dtype=torch.bfloat16, what=name)


@each_causal
def test_states_are_not_rounded_by_mixed_precision(mixer, mesh):
    half = language_model(mixer, dtype=torch.float32).to(torch.bfloat16).eval()
    model, ids = shard(language_model(mixer, dtype=torch.float32).eval(), mesh, mp_policy=HALF), prompts(2, 9)
    with torch.no_grad():
        outputs = []
        for each in (half, model):
            first = each(ids[:, :6], use_cache=True)
            for t in range(6, 9):
                first = each(ids[:, t : t + 1], past_key_values=first.past_key_values)
            outputs.append((first.logits, first.past_key_values.state))
    (want, want_state), (got, got_state) = outputs
    kinds = [[leaf.tensor.dtype for leaf in state._leaves()] for state in (want_state, got_state)]
    assert kinds[0] == kinds[1]
    assert_near(got.float(), want.float(), dtype=torch.bfloat16)


@pytest.mark.parametrize("mixer", ["mamba", "s4", "mega"])
@pytest.mark.parametrize("wrap", [shard, lambda model, mesh: DistributedDataParallel(model)], ids=["fsdp2", "ddp"])
def test_the_trainer_decays_the_same_parameters_of_wrapped_models(mixer, wrap, mesh):
    rules = ([torch.nn.LayerNorm], ["bias", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"])
    want = trainer_pt_utils.get_parameter_names(language_model(mixer, mlp="swiglu"), *rules)
    model = wrap(language_model(mixer, mlp="swiglu"), mesh)
    assert [name.removeprefix("module.") for name in trainer_pt_utils.get_parameter_names(model, *rules)] == want
    assert not [name for name in want if name.endswith(("A_log", "inv_dt", "A_real", "alpha", "qk_scale"))]


@pytest.mark.parametrize(
    "mixers",
    [
        pytest.param(["attention", "mamba", "mega", "rwkv7", "s4d"], id="some"),
        pytest.param(causal_mixers(), id="all", marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_as_one(mixers, tmp_path):
    worker = Path(__file__).with_name("sharding_worker.py")
    for rank in range(2):
        command = [sys.executable, str(worker), str(rank), str(tmp_path), *mixers]
        if rank == 0:
            other = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        else:
            done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    _, error = other.communicate(timeout=240)
    assert other.returncode == 0, error
    assert done.returncode == 0, done.stderr


NORMED = {
    "slab": {"mixer_options": {"num_heads": 2}, "final_norm": "prep_batch", "block_options": {"norm": "prep_batch"}},
    "manhattan": {"mixer_options": {"num_heads": 2}, "stem": "batch_norm", "downsampling": "batch_norm"},
    "mobile_mamba": {"stage_blocks": ["mobile", "mobile"], "final_norm": "batch"},
}


@pytest.mark.parametrize("mixer", NORMED)
def test_batch_norms_train_in_float32_under_mixed_precision(mixer, mesh):
    """PyTorch's batch norm takes parameters and statistics of one dtype, and FSDP casts parameters alone."""
    options = {"mixer": mixer, "dims": [8, 16], "depths": [1, 1], **NORMED[mixer]}
    config = SeqConvVisionConfig(backbone_name="hierarchical", backbone_options=options, num_labels=2)
    model = SeqConvVisionForImageClassification(config).train()
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    seen = []
    for norm in norms:
        norm.register_forward_hook(
            lambda m, args, y: seen.append((args[0].dtype, m.weight.dtype, m.running_mean.dtype))
        )
    fully_shard(model, mesh=mesh, mp_policy=HALF)
    model(pixel_values=torch.randn(2, 3, 32, 32), labels=torch.tensor([0, 1])).loss.backward()
    assert norms
    assert set(seen) == {(torch.bfloat16, torch.float32, torch.float32)}
    assert all(norm.weight.grad is not None for norm in norms)


def test_a_torch_whose_groups_cannot_be_split_is_warned_of(monkeypatch):
    """Without the function that makes groups, float32 parameters would be rounded without a word."""
    monkeypatch.delattr(f"{fsdp.CALLERS[0]}.{fsdp.GROUPING}")
    with pytest.warns(RuntimeWarning, match=r"_init_param_group.*rounded.*Remedy: shard without param_dtype"):
        exec("visit()", {"__name__": fsdp.CALLERS[0], "visit": fsdp.keep_float32_groups})
    fsdp.keep_float32_groups()  # visited by anything else: no warning, which would be an error here
