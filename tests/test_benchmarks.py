"""The harness of the benchmarks: its gate, its table, its plot and what it says of memory."""

import json
import re

import pytest
import torch

from benchmarks import decoding, int8_perplexity, mamba_gguf, results_page
from benchmarks.__main__ import RESULTS, text_table
from benchmarks.case import Case, channel_first, compare
from benchmarks.measure import Ceilings
from benchmarks.memory import extra
from benchmarks.page import PAGE, SECTION, ratios, update
from benchmarks.plot import plot
from benchmarks.spectral_lds import POOL, spectral_lds
from benchmarks.table import OPS, build
from benchmarks.training_steps import ORIGINALS, row
from lra.report.markup import marks

CEILINGS = Ceilings(copy=1e9, multiply=1e9)


def halved(x):
    return x / 2


def case(**contenders):
    return Case("halving", "64 numbers", 64, {"x": torch.randn(1, 64, 1)}, {"seqconv": halved, **contenders}, 64.0)


def test_contenders_that_disagree_are_not_timed():
    with pytest.raises(RuntimeError, match=r"halving, wrong: the contenders differ by .*nothing was timed"):
        compare(case(wrong=lambda x: x / 3), 0.0, CEILINGS)


def test_gradients_that_disagree_are_not_timed():
    def same_value(x):
        return x.detach() / 4 + x / 4

    with pytest.raises(RuntimeError, match="the contenders differ"):
        compare(case(cut=same_value), 0.0, CEILINGS)


def test_rows_name_both_directions_and_the_floor():
    rows = compare(case(other=lambda x: x * 0.5), 0.0, CEILINGS)
    assert [row["direction"] for row in rows] == ["forward", "forward + backward"]
    assert rows[0]["floor"] == {"ms": pytest.approx(1e3 * 2 * 64 * 4 / 1e9), "bound": "memory"}


def test_a_layout_changes_the_memory_alone():
    x = torch.randn(2, 5, 3)
    assert torch.equal(channel_first(x), x)
    assert channel_first(x).stride() == (15, 1, 5)


def test_table_gives_the_ratio_to_the_best_of_the_others():
    row = {
        "shape": "s", "direction": "forward", "ms": {"seqconv": 2.0, "a": 9.0, "b": 6.0},
        "floor": {"ms": 1.0, "bound": "memory"}, "mb": {"seqconv": 3.0},
    }  # fmt: skip
    text = text_table("op", {"machine": {"threads": 1}, "ceilings": {"copy": 2e10, "multiply": 1e11}, "rows": [row]})
    assert "| s | forward | 2.00 | a 9.0, b 6.0 | 3.0 | 1.00 (memory) | 50% | seqconv 3 |" in text
    assert "copy 20.0 GB/s, float32 matrix product 100 GFLOP/s" in text


def test_plot_draws_every_contender(tmp_path):
    rows = [
        {
            "length": length, "direction": direction, "ms": {"seqconv": 1.0, "peer": 2.0},
            "mb": {"seqconv": 1.0, "peer": 2.0}, "floor": {"ms": 0.5, "bound": "memory"},
        }
        for length in (64, 128)
        for direction in ("forward", "forward + backward")
    ]  # fmt: skip
    plot({"rows": rows}, "op", tmp_path / "op.svg")
    text = (tmp_path / "op.svg").read_text()
    assert all(f"<!-- {name} -->" in text for name in ("seqconv", "peer", "floor of this machine"))


def test_memory_of_a_call_is_that_of_its_output_at_least():
    megabytes = extra("causal_conv1d", "2048", "seqconv", "forward")
    assert 2048 * 1536 * 4 / 1e6 <= megabytes <= 60


@pytest.mark.parametrize("op", OPS)
def test_every_shape_of_the_table_can_be_built(op):
    module = __import__(f"benchmarks.{op}", fromlist=[op])
    smallest = build(op, str(module.SWEEP[0]))
    assert next(iter(smallest.contenders)) == "seqconv"
    assert len(smallest.contenders) > 1
    assert set(module.NAMES) == {build(op, name).shape for name in module.NAMES}


def test_the_page_of_ops_shows_the_committed_results():
    if not RESULTS.exists():
        pytest.skip("measured results are not part of this copy")
    opens, closes = marks(SECTION)
    assert f"{opens}\n{ratios(RESULTS)}\n{closes}" in PAGE.read_text(), "run python -m benchmarks table"


def test_ratios_are_taken_from_the_files_of_ops_alone(tmp_path):
    machine = dict.fromkeys(("processor", "instruction_set", "cores", "python", "torch", "transformers"), "x")
    report = {
        "machine": machine | {"threads": 2, "load": 0.1},
        "rows": [{"shape": "s", "direction": "forward", "ms": {"seqconv": 2.0, "a": 9.0, "b": 6.0}}],
    }
    for name in ("ssd-2-threads-x", "ssd-2-threads-x-sweep", "step_share-2-threads"):
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    page = tmp_path / "page.md"
    page.write_text("before\n" + "old\n".join(marks(SECTION)))
    update(tmp_path, page)
    assert page.read_text().count("| `ssd` | s | forward | 2 | x | 0.1 | 2.0 | a 4.5, b 3.0 |") == 1
    assert "step_share" not in page.read_text()


def test_the_table_of_accelerated_families(tmp_path):
    ms, mb = {"transformers": 6.0, "seqconv": 2.0}, {"transformers": 8.0, "seqconv": 2.0}
    names = dict.fromkeys(("processor", "instruction_set", "threads", "torch", "transformers", "date"), "x")
    rows = [{"shape": "mamba", "direction": "prefill", "ms": ms}]
    rows.append({"shape": "mamba", "direction": "training step", "ms": ms, "mb": mb})
    (tmp_path / "figures.json").write_text(json.dumps({"machine": names, "rows": rows}))
    text = results_page.accelerated_table(tmp_path / "figures.json")
    assert "| family | prefill | training step | training memory |" in text
    assert "| mamba | 3.0 × | 3.0 × | 0.25 |" in text
    opens, closes = marks(results_page.ACCELERATE_SECTION)
    assert opens in results_page.ACCELERATE_PAGE.read_text()
    assert closes in results_page.ACCELERATE_PAGE.read_text()


def test_committed_results_name_machine_and_versions():
    for path in RESULTS.glob("*-thread*.json"):
        machine = json.loads(path.read_text())["machine"]
        assert {"processor", "threads", "load", "torch"} <= set(machine), path
        assert re.match(r"\d+\.\d+", machine["torch"])


@pytest.mark.parametrize("original", [o for o in ORIGINALS if o.file is None], ids=lambda o: o.name.rpartition(":")[2])
def test_layers_agree_with_the_originals_that_their_training_steps_are_timed_against(original):
    timed = row(original, (1, 9, 256), 0.0)
    assert timed["original"] == original.name
    assert set(timed["ms"]) == {"seqconv", "original"}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # transformers warns of its own deprecations
def test_tokens_of_whole_models_are_timed_after_their_logits_agree(capsys):
    rows = decoding.measure(0.0, decoding.Sizes(vocabulary=64, width=32, layers=2, prompt=8))
    kinds = [(row["shape"], row["direction"]) for row in rows]
    mamba = [(f"Mamba-130M, {weights}", "token") for weights in ("float32", "bfloat16", "int8")]
    assert kinds == [*mamba, ("Mamba-130M, float32", "prefill"), ("GPT-2's size, float32", "token")]
    assert all({"seqconv"} < set(row["ms"]) for row in rows)
    absent = mamba_gguf.unavailable() is not None
    assert absent == ("llama.cpp is left out" in capsys.readouterr().out)
    assert absent == ("llama.cpp" not in rows[0]["ms"])


def test_int8_weights_are_compared_on_text_that_was_held_out(tmp_path, capsys):
    small = {"steps": 2, "length": 32, "batch": 2, "width": 64, "layers": 1, "windows": 4}
    arguments = [part for name, value in small.items() for part in (f"--{name}", str(value))]
    found = int8_perplexity.main([*arguments, "--mixers", "attention", "--out", str(tmp_path / "int8")])
    rows = json.loads((tmp_path / "int8.json").read_text())["rows"]
    assert rows == found["rows"]
    assert [row["weights"] for row in rows] == ["float32", "int8, scale per row", "int8, scale per 64"]
    assert all(1 < row["perplexity"] < 300 for row in rows)
    assert all(0 < abs(row["loss %"]) < 1 for row in rows[1:])
    assert "| attention |" in capsys.readouterr().out
    training, held = int8_perplexity.texts()
    assert len(training) > len(held) > 100_000


def test_a_bank_of_real_poles_is_chosen_and_certified():
    """A pole of the pool comes back; more poles leave less of filters that are sums over several."""
    pool = 1 - torch.logspace(-5, 0, POOL + 1, dtype=torch.float64)[:-1]
    powers = torch.stack([pool[150], -pool[300], pool[330]])[:, None] ** torch.arange(199)
    for poles, order, bound in ((powers[1:2], 1, 1e-5), (powers, 8, 2e-2)):
        h = torch.cat([torch.ones(4, 1).double(), torch.randn(4, len(poles), dtype=torch.float64) @ poles], dim=1)
        found = spectral_lds(h, order)
        error = (found.filter(200).detach().double() - h).norm(dim=1) / h.norm(dim=1)
        assert float(error.max()) < bound
        assert (found.certificate.hinf_bound >= found.certificate.lower_bound).all()
