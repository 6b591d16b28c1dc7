"""Packed documents in transformers' models on seqconv: each as if it were alone, in values and gradients."""

import pytest
import torch
from tiny_families import FAMILIES, RELEASE, SIZES, VOCAB, build
from torch.nn import functional as F
from torch.nn.functional import cross_entropy
from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

import seqconv
from seqconv.integrations.transformers.families import FAMILIES as KNOWN
from tolerances import assert_near

pytestmark = pytest.mark.filterwarnings("default")  # transformers warns of its own deprecations
PACKING = [name for name in FAMILIES if KNOWN[name].packing]
LENGTHS = ((5, 9, 3), (8, 1, 8))
"""Documents of two rows of one length."""


def documents():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(2, VOCAB, (length,), generator=generator) for row in LENGTHS for length in row]


def alone(model):
    """Logits of every document alone, and gradients of the sum of their losses."""
    model.zero_grad()
    found = []
    for ids in documents():
        logits = model(ids[None], use_cache=False).logits[0]
        if len(ids) > 1:
            cross_entropy(logits[:-1], ids[1:], reduction="sum").backward()
        found.append(logits.detach())
    return torch.cat(found), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def packed(model, **arguments):
    """The same of one call, for rows or for all documents in one row."""
    model.zero_grad()
    rows = arguments.pop("rows")
    ids = torch.cat(documents()).view(rows, -1)
    logits = model(ids, **arguments).logits.flatten(0, 1)
    starts = torch.tensor([length for row in LENGTHS for length in row]).cumsum(0)[:-1]
    targets = ids.flatten().roll(-1).index_fill(0, torch.cat([starts - 1, torch.tensor([-1]) % len(logits)]), -100)
    cross_entropy(logits, targets, reduction="sum").backward()
    return logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def arguments(kind, rows):
    lengths = torch.tensor([length for row in LENGTHS for length in row])
    bounds = F.pad(lengths.cumsum(0), (1, 0)).int()
    return {
        "position_ids": {"position_ids": torch.cat([torch.arange(n) for n in lengths]).view(rows, -1)},
        "seq_idx": {"seq_idx": torch.arange(len(lengths)).repeat_interleave(lengths).view(rows, -1).int()},
        "cu_seq_lens": {
            "cu_seq_lens_q": bounds,
            "cu_seq_lens_k": bounds,
            "max_length_q": int(lengths.max()),
            "max_length_k": int(lengths.max()),
        },
    }[kind]


def assert_same(got, want):
    assert_near(got[0], want[0], what="logits")
    assert got[1].keys() == want[1].keys()
    for name, gradient in want[1].items():
        assert_near(got[1][name], gradient, what=name)


@pytest.mark.parametrize("family", PACKING)
def test_documents_are_as_each_alone_however_their_boundaries_are_given(family):
    model = build(family).train()
    with seqconv.accelerate(model):
        want = alone(model)
        for kind in ("position_ids", "seq_idx", "cu_seq_lens"):
            for rows in (1, 2):
                assert_same(packed(model, rows=rows, **arguments(kind, rows)), want)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", ["mamba", "qwen3_next"])
def test_documents_stay_apart_where_layers_are_computed_again(family, reentrant):
    model = build(family).train()
    with seqconv.accelerate(model):
        want = alone(model)
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        if reentrant:
            model.enable_input_require_grads()
        assert_same(packed(model, rows=1, **arguments("position_ids", 1)), want)


@pytest.mark.parametrize("family", ["mamba2", "qwen3_next"])
def test_rows_of_documents_with_padding(family):
    model = build(family)
    first, second, third = documents()[:3]
    ids = torch.zeros(2, 17, dtype=torch.long)
    ids[0], ids[1, -9:] = torch.cat([first, second, third]), second
    positions = torch.cat([torch.arange(5), torch.arange(9), torch.arange(3)])
    positions = torch.stack([positions, torch.arange(17).sub(8).clamp(min=0)])
    with seqconv.accelerate(model), torch.no_grad():
        got = model(ids, attention_mask=(ids > 0).long(), position_ids=positions).logits
        for row, end, document in ((0, 5, first), (0, 14, second), (0, 17, third), (1, 17, second)):
            want = model(document[None], use_cache=False).logits[0]
            assert_near(got[row, end - len(document) : end], want)


def test_transformers_mixes_the_documents_of_a_qwen3_next_without_a_word():
    model, row = build("qwen3_next"), arguments("position_ids", 1)
    want, _ = alone(model)
    got, _ = packed(model, rows=1, **row)
    assert (got - want).abs().max() > 0.05
    with seqconv.accelerate(model):
        assert_near(packed(model, rows=1, **row)[0], want)
    if RELEASE >= (5, 20):
        with pytest.raises(ValueError, match="can't keep packed sequences apart"):
            model(torch.cat(documents())[None], **arguments("seq_idx", 1))


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=[] if f in ("mamba", "qwen3_next") else pytest.mark.slow) for f in PACKING]
)
@pytest.mark.parametrize("flash", [False, True])
def test_trainer_with_packing_trains_as_on_documents_alone(tmp_path, family, flash):
    data = [{"input_ids": ids.tolist()} for ids in documents() if len(ids) > 1]
    quiet = {"output_dir": str(tmp_path), "report_to": [], "use_cpu": True, "save_strategy": "no", "seed": 0}
    options = TrainingArguments(
        **quiet, max_steps=3, per_device_train_batch_size=len(data), learning_rate=1e-2, logging_steps=1
    )

    def losses(collator):
        model = build(family)
        with seqconv.accelerate(model):
            trainer = Trainer(model, options, train_dataset=data, data_collator=collator)
            trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    got = losses(DataCollatorWithFlattening(return_flash_attn_kwargs=flash, return_seq_idx=flash))
    assert got == pytest.approx(losses(_padding_collator), rel=1e-3)
    assert got[0] > got[-1]


def _padding_collator(features):
    """One document per row, padded on the right."""
    longest = max(len(f["input_ids"]) for f in features)
    ids = torch.zeros(len(features), longest, dtype=torch.long)
    for row, feature in enumerate(features):
        ids[row, : len(feature["input_ids"])] = torch.tensor(feature["input_ids"])
    return {
        "input_ids": ids,
        "attention_mask": (ids > 0).long(),
        "labels": ids.masked_fill(ids == SIZES["pad_token_id"], -100),
    }


def test_packed_documents_and_a_cache_exclude_each_other():
    model = build("mamba")
    ids = torch.cat(documents())[None]
    with seqconv.accelerate(model):
        for kind in ("seq_idx", "position_ids"):
            with pytest.raises(ValueError, match="packed documents together with a cache"):
                model(ids, use_cache=True, **arguments(kind, 1))
        with pytest.raises(ValueError, match="disagree"):
            model(ids, seq_idx=torch.zeros_like(ids), cu_seq_lens_q=arguments("cu_seq_lens", 1)["cu_seq_lens_q"])
        assert model(ids).logits.isfinite().all()


@pytest.mark.parametrize("bounds", [[0, 5, 14], [0, 5, 40], [5, 34], [0, 9, 5, 34], [0]])
def test_boundaries_that_do_not_cover_the_tokens(bounds):
    model, bounds = build("jamba"), torch.tensor(bounds, dtype=torch.int32)
    with seqconv.accelerate(model), pytest.raises(ValueError, match=r"rise from 0 to batch \* length = 34"):
        model(torch.cat(documents())[None], cu_seq_lens_q=bounds, cu_seq_lens_k=bounds)


@torch.no_grad()
def test_positions_that_know_nothing_of_the_documents():
    """Those that go on over the row, and those of images: attention layers see where documents begin all the same."""
    for family, rank in (("jamba", 2), ("qwen3_next", 2), ("qwen3_5", 3), ("qwen3_5", 4)):
        model, ids = build(family), torch.cat(documents())[None]
        want = torch.cat([model(document[None], use_cache=False).logits[0] for document in documents()])
        positions = torch.arange(ids.shape[1])[None]
        positions = positions if rank == 2 else positions.expand(rank, 1, -1)
        with seqconv.accelerate(model):
            assert_near(model(ids, position_ids=positions, **arguments("seq_idx", 1)).logits[0], want)


@pytest.mark.parametrize("family", ["qwen3_next", "granitemoehybrid"])
@torch.no_grad()
def test_the_loss_that_balances_experts_leaves_padding_out(family):
    if family == "granitemoehybrid" and RELEASE < (5, 20):
        pytest.skip("its loss is 0 in transformers")
    model, ids = build(family), torch.cat(documents())[None]
    options = {"output_router_logits": True, "use_cache": False}
    with seqconv.accelerate(model):
        want = model(ids, **options, **arguments("position_ids", 1)).aux_loss
        ids, positions = (F.pad(t, (0, 9)) for t in (ids, arguments("position_ids", 1)["position_ids"]))
        got = model(ids, position_ids=positions, attention_mask=(ids > 0).long(), **options).aux_loss
    assert_near(got, want)


def test_packed_documents_of_a_family_that_was_not_checked(monkeypatch):
    model = build("mamba")
    monkeypatch.delitem(KNOWN, "mamba")
    with seqconv.accelerate(model):
        assert "not checked" in repr(seqconv.integrations.transformers.active()[0])
        with pytest.raises(ValueError, match="packed documents in a model of family 'mamba'"):
            model(torch.cat(documents())[None], **arguments("seq_idx", 1))


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - set(PACKING)))
def test_attention_by_an_indexer_keeps_no_documents_apart(family):
    model = build(family)
    with (
        seqconv.accelerate(model),
        pytest.raises(ValueError, match=f"packed documents.*family '{family}'"),
    ):
        model(torch.cat(documents())[None], **arguments("position_ids", 1))


def test_attention_that_takes_no_mask_of_documents(monkeypatch):
    model = build("granitemoehybrid")
    monkeypatch.setattr(model.config, "_attn_implementation_internal", "flash_attention_2")
    with seqconv.accelerate(model), pytest.raises(ValueError, match=r"granitemoehybrid.*attn_implementation='sdpa'"):
        model(torch.cat(documents())[None], **arguments("seq_idx", 1))
