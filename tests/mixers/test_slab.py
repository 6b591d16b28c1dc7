"""SLAB: golden attention over a window and golden norm; its causal form; the norm's schedule; errors."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_variant
from seqconv import create_mixer, from_original
from seqconv.layers.norms import create_norm
from tolerances import assert_near

TOLERANCE = (1e-9, 1e-10)
FOLDER, ATTENTION, NORM = "scan/slab", "xinghaochen/SLAB:SimplifiedLinearAttention", "xinghaochen/SLAB:RepBN"


def check(case, imported):
    x = case.tensors["in.x"].double().requires_grad_()
    y = imported(x)
    assert_close(y, case.tensors["out.y"], *TOLERANCE, "output")
    (y * case.tensors["cot.y"]).sum().backward()
    assert_close(x.grad, case.tensors["grad.in.x"], *TOLERANCE, "gradient of the input")
    check_gradients(imported, case.group("grad.param"), *TOLERANCE)


def test_golden_attention_over_a_window():
    case = load_variant(FOLDER, "simplified_linear_attention")
    hyper = {"dim": case.meta["dim"], "window_size": case.meta["window"], "num_heads": case.meta["heads"]}
    check(case, Imported(ATTENTION, case.group("param"), hyper))


@pytest.mark.parametrize("variant", ["repbn_eval", "repbn_train_stats"])
def test_golden_norm(variant):
    case = load_variant(FOLDER, variant)
    imported = Imported(NORM, case.group("param"), {"channels": 16})
    imported.module.train("train" in variant)
    check(case, imported)


def test_the_causal_form_is_a_ratio_of_sums_and_a_convolution():
    torch.manual_seed(0)
    mixer = create_mixer("slab", 8, num_heads=2, max_positions=20).double()
    torch.nn.init.normal_(mixer.positions)
    x = torch.randn(2, 11, 8, dtype=torch.float64)
    q, k, v = mixer.qkv_proj(x).chunk(3, dim=-1)
    q, k, v = (t.unflatten(-1, (2, 4)) for t in (q.relu(), (k + mixer.positions[:11]).relu(), v))
    scores = torch.einsum("bihd,bjhd->bhij", q, k).tril()
    weights = scores / (scores.sum(-1, keepdim=True) + 1e-6)
    local = torch.stack([mixer.conv1d(v[:, :, head])[0] for head in range(2)], dim=2)
    assert_near(mixer(x), mixer.o_proj((torch.einsum("bhij,bjhd->bihd", weights, v) + local).flatten(2)))


def test_the_norm_goes_from_layer_to_batch_in_training():
    torch.manual_seed(0)
    norm = create_norm("prep_batch", 6, steps=4, warmup_steps=2).double()
    torch.nn.init.constant_(norm.alpha, 0.5)
    x = torch.randn(3, 7, 6, dtype=torch.float64)
    layer, batch = norm.layer(x), (x - x.mean((0, 1))) / (x.var((0, 1), correction=0) + 1e-5).sqrt() + 0.5 * x
    for share in (1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0):
        assert_near(norm(x), share * layer + (1 - share) * batch)
    assert norm.batch.tokens.num_batches_tracked == 6  # the warm-up has the layer norm alone
    assert_near(norm.batch.tokens.running_mean, (1 - 0.9**6) * x.mean((0, 1)))
    norm.eval()
    scale, shift = norm(torch.eye(6, dtype=torch.float64)[None])[0], norm(torch.zeros(1, 1, 6, dtype=torch.float64))
    assert_near(norm(x), x @ (scale - shift[0]) + shift)  # what a Linear layer before or after it can take in
    assert create_norm("prep_batch", 4).remaining == 300_000


def test_a_norm_of_the_original_goes_on_where_it_was():
    """Its share of the layer norm is that of ``total_step`` of the file, whatever the constructor was given."""
    torch.manual_seed(0)
    names = ("norm1.weight", "norm1.bias", "norm2.bn.weight", "norm2.bn.bias", "norm2.bn.running_mean")
    params = {name: torch.randn(6, dtype=torch.float64) for name in names}
    params |= {"norm2.alpha": torch.randn(1).double(), "norm2.bn.running_var": torch.rand(6).double() + 0.5}
    counts = {"norm2.bn.num_batches_tracked": 7, "warm": 0, "iter": 3, "total_step": 8}
    params |= {name: torch.tensor(count) for name, count in counts.items()}
    name, options = "xinghaochen/SLAB:LinearNorm", {"dim": 6, "norm1": "layernorm(eps=1e-06)", "norm2": "RepBN"}
    norm = from_original(name, params, **options).train()
    x = torch.randn(3, 7, 6, dtype=torch.float64)
    layer = torch.nn.functional.layer_norm(x, (6,), params["norm1.weight"], params["norm1.bias"], 1e-6)
    batch = (x - x.mean((0, 1))) / (x.var((0, 1), correction=0) + 1e-5).sqrt() * params["norm2.bn.weight"]
    batch = batch + params["norm2.bn.bias"] + params["norm2.alpha"] * x
    for share in (3 / 8, 2 / 8, 1 / 8, 0, 0):
        assert_near(norm(x), share * layer + (1 - share) * batch)
    for wrong in ({"r0": 0.5}, {"norm1": "batchnorm1d"}):
        with pytest.raises(ValueError, match=r"received (r0=0.5|norm1='batchnorm1d')"):
            from_original(name, params, **options | wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "heads that divide the width"),
        ({"d_conv": 4, "bidirectional": True}, "an odd number"),
        ({"window": (2, 2)}, "height and width with bidirectional=True"),
    ],
)
def test_options_out_of_range_raise(options, message):
    with pytest.raises(ValueError, match=message):
        create_mixer("slab", 8, **options)


def test_sequences_beyond_the_table_or_the_window_raise():
    with pytest.raises(ValueError, match=r"a sequence of 9 tokens.*at most max_positions=8.*Remedy"):
        create_mixer("slab", 8, max_positions=8)(torch.zeros(1, 9, 8))
    with pytest.raises(ValueError, match=r"9 tokens.*2 x 4 tokens.*Remedy: cut the image"):
        create_mixer("slab", 8, window=(2, 4), bidirectional=True)(torch.zeros(1, 9, 8))


@pytest.mark.slow
def test_compiled_norms_have_the_gradients_of_their_step(unannotated):
    gradients = []
    for compiled in (False, True):
        torch.manual_seed(0)
        norm = create_norm("prep_batch", 4, steps=4).double().train()
        x = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
        torch.compiler.reset()
        (torch.compile(norm, backend="aot_eager") if compiled else norm)(x).pow(3).sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)
